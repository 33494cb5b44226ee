"""Means over random probes: their standard error, and when it is small enough."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flatmin.flatness.cost import Cost

#: Samples below which a standard error is not trusted to end anything.
FEWEST = 6


@dataclass(frozen=True)
class Estimate:
    """A mean over independent samples.

    Args:
        value: the mean.
        error: its standard error.
        samples: how many there are.
        tol: the relative error that was asked for; infinite if none was.
        cost: what it took.
    """

    value: float
    error: float
    samples: int
    tol: float
    cost: Cost

    @property
    def converged(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tol * abs(self.value)


def mean_and_error(samples: list[float]) -> tuple[float, float]:
    """The mean and its standard error; the latter infinite for a single sample."""
    if len(samples) < 2:
        return statistics.fmean(samples), math.inf
    if not all(map(math.isfinite, samples)):
        return sum(samples) / len(samples), math.inf
    return statistics.fmean(samples), statistics.stdev(samples) / math.sqrt(len(samples))


def enough(samples: list[float], tol: float, offset: float = 0.0) -> bool:
    """Whether a mean is known to a relative error.

    Args:
        samples: of the mean.
        tol: the standard error allowed, as a fraction of |mean + offset|.
        offset: a part of the result that has no error.
    """
    if len(samples) < FEWEST:
        return False
    mean, error = mean_and_error(samples)
    return error <= tol * abs(mean + offset)


def signs(count: int, length: int, generator: torch.Generator) -> Tensor:
    """Random signs, (count, length) float64 on the CPU: the same on every device and process for one seed."""
    return torch.randint(2, (count, length), generator=generator).double().mul_(2).sub_(1)


def blocks(total: int, size: int) -> Iterator[int]:
    """Sizes that add up to a total, each at most `size`."""
    for done in range(0, total, size):
        yield min(size, total - done)

"""Random directions with independent, or at least uncorrelated, components of mean 0 and variance 1."""

from __future__ import annotations

import math

from flatmin.checks import one_of
from flatmin.protocol import Number, Vec, Weights
from flatmin.vectors.tangents import elements

DISTRIBUTIONS = ("gaussian", "rademacher", "sphere")


def check_distribution(name: str) -> None:
    """Refuse an unknown distribution.

    Raises:
        ValueError: it is unknown.
    """
    one_of("distribution", name, DISTRIBUTIONS)


def tangent(w: Weights, distribution: str) -> Vec:
    """A draw: standard normal, random signs, or uniform on the sphere of radius √n. It occupies no memory.

    Raises:
        TypeError: parameters are complex.
    """
    if any(value is not None and value.is_complex() for value in w.values):
        raise TypeError("gradients can be estimated for real parameters only, got complex ones; leave gradient out")
    if distribution == "rademacher":
        return w.random_signs()
    v = w.randn()
    if distribution == "gaussian":
        return v
    length = v.norm()  # over all parameters, also where the tangent is used for some of them
    return Number(lambda _: math.sqrt(elements(w)) / length.value(w.scope), v) * v

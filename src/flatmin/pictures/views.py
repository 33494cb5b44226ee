"""Which slices of trained networks are looked at, and their losses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from rich.console import Console
from torch import Tensor

from flatmin import landscape
from flatmin.landscape import Affine, Path, Segment, Slice
from flatmin.preserve import preserved
from flatmin.study.minima.trained_network import TrainedNetwork
from flatmin.study.progress import track

#: In words.
STATISTICS = {
    "auto": "around a network its own, between networks and along a training computed anew at every point",
    "frozen": "the network's own everywhere",
    "rebuilt": "computed anew at every point",
}

#: The axes of the plane of a training.
AXES = {
    "ends": ("from the end to the start, units of w", "across, units of w"),
    "pca": ("first principal component, units of w", "second principal component, units of w"),
}


@dataclass(frozen=True)
class View:
    """What to look at.

    Args:
        directions: random ones for lines through each network, >= 1.
        points: of a line, >= 3, one more if that makes the number odd; a plane has half as many on a side.
        radius: how far to go along random directions, > 0; 1 is as far as the weights are from zero.
        normalise: filter, tensor or none, see `flatmin.landscape.random_direction`.
        statistics: BatchNorm's. frozen: those of the network. rebuilt: computed anew at every point. auto: frozen
            around a network, rebuilt between networks and along a training.
        plane: of a training: ends or pca, see `flatmin.landscape.plane_of`.
        seed: of the directions, >= 0.
    """

    directions: int = 3
    points: int = 41
    radius: float = 1.0
    normalise: Literal["filter", "tensor", "none"] = "filter"
    statistics: Literal["auto", "frozen", "rebuilt"] = "auto"
    plane: Literal["ends", "pca"] = "ends"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("directions", 1), ("points", 3), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be >= {low}, got {getattr(self, name)}")
        if not 0 < self.radius < math.inf:
            raise ValueError(f"radius must be > 0, got {self.radius}")


@dataclass(frozen=True, eq=False)
class Seen:
    """What was looked at, by name of the network; lines by the names of both ends.

    Args:
        curves: lines through each network, one for each random direction.
        planes: through each, along two of them.
        lines: from the first network to each of the others; 0 is the first.
        paths: trainings in their planes.
    """

    curves: dict[str, list[Slice]] = field(default_factory=dict)
    planes: dict[str, Slice] = field(default_factory=dict)
    lines: dict[str, Slice] = field(default_factory=dict)
    paths: dict[str, tuple[Path, Slice]] = field(default_factory=dict)


def look(minima: Sequence[TrainedNetwork], view: View, console: Console) -> Seen:
    """Measure everything that is drawn; equal seeds give all networks of one architecture the same draws.

    Raises:
        ValueError: a network's own loss is not finite, or two networks are not of one architecture.
    """
    seen = Seen()
    for one in minima:
        _check(one, minima[0])
        axes = [
            landscape.random_direction(one.net, torch.Generator().manual_seed(view.seed + i), view.normalise)
            for i in range(max(2, view.directions))
        ]
        here = landscape.weights(one.net)
        x = _both_ways(view.radius, view.points)
        around = "frozen" if view.statistics == "auto" else view.statistics
        seen.curves[one.name] = [
            _losses(one, Affine(here, (axis,)), x, None, around, f"{one.name}, line {i}", console)
            for i, axis in enumerate(axes[: view.directions], start=1)
        ]
        side = _both_ways(view.radius, view.points // 2)
        frame = Affine(here, (axes[0], axes[1]))
        seen.planes[one.name] = _losses(one, frame, side, side, around, f"{one.name}, plane", console)
    between = "rebuilt" if view.statistics == "auto" else view.statistics
    first = minima[0]
    for other in minima[1:]:
        name = f"{first.name} to {other.name}"
        segment = Segment(landscape.weights(first.net), landscape.weights(other.net))
        quarter = max(1, round(view.points / 6))
        t = torch.arange(-quarter, 5 * quarter + 1, dtype=torch.float64) / (4 * quarter)  # with 0 and 1 among them
        seen.lines[name] = _losses(first, segment, t, None, between, name, console)
    for one in minima:
        if len(one.path) >= 3:
            path = landscape.plane_of([landscape.point(one.net, state) for state in one.path], view.plane)
            x, y = (_around(values, max(3, view.points // 2)) for values in path.coordinates.T)
            sheet = _losses(one, path.frame, x, y, between, f"{one.name}, training", console)
            seen.paths[one.name] = path, sheet
    return seen


def _check(one: TrainedNetwork, first: TrainedNetwork) -> None:
    """Refuse what there is no landscape of."""
    shapes = [[(name, p.shape) for name, p in each.net.named_parameters()] for each in (one, first)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{one.name} is not of the same architecture as {first.name}; draw them one by one")
    with preserved(one.net, training=False):
        loss = landscape.mean_loss(one.net, one.loss, one.examples)
    if not math.isfinite(loss):
        why = f", as its training diverged in epoch {one.diverged:g}" if one.diverged is not None else ""
        raise ValueError(f"{one.name}: the loss at its weights is {loss}{why}; there is no landscape to draw")


def _losses(
    one: TrainedNetwork,
    frame: landscape.Frame,
    x: Tensor,
    y: Tensor | None,
    statistics: str,
    label: str,
    console: Console,
) -> Slice:
    def progress(points: Sequence[tuple[float, ...]]) -> Iterable[tuple[float, ...]]:
        return track(points, len(points), len(points), label, console, "points")

    options = {"statistics": statistics, "progress": progress}
    if y is None:
        return landscape.along(one.net, one.loss, one.examples, frame, x, **options)
    return landscape.over(one.net, one.loss, one.examples, frame, x, y, **options)


def _both_ways(radius: float, count: int) -> Tensor:
    """At least `count` coordinates, 0 exactly in the middle."""
    half = max(1, count // 2)
    return radius * torch.arange(-half, half + 1, dtype=torch.float64) / half


def _around(values: Tensor, count: int) -> Tensor:
    """Coordinates from below all `values` to above."""
    low, high = values.min().item(), values.max().item()
    margin = 0.2 * (high - low)
    return torch.linspace(low - margin, high + margin, count, dtype=torch.float64)

"""Where in weight space to look: points of a line or a plane, as weights of one network.

A point or a direction is a list of tensors, one for each of `model.parameters()`, in that order. Buffers, such as
BatchNorm's running statistics, are not part of it: see `flatmin.landscape.slices`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

Normalise = Literal["filter", "tensor", "none"]
Through = Literal["ends", "pca"]


class Frame(Protocol):
    """Coordinates of a part of weight space."""

    def place(self, parameters: Iterable[Tensor], coordinates: Sequence[float]) -> None:
        """Write the point with these `coordinates` into `parameters`."""


@dataclass(frozen=True, eq=False)
class Affine:
    """origin + Σ cᵢ axisᵢ; all coordinates zero give the origin bit for bit.

    Args:
        origin: a point.
        axes: directions.
    """

    origin: list[Tensor]
    axes: tuple[list[Tensor], ...]

    def place(self, parameters: Iterable[Tensor], coordinates: Sequence[float]) -> None:
        """Write the point into `parameters`."""
        for p, start, *directions in zip(parameters, self.origin, *self.axes, strict=True):
            p.copy_(start)
            for c, direction in zip(coordinates, directions, strict=True):
                if c:
                    p.add_(direction, alpha=c)


@dataclass(frozen=True, eq=False)
class Segment:
    """The straight line through two points: 0 gives the one and 1 the other, both bit for bit.

    Args:
        start: the point at 0.
        end: the point at 1.
    """

    start: list[Tensor]
    end: list[Tensor]

    def place(self, parameters: Iterable[Tensor], coordinates: Sequence[float]) -> None:
        """Write the point into `parameters`."""
        (t,) = coordinates
        for p, start, end in zip(parameters, self.start, self.end, strict=True):
            p.copy_(torch.lerp(start, end, t))  # which begins at the nearer end


@dataclass(frozen=True, eq=False)
class Path:
    """A training in the plane that shows most of it.

    Args:
        frame: its origin is the last point, its axes have length 1.
        coordinates: (points, 2) float64, each point projected onto the plane.
        explained: the share of the squared distances to the last point that lies in the plane, in [0, 1].
    """

    frame: Affine
    coordinates: Tensor
    explained: float


def weights(model: nn.Module) -> list[Tensor]:
    """A copy of the weights of `model`, as a point."""
    return [p.detach().clone() for p in model.parameters()]


def point(model: nn.Module, state: Mapping[str, Tensor]) -> list[Tensor]:
    """The weights in a state dict of `model`, on its devices. Raises KeyError for one that the state dict lacks."""
    return [state[name].detach().to(p) for name, p in model.named_parameters()]


def random_direction(
    model: nn.Module, generator: torch.Generator, normalise: Normalise = "filter", *, vectors: bool = False
) -> list[Tensor]:
    """A random direction, scaled as the weights are.

    Weights of a network that is the same function can be large in one layer and small in the next, so one step along a
    plain random direction means different things in different networks. Filter normalisation (H. Li, Z. Xu, G. Taylor,
    C. Studer, T. Goldstein, "Visualizing the Loss Landscape of Neural Nets", 2018, arXiv 1712.09913) gives every filter
    of the direction the length of the network's own: d ← d ‖w‖ / ‖d‖, filter by filter.

    Args:
        model: the network.
        generator: on the CPU; of the standard normal numbers that it begins with.
        normalise: filter: as above; a filter is what makes one output, so a row of a linear layer. tensor: the same
            for whole tensors. none: as drawn.
        vectors: move biases and the parameters of normalisation layers, too, which then count as one filter each.
            Otherwise, as in the paper, they stay.

    Returns:
        One tensor for each parameter. With `filter`, coordinate 1 along it is as far as the weights are from zero.
    """
    if normalise not in ("filter", "tensor", "none"):
        raise ValueError(f"normalise must be one of 'filter', 'tensor', 'none', got {normalise!r}")
    direction = []
    for p in model.parameters():
        drawn = torch.randn(p.shape, generator=generator).to(p)  # always, so that directions of equal seeds are alike
        if p.ndim < 2 and not vectors:
            drawn.zero_()
        elif normalise != "none":
            own = _lengths(p.detach(), normalise)
            length = _lengths(drawn, normalise)
            drawn = torch.where(length > 0, drawn * own / length, 0)
        direction.append(drawn)
    return direction


def _lengths(t: Tensor, of: Normalise) -> Tensor:
    """The length of every filter of `t`, or of all of it, in a shape that broadcasts."""
    kept = t.flatten(1) if of == "filter" and t.ndim > 1 else t.reshape(1, -1)
    lengths: Tensor = torch.linalg.vector_norm(kept, dim=1)
    return lengths.view(-1, *[1] * (t.ndim - 1)) if t.ndim else lengths.squeeze()


def plane_of(path: Sequence[list[Tensor]], through: Through = "ends") -> Path:
    """The plane that shows most of a training.

    Args:
        path: three points or more, in order, not all on one line.
        through: ends: the first axis points from the last point to the first, the second is the first principal
            component of what that leaves over of the others' distances to the last; so both ends lie in the plane.
            pca: the first two principal components of all distances to the last, as Li et al. draw it; more of the
            distances lies in it, and the first point need not.

    Raises:
        ValueError: they are fewer, on one line, or `through` is unknown.

    Cost: memory for one more point than the two axes; inner products of all pairs.
    """
    if through not in ("ends", "pca"):
        raise ValueError(f"through must be one of 'ends', 'pca', got {through!r}")
    if len(path) < 3:
        raise ValueError(f"path must have at least 3 points, got {len(path)}")
    last = path[-1]
    products = torch.tensor([[_inner(a, b, last) for b in path] for a in path], dtype=torch.float64)
    combine = _joining_ends(products) if through == "ends" else _principal(products)
    axes: tuple[list[Tensor], list[Tensor]] = [], []
    for tensors in zip(*path, strict=True):
        for axis, weights_of_points in zip(axes, combine.tolist(), strict=True):
            axis.append(torch.zeros_like(tensors[-1]))
            for c, t in zip(weights_of_points, tensors, strict=True):
                axis[-1].add_(t - tensors[-1], alpha=c)
    coordinates = products @ combine.T
    explained = (coordinates.square().sum() / products.trace()).item()
    return Path(Affine(last, axes), coordinates, explained)


def _joining_ends(products: Tensor) -> Tensor:
    """How much of each point, as seen from the last, is in either axis of the plane through both ends: (2, points)."""
    length = math.sqrt(products[0, 0])
    if not length:
        raise ValueError("path ends where it begins, so there is no line through both ends; leave the first point out")
    along = products[0] / length
    values, vectors = torch.linalg.eigh(products - torch.outer(along, along))
    start = torch.eye(len(products), dtype=products.dtype)[0] / length
    across = vectors[:, -1] - (vectors[:, -1] @ along) * start
    return torch.stack([start, across / _square_root(values[-1], products)])


def _principal(products: Tensor) -> Tensor:
    """The same of the plane of the first two principal components; the first point is to the right and above."""
    values, vectors = torch.linalg.eigh(products)
    found = torch.stack([vectors[:, -i] / _square_root(values[-i], products) for i in (1, 2)])
    return found * torch.where(found @ products[0] < 0, -1, 1)[:, None]


def _square_root(value: Tensor, products: Tensor) -> float:
    """The length of what is along an axis."""
    if value <= 1e-9 * products.trace():
        raise ValueError("path is a straight line, which no plane shows better; use Segment")
    return math.sqrt(value)


def _inner(a: list[Tensor], b: list[Tensor], origin: list[Tensor]) -> float:
    """The inner product of two points as seen from `origin`."""
    terms = zip(a, b, origin, strict=True)
    return math.fsum(((x - o).double() * (y - o).double()).sum().item() for x, y, o in terms)

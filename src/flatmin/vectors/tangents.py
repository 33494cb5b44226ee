"""Sums of many vectors: a gradient put together from its components along tangents, or from single coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from flatmin.vectors.blocks import Block, Scope
from flatmin.vectors.expression import Number, Piece, Real, blocks_of, real, walk
from flatmin.vectors.vector import Only, Scaled, Tensors, Vec


class Combination(Vec):
    """Numbers times vectors, added up one vector at a time.

    Args:
        factors: one for each vector.
        vecs: the vectors, at least one.
    """

    def __init__(self, factors: Sequence[float | Number], vecs: Sequence[Vec]):
        self._terms = [Scaled(factor, vec) for factor, vec in zip(factors, vecs, strict=True)]
        self.args = tuple(self._terms)

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """The sum, in the memory of its first term."""
        total: Piece | None = None
        for term in self._terms:
            piece = term.at(block, scope)
            if total is None:
                total = piece
            elif piece is not None:
                torch._foreach_add_(total.tensors, piece.tensors)
        return total


def gram(vecs: Sequence[Vec], scope: Scope) -> Tensor:
    """The inner products of vectors, (k, k) in double precision.

    Memory: k copies of the largest parameter, in double precision.
    """

    def products(block: Block) -> Tensor | None:
        found = [vec.at(block, scope) for vec in vecs]
        rows = [torch.cat([t.reshape(-1) for t in piece.tensors]).double() for piece in found if piece is not None]
        return (stacked := torch.stack(rows)) @ stacked.t() if rows else None

    for vec in vecs:
        vec.evaluate_scalars(scope)
    parts = ((block, products(block)) for block in blocks_of(tuple(vecs), scope))
    return torch.as_tensor(scope.total((block, part) for block, part in parts if part is not None))


def projection(slopes: Sequence[Number], vecs: Sequence[Vec]) -> Vec:
    """The vector of the span of some vectors that has these inner products with them: V (VᵀV)⁻¹ d.

    Args:
        slopes: d.
        vecs: V, its k columns; dependent ones do no harm.
    """
    scope = _scope(vecs)
    inverse: list[Tensor] = []

    def coefficient(row: int, within: Scope) -> Real:
        if not inverse:
            inverse.append(torch.linalg.pinv(gram(vecs, scope), hermitian=True))
        d = [real(slope, within) for slope in slopes]
        if scope.on_cpu:
            return float(sum(a * float(b) for a, b in zip(inverse[0][row].tolist(), d, strict=True)))
        stacked = torch.stack([torch.as_tensor(b, device=inverse[0].device) for b in d])
        return (inverse[0][row] @ stacked.double()).to(stacked.dtype)

    def number(row: int) -> Number:
        return Number(lambda within: coefficient(row, within), *vecs, *slopes)

    return Combination([number(row) for row in range(len(vecs))], vecs)


class Coordinates(Vec):
    """Zero but for single elements, which are numbered through all parameters that learn.

    Args:
        w: the weights, a leaf.
        elements: number of the element -> its value.

    Raises:
        TypeError: parameters are sharded.
    """

    pointwise = False  # an element is at a place of a whole tensor

    def __init__(self, w: Tensors, elements: Mapping[int, float | Number]):
        if any(w.scope.shards):
            raise TypeError("coordinates need whole weights, got sharded ones; write gradient=flatmin.ZerothOrder()")
        self._w, self._elements = w, dict(elements)
        self.args = (w, *[value for value in elements.values() if isinstance(value, Number)])
        sizes = [0 if value is None else value.numel() for value in w.values]
        self._starts = [0, *accumulate(sizes)]

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """The elements at their places. A single parameter that has none of them takes no part."""
        piece = self._w.at(block, scope)
        if piece is None:
            return None
        parts = [self._within(i) for i in block.indices]
        if len(parts) == 1 and not parts[0]:
            return None
        tensors = [torch.zeros_like(t) for t in piece.tensors]
        for t, part in zip(tensors, parts, strict=True):
            for place, value in part.items():
                t[_position(place, t.shape)] = real(value, scope)
        return Piece(tensors, fresh=True)

    def _within(self, i: int) -> dict[int, float | Number]:
        start, end = self._starts[i : i + 2]
        return {number - start: value for number, value in self._elements.items() if start <= number < end}


def _position(number: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Where an element is, whatever the layout in memory."""
    position: list[int] = []
    for size in reversed(shape):
        number, rest = divmod(number, size)
        position.insert(0, rest)
    return tuple(position)


def elements(w: Tensors) -> int:
    """How many elements learn, over all processes."""
    pairs = zip(w.scope.params, w.values, strict=True)
    return sum(p.numel() for p, value in pairs if value is not None)


def elements_of(vecs: Sequence[Vec]) -> int:
    """How many elements tangents have, which may be restricted to some parameters."""
    leaf = next(node for node in walk(*vecs) if isinstance(node, Tensors))
    selects = [node.select for node in walk(*vecs) if isinstance(node, Only)]
    pairs = zip(leaf.scope.params, leaf.values, strict=True)
    return sum(p.numel() for p, v in pairs if v is not None and all(select(p) for select in selects))


def _scope(vecs: Sequence[Vec]) -> Scope:
    """All parameters, which the leaves of vectors know."""
    return next(node.scope for node in walk(*vecs) if node.scope is not None)


def flat(vec: Vec, w: Tensors) -> Tensor:
    """A vector as one tensor, (elements,), in double precision on the CPU."""
    vec.evaluate_scalars(w.scope)
    parts = []
    for i, value in enumerate(w.values):
        if value is not None:
            piece = vec.at(Block((i,)), w.scope)
            parts.append(torch.zeros_like(value) if piece is None else piece.tensors[0])
    return torch.cat([part.reshape(-1).double().cpu() for part in parts])

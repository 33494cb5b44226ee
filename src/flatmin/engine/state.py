"""What a method remembers between steps, in a form that `torch.load(weights_only=True)` reads.

Inside a step memory holds expressions (Vec, Number). Between steps it holds lists of tensors, one per parameter,
tensors of no dimension, and plain numbers, in dicts as the method arranged them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flatmin.protocol import Method
from flatmin.vectors.blocks import Scope, Values
from flatmin.vectors.expression import Number, pieces
from flatmin.vectors.vector import Once, Tensors, Vec, dense

Frozen = dict[str, Any]


def thaw(frozen: Frozen, scope: Scope) -> dict[str, Any]:
    """Memory as a method sees it: lists become vectors, zero-dimensional tensors become numbers."""

    def warm(value: Any) -> Any:
        if isinstance(value, dict):
            return thaw(value, scope)
        if isinstance(value, list):  # parameters added since have no entry yet: they take no part
            return Tensors(scope, scope.local(value + [None] * (len(scope.params) - len(value))))
        if isinstance(value, Tensor):
            return Number(lambda _: value)
        return value

    return {key: warm(value) for key, value in frozen.items()}


def freeze(memory: dict[str, Any], scope: Scope) -> Frozen:
    """Evaluate what a method wants remembered, into tensors of its own; half precision is kept as float32.

    Raises:
        TypeError: a value is neither a Vec, a Number, a number, a string, None, nor a dict of them.
    """

    def cold(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return freeze(value, scope)
        if isinstance(value, Vec):
            return _tensors(value, scope)
        if isinstance(value, Number):
            return value.value(scope)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(
            f"memory[{key!r}] is a {type(value).__name__}; methods remember Vecs, numbers, strings and dicts of them"
        )

    return {key: cold(key, value) for key, value in memory.items()}


def kind(method: Method) -> str:
    """The class of a method, with those of the methods that it is made of: `Every(inner=SAM, otherwise=Plain)`."""
    fields = getattr(method, "__dict__", {})
    inner = {
        name: value
        for name, value in fields.items()
        if callable(getattr(value, "direction", None)) or callable(getattr(value, "estimate", None))
    }
    parts = ", ".join(f"{name}={kind(value)}" for name, value in inner.items())
    return type(method).__name__ + (f"({parts})" if parts else "")


def check_fits(frozen: Frozen, owner: str, method: Method, params: Sequence[Tensor]) -> None:
    """Refuse loaded memory of another method, or whose vectors do not have the shapes of the parameters.

    Args:
        frozen: the memory.
        owner: the kind of method that it is of.
        method: the one that is to remember it.
        params: of the optimizer.

    Raises:
        ValueError: it is such; the message names it.
    """
    if frozen and owner != kind(method):
        raise ValueError(
            f"the checkpoint holds the memory of {owner}, and this optimizer runs {kind(method)}; to start "
            "the method afresh write state_dict['flatmin']['memory'] = {} before opt.load_state_dict(state_dict)"
        )

    def check(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                check(f"{name}[{key!r}]", part)
        elif isinstance(value, list):
            if len(value) > len(params):
                raise ValueError(f"{name} of the checkpoint has {len(value)} tensors for {len(params)} parameters")
            for i, (t, p) in enumerate(zip(value, params, strict=False)):
                if isinstance(t, Tensor) and t.shape != p.shape:
                    raise ValueError(
                        f"{name} of the checkpoint has shape {tuple(t.shape)} for parameter {i} of shape "
                        f"{tuple(p.shape)}: it belongs to another network, or its groups had another order"
                    )

    for key, value in frozen.items():
        check(f"memory[{key!r}]", value)


def to_devices(frozen: Frozen, params: Sequence[Tensor]) -> Frozen:
    """Loaded memory, its vectors beside their parameters."""

    def move(vector: list[Any]) -> list[Any]:
        return [t.to(p.device) if isinstance(t, Tensor) else None for t, p in zip(vector, params, strict=False)]

    return _each_vector(frozen, move)


def reordered(frozen: Frozen, before: Sequence[Tensor], after: Sequence[Tensor]) -> Frozen:
    """Memory whose vectors follow the parameters to new places. Parameters that were not there have no entry yet."""

    def follow(vector: list[Any]) -> list[Any]:
        entries = {id(p): t for p, t in zip(before, vector, strict=False)}
        return [entries.get(id(p)) for p in after]

    return _each_vector(frozen, follow)


def _each_vector(frozen: Frozen, change: Callable[[list[Any]], list[Any]]) -> Frozen:
    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return _each_vector(value, change)
        return change(value) if isinstance(value, list) else value

    return {key: changed(value) for key, value in frozen.items()}


def _tensors(vec: Vec, scope: Scope) -> list[Tensor | None]:
    if type(vec) is Tensors:  # remembered before and not changed since
        return _wrapped(vec.values, scope)
    values: list[Tensor | None] = [None] * len(scope.params)
    for block, piece in pieces(vec, scope, scope.tensors):
        if piece is None:
            continue
        for i, tensor in zip(block.indices, piece.tensors, strict=True):
            if values[i] is None:
                values[i] = torch.empty_like(scope.tensors[i], dtype=tensor.dtype)
        targets = block.of(values)
        assert targets is not None
        for target, tensor in zip(targets, dense(piece.tensors), strict=True):
            target.copy_(tensor)
    if isinstance(vec, Once):
        vec.keep(values)
    return _wrapped(values, scope)


def _wrapped(values: Values, scope: Scope) -> list[Tensor | None]:
    """Sharded where the parameters are, so that checkpoints know whose part a tensor is."""
    pairs = zip(values, scope.shards, strict=True)
    return [v if v is None or shards is None else shards.wrap(v) for v, shards in pairs]

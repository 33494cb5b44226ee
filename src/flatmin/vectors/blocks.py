"""Where expressions are computed: a few parameters at a time, in pieces that stay in the processor's cache.

A whole-model temporary is what makes optimizers of this family slow: 87 million floats leave the cache between one
operation and the next. So nothing here ever computes "all of δ". Expressions are evaluated block by block:

- on a CPU a block is a slice of one large tensor or a handful of small ones, at most `CPU_BLOCK` elements together;
- on an accelerator, where launching a kernel costs more than the memory it touches, a block is many whole tensors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flatmin.distributed import shards_of, total

#: Elements of one block on a CPU: one megabyte of float32. Smaller blocks spend their time on calls, larger ones drop
#: out of the cache.
CPU_BLOCK = 1 << 18
#: Elements of one block elsewhere: a temporary of at most 128 MiB of float32, a launch per 33 million weights.
DEVICE_BLOCK = 1 << 25

Values = Sequence[Tensor | None]
Select = Callable[[Tensor], bool]


class Block(NamedTuple):
    """Some parameters, by index, or one slice of a single large one."""

    indices: tuple[int, ...]
    part: int | None = None
    cuts: Cuts | None = None

    def of(self, values: Values) -> list[Tensor] | None:
        """This block's part of a list with one tensor per parameter; None where these parameters have none."""
        first = values[self.indices[0]]
        if first is None:
            return None
        if self.cuts is not None and self.part is not None:
            return [self.cuts.of(first)[self.part]]
        return [values[i] for i in self.indices]  # type: ignore[misc]  # none lacks what the first one has


class Cuts:
    """The slices of large tensors, made once for all their blocks.

    Args:
        size: elements of a slice.
    """

    def __init__(self, size: int):
        self._size = size
        self._slices: dict[int, tuple[Tensor, ...]] = {}

    def of(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Views of consecutive elements of a contiguous tensor."""
        if id(tensor) not in self._slices:
            self._slices[id(tensor)] = torch.split(tensor.view(-1), self._size)
        return self._slices[id(tensor)]


class Scope:
    """The parameters that an expression speaks of: norms run over these and no others.

    Args:
        params: every parameter of the optimizer, in the order of its groups.
        indices: the ones in scope.
        agree: what processes with different gradients do with a number that is looked at, so that all see the same.
        compiler: runs passes over the parameters as compiled functions, if there is one: see `compiled.Compiler`.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        indices: Iterable[int],
        agree: Callable[[float], float] | None = None,
        compiler: Any = None,
    ):
        self.params = params
        self.indices = tuple(indices)
        self.agree = agree
        self.compiler = compiler
        self.shards = shards_of(params)
        #: What this process holds of every parameter: nearly always the parameter.
        self.tensors: Sequence[Tensor] = self.local(params)  # type: ignore[assignment]  # no parameter is missing
        self.on_cpu = all(p.device.type == "cpu" for p in params)
        self._narrowed: dict[Select, Scope] = {}

    def local(self, values: Values) -> list[Tensor | None]:
        """What this process holds of one tensor per parameter, in the same memory."""
        return [v if s is None or v is None else s.local(v) for v, s in zip(values, self.shards, strict=True)]

    def total(self, parts: Iterable[tuple[Block, Any]]) -> Any:
        """Add up one number per block; over all processes where they hold different parts. Zero if there is none."""
        sums: dict[Any, Any] = {}
        for block, value in parts:
            shards = self.shards[block.indices[0]]
            spread = None if shards is None else shards.spread
            sums[spread] = sums[spread] + value if spread in sums else value
        return sum(total(value, spread) for spread, value in sums.items())

    def only(self, select: Select) -> Scope:
        """The same scope without the parameters that `select` refuses."""
        if select not in self._narrowed:
            self._narrowed[select] = self.keep(i for i in self.indices if select(self.params[i]))
        return self._narrowed[select]

    def keep(self, indices: Iterable[int]) -> Scope:
        """The same scope with these parameters only."""
        fewer = copy.copy(self)
        fewer.indices, fewer._narrowed = tuple(indices), {}
        return fewer

    def blocks(self, lists: Sequence[Values], selects: Sequence[Select] = (), *, cut: bool = True) -> list[Block]:
        """Cover the scope with blocks in which every list and every selector gives one answer for all parameters.

        Args:
            lists: the tensors that will be read or written, one list per role, None where a parameter has no tensor.
            selects: predicates on parameters that must be constant within a block.
            cut: whether a large tensor may be cut into slices; False for operations that need whole tensors.
        """
        alike: dict[tuple[object, ...], list[int]] = {}
        for i in self.indices:
            p, shards = self.params[i], self.shards[i]
            present = tuple([_layout(v[i]) for v in lists])
            if any(present):
                spread = None if shards is None else shards.spread
                key = (p.device, p.dtype, present, spread, tuple([select(p) for select in selects]))
                alike.setdefault(key, []).append(i)
        blocks: list[Block] = []
        for indices in alike.values():
            blocks += self._pack(indices, lists, cut)
        return blocks

    def _pack(self, indices: list[int], lists: Sequence[Values], cut: bool) -> Iterable[Block]:
        limit = CPU_BLOCK if self.tensors[indices[0]].device.type == "cpu" else DEVICE_BLOCK
        pack: list[int] = []
        room = limit
        for i in indices:
            size = self.tensors[i].numel()
            if cut and size > limit and all(_flat(v[i]) for v in lists):
                cuts = Cuts(limit)
                yield from (Block((i,), part, cuts) for part in range(math.ceil(size / limit)))
                continue
            if size > room and pack:
                yield Block(tuple(pack))
                pack, room = [], limit
            pack.append(i)
            room -= size
        if pack:
            yield Block(tuple(pack))


def _layout(tensor: Tensor | None) -> torch.layout | None:
    return None if tensor is None else tensor.layout


def _flat(tensor: Tensor | None) -> bool:
    return tensor is None or (tensor.layout == torch.strided and tensor.is_contiguous())

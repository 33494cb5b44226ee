"""Where expressions are computed: a few parameters at a time, in pieces that stay in the processor's cache.

A whole-model temporary is what makes optimizers of this family slow: 87 million floats leave the cache between one
operation and the next. So nothing here ever computes "all of δ". Expressions are evaluated block by block:

- on a CPU a block is a slice of one large tensor or a handful of small ones, at most `CPU_BLOCK` elements together;
- on an accelerator, where launching a kernel costs more than the memory it touches, a block is many whole tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: Elements of one block on a CPU. Half a megabyte of float32: three operands fit a core's second-level cache, and the
#: temporary is small enough that the allocator hands the same pages out again (measured: 2x slower at one megabyte).
CPU_BLOCK = 1 << 17
#: Elements of one block elsewhere: a temporary of at most 128 MiB of float32, a launch per 33 million weights.
DEVICE_BLOCK = 1 << 25

Values = Sequence[Tensor | None]
Select = Callable[[Tensor], bool]


class Block(NamedTuple):
    """Some parameters, by index, or the elements `start:stop` of a single one."""

    indices: tuple[int, ...]
    span: tuple[int, int] | None = None

    def of(self, values: Values) -> list[Tensor] | None:
        """This block's part of a list with one tensor per parameter; None where these parameters have none."""
        if values[self.indices[0]] is None:
            return None
        tensors = [values[i] for i in self.indices]
        if self.span is not None:
            start, stop = self.span
            return [t.view(-1)[start:stop] for t in tensors if t is not None]
        return tensors  # type: ignore[return-value]  # a block holds no parameter that lacks what the first one has


class Scope:
    """The parameters that an expression speaks of: norms run over these and no others.

    Args:
        params: every parameter of the optimizer, in the order of its groups.
        indices: the ones in scope.
    """

    def __init__(self, params: Sequence[Tensor], indices: Iterable[int]):
        self.params = params
        self.indices = tuple(indices)
        self.on_cpu = all(p.device.type == "cpu" for p in params)
        self._narrowed: dict[Select, Scope] = {}

    def only(self, select: Select) -> Scope:
        """The same scope without the parameters that `select` refuses."""
        if select not in self._narrowed:
            kept = [i for i in self.indices if select(self.params[i])]
            self._narrowed[select] = Scope(self.params, kept)
        return self._narrowed[select]

    def blocks(self, lists: Sequence[Values], selects: Sequence[Select] = (), *, cut: bool = True) -> list[Block]:
        """Cover the scope with blocks in which every list and every selector gives one answer for all parameters.

        Args:
            lists: the tensors that will be read or written, one list per role, None where a parameter has no tensor.
            selects: predicates on parameters that must be constant within a block.
            cut: whether a large tensor may be cut into slices; False for operations that need whole tensors.
        """
        alike: dict[tuple[object, ...], list[int]] = {}
        for i in self.indices:
            p = self.params[i]
            present = tuple([None if v[i] is None else v[i].layout for v in lists])  # type: ignore[union-attr]
            if any(present):
                key = (p.device, p.dtype, present, tuple([select(p) for select in selects]))
                alike.setdefault(key, []).append(i)
        blocks: list[Block] = []
        for indices in alike.values():
            blocks += self._pack(indices, lists, cut)
        return blocks

    def _pack(self, indices: list[int], lists: Sequence[Values], cut: bool) -> Iterable[Block]:
        limit = CPU_BLOCK if self.params[indices[0]].device.type == "cpu" else DEVICE_BLOCK
        pack: list[int] = []
        room = limit
        for i in indices:
            size = self.params[i].numel()
            if cut and size > limit and all(_flat(v[i]) for v in lists):
                yield from (Block((i,), (at, min(at + limit, size))) for at in range(0, size, limit))
                continue
            if size > room and pack:
                yield Block(tuple(pack))
                pack, room = [], limit
            pack.append(i)
            room -= size
        if pack:
            yield Block(tuple(pack))


def _flat(tensor: Tensor | None) -> bool:
    return tensor is None or (tensor.layout == torch.strided and tensor.is_contiguous())

"""Passes over the weights as compiled functions: one loop over each tensor instead of a call per operation and block.

Evaluated block by block, an expression costs one call for every operation of every block, and each call starts and
stops its threads. A compiled pass reads every operand once and writes every result once, in one loop per tensor.

A pass is traced from the very code that evaluates it block by block, and `torch._inductor` compiles the trace: to C++
on a CPU, to Triton on CUDA. Whatever differs from step to step is an argument: tensors, and every number. So neither a
schedule of the learning rate nor one of the radius compiles anything again.

Whether a pass is compiled depends on its form alone. So a run that is resumed from a checkpoint computes the same bits.
Optimizers of equal networks share their passes. Passes with noise, sparse, complex or sharded tensors, and functions of
whole tensors are evaluated block by block as before.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import partial, singledispatch
from types import BuiltinFunctionType, CodeType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from flatmin.vectors.blocks import Block, Scope, Values
from flatmin.vectors.expression import Expression, Number, Real, real
from flatmin.vectors.vector import LARGE, Add, Local, Multiply, Once, Pointwise, Scaled, Shifted, Tensors, Vec, Where
from flatmin.vectors.weights import Adapted, Zero

logger = logging.getLogger("flatmin")

#: (lists of tensors of one parameter: of every vector, of every list; numbers) -> nothing, or a number to add up.
Kernel = Callable[..., Tensor | None]
#: (graph, example inputs) -> the compiled function.
Backend = Callable[[Any, Sequence[Tensor]], Callable[..., Any]]

#: An optimizer with more different passes than this has one that changes in every step: no more are compiled.
MOST_PASSES = 64


class NotCompilable(Exception):
    """An expression contains what is not compiled."""


def inductor(graph: Any, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Compile a graph with torch's own compiler, which is imported with the first graph."""
    import torch._inductor

    compiled: Callable[..., Any] = torch._inductor.compile(graph, list(inputs))
    return compiled


class Compiler:
    """The compiled passes of one optimizer.

    Args:
        backend: what compiles a traced pass.
        passes: what was compiled so far, by this optimizer or by others.
    """

    def __init__(self, backend: Backend = inductor, passes: dict[Hashable, _Pass] | None = None):
        self._backend = backend
        self._passes = _compiled if passes is None else passes
        self._own: set[Hashable] = set()

    def compiled(
        self, kernel: Kernel, vecs: Sequence[Expression], scope: Scope, lists: Sequence[Values] = (), *numbers: Real
    ) -> Callable[[], Done] | None:
        """A pass over all parameters in scope, compiled; None if it cannot be. Nothing is written before it is called.

        Args:
            kernel: what is done with the tensors of one parameter. It writes in place, or returns a number.
            vecs: expressions, whose tensors the kernel gets first. Parameters on which one takes no part are left out.
            scope: the parameters.
            lists: lists with one tensor per parameter, which the kernel gets next. Those with None are left out.
            numbers: what the kernel gets last.
        """
        if torch.compiler.is_compiling() or any(scope.shards):
            return None
        try:
            inputs = _Inputs(scope)
            lowered = [lower(vec, inputs) for vec in vecs]
            listed = [inputs.tensors_of(values) for values in lists]
            counted = [inputs.number_of(number) for number in numbers]
            key = (kernel, tuple([one.key for one in lowered]), tuple(listed), inputs.key())
        except NotCompilable:
            return None
        if key not in self._own and len(self._own) == MOST_PASSES:
            return None
        self._own.add(key)
        if key not in self._passes:
            self._passes[key] = self._compile(partial(_sweep, kernel, lowered, listed, counted, scope), inputs)
        return self._passes[key].on(inputs)

    def _compile(self, sweep: Callable[..., Any], inputs: _Inputs) -> _Pass:
        from torch.fx.experimental.proxy_tensor import make_fx

        start, made = time.perf_counter(), _Pass()
        values = [*inputs.tensors, *inputs.numbers]

        def trace(*values: Tensor) -> Any:
            return sweep(_Bound(values[: len(inputs.tensors)], values[len(inputs.tensors) :]), made.done)

        try:
            graph = make_fx(trace, tracing_mode="fake")(*values)
        except Exception as error:  # of a function of the method's that looks at values
            logger.debug("a pass is not compiled: %s", error)
            return made
        try:
            made.function = self._backend(graph, values)
        except Exception as error:  # of the compiler, of the C++ compiler below it, or of the disk
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            logger.warning("torch could not compile a pass over the weights, which runs uncompiled: %s", reason)
            return made
        logger.info("compiled a pass over the weights in %.1f s", time.perf_counter() - start)
        return made


@dataclass
class Done:
    """What a pass has done.

    Args:
        indices: the parameters that it reached.
        total: the sum of the numbers that its kernel returned; None if it returned none.
    """

    indices: Sequence[int] = ()
    total: Tensor | None = None


@dataclass
class _Pass:
    """A compiled pass; without a function, one that could not be."""

    function: Callable[..., Any] | None = None
    done: list[int] = field(default_factory=list)

    def on(self, inputs: _Inputs) -> Callable[[], Done] | None:
        function = self.function
        if function is None:
            return None
        return lambda: Done(self.done, function(*inputs.tensors, *inputs.numbers))


#: Every pass that this process has compiled, by its form.
_compiled: dict[Hashable, _Pass] = {}


def _sweep(
    kernel: Kernel,
    lowered: Sequence[Lowered],
    listed: Sequence[tuple[int, ...]],
    counted: Sequence[int],
    scope: Scope,
    at: _Bound,
    done: list[int],
) -> Tensor | None:
    """The pass, one parameter after another. It runs once, to be traced."""
    vecs = [one.build(at) for one in lowered]
    lists = [at.list(indices) for indices in listed]
    numbers = [at.numbers[i] for i in counted]
    parts = []
    done.clear()
    for i in scope.indices:
        block = Block((i,))
        pieces = [vec.at(block, scope) for vec in vecs]
        others = [block.of(values) for values in lists]
        if all(piece is not None for piece in pieces) and all(other is not None for other in others):
            part = kernel(*(piece.tensors for piece in pieces if piece is not None), *others, *numbers)
            parts += [] if part is None else [part]
            done.append(i)
    return torch.stack(parts).sum() if parts else None


class _Inputs:
    """The tensors and numbers of a pass, each once, in the order in which its expressions are read."""

    def __init__(self, scope: Scope):
        self.scope = scope
        self.tensors: list[Tensor] = []
        self.numbers: list[Tensor] = []
        self._places: dict[int, int] = {}

    def tensors_of(self, values: Values) -> tuple[int, ...]:
        """The places of some tensors; -1 for None."""
        return tuple([-1 if value is None else self._place(value) for value in values])

    def _place(self, tensor: Tensor) -> int:
        place = self._places.setdefault(tensor.data_ptr() or -id(tensor), len(self.tensors))
        if place == len(self.tensors):
            if not _is_plain(tensor):
                raise NotCompilable
            self.tensors.append(tensor)
        elif _kind(tensor) != _kind(self.tensors[place]):  # the same memory in another shape
            raise NotCompilable
        return place

    def number_of(self, number: float | Number | Tensor) -> int:
        """The place of a number."""
        value = number if isinstance(number, Tensor) else real(number, self.scope)
        if not isinstance(value, Tensor):
            if not abs(value) <= LARGE:  # float32 cannot hold it: see `representable`
                raise NotCompilable
            value = torch.tensor(value, dtype=torch.float64)
        self.numbers.append(value)
        return len(self.numbers) - 1

    def key(self) -> Hashable:
        """What the compiled code depends on."""
        kinds = tuple([_kind(t) for t in self.tensors])
        return self.scope.indices, kinds, tuple([(n.dtype, n.device) for n in self.numbers])


def _is_plain(t: Tensor) -> bool:
    """Whether a tensor is real and dense, and nothing else lives in its memory, which a pass might write in between."""
    return (
        type(t) in (Tensor, nn.Parameter)
        and t.layout == torch.strided
        and not t.is_complex()
        and t.untyped_storage().nbytes() == t.numel() * t.element_size()
    )


def _kind(t: Tensor) -> Hashable:
    return t.dtype, t.device, t.shape, t.stride()


class _Bound:
    """The inputs of a pass while it is traced."""

    def __init__(self, tensors: Sequence[Tensor], numbers: Sequence[Tensor]):
        self.tensors, self.numbers = tensors, numbers

    def list(self, places: Sequence[int]) -> list[Tensor | None]:
        return [None if place < 0 else self.tensors[place] for place in places]

    def number(self, place: int) -> Number:
        return Number(lambda _: self.numbers[place])


@dataclass(frozen=True)
class Lowered:
    """An expression without its tensors and numbers.

    Args:
        key: equal for expressions of the same form.
        build: makes the expression again, over other tensors and numbers.
    """

    key: Hashable
    build: Callable[[_Bound], Vec]


@singledispatch
def lower(vec: Expression, inputs: _Inputs) -> Lowered:
    """Take the tensors and numbers out of an expression, into `inputs`.

    Raises:
        NotCompilable: it contains what is not compiled.
    """
    raise NotCompilable


@lower.register
def _(vec: Tensors, inputs: _Inputs) -> Lowered:
    places = inputs.tensors_of(vec.values)
    return Lowered(places, lambda at: Tensors(inputs.scope, at.list(places)))


@lower.register
def _(vec: Adapted, inputs: _Inputs) -> Lowered:
    raise NotCompilable


@lower.register
def _(vec: Once, inputs: _Inputs) -> Lowered:
    if vec.values is None:
        return lower(vec.vec, inputs)
    places = inputs.tensors_of(vec.values)
    return Lowered(places, lambda at: Tensors(inputs.scope, at.list(places)))


@lower.register
def _(vec: Scaled, inputs: _Inputs) -> Lowered:
    body, place = lower(vec.vec, inputs), inputs.number_of(vec.factor)
    return Lowered((Scaled, body.key), lambda at: Scaled(at.number(place), body.build(at)))


@lower.register
def _(vec: Shifted, inputs: _Inputs) -> Lowered:
    body, place = lower(vec.vec, inputs), inputs.number_of(vec.shift)
    return Lowered((Shifted, body.key), lambda at: Shifted(at.number(place), body.build(at)))


@lower.register(Add)
@lower.register(Multiply)
def _(vec: Add | Multiply, inputs: _Inputs) -> Lowered:
    kind, (left, right) = type(vec), [lower(arg, inputs) for arg in vec.args]
    return Lowered((kind, left.key, right.key), lambda at: kind(left.build(at), right.build(at)))


@lower.register
def _(vec: Pointwise, inputs: _Inputs) -> Lowered:
    function, args = vec.function, [lower(arg, inputs) for arg in vec.args]
    key = (Pointwise, _code(function), tuple(arg.key for arg in args))
    return Lowered(key, lambda at: Pointwise(function, *[arg.build(at) for arg in args]))


@lower.register
def _(vec: Local, inputs: _Inputs) -> Lowered:
    raise NotCompilable  # it may need memory between the first write and the last


@lower.register
def _(vec: Where, inputs: _Inputs) -> Lowered:
    body, chosen, other = lower(vec.vec, inputs), tuple([vec.select(p) for p in inputs.scope.params]), vec.other
    return Lowered((Where, body.key, chosen, other), lambda at: Where(body.build(at), vec.select, other))


@lower.register
def _(vec: Zero, inputs: _Inputs) -> Lowered:
    body = lower(vec.w, inputs)
    return Lowered((Zero, body.key), lambda at: Zero(body.build(at)))


def _code(value: Any) -> Hashable:
    """What a function computes, as far as equal answers mean equal functions; constants stand for themselves.

    Raises:
        NotCompilable: that cannot be said.
    """
    if isinstance(value, float) and math.isnan(value):
        raise NotCompilable
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device | CodeType):
        return type(value), value
    if isinstance(value, tuple):
        return tuple([_code(item) for item in value])
    if isinstance(value, partial):
        return _code(value.func), _code(value.args), _code(tuple(sorted(value.keywords.items())))
    if isinstance(value, MethodType):
        return _code(value.__func__), _code(value.__self__)
    if code := getattr(value, "__code__", None):
        cells = tuple([cell.cell_contents for cell in value.__closure__ or ()])
        return code, _code(cells), _code(value.__defaults__ or ())
    constant = isinstance(value, BuiltinFunctionType | torch._ops.OpOverloadPacket) or (
        is_dataclass(value) and getattr(type(value), "__dataclass_params__").frozen  # noqa: B009  # unknown to typing
    )
    if not constant or not isinstance(value, Hashable):
        raise NotCompilable
    return value

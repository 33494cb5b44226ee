"""`Number`: the norms and inner products of a step, as expressions.

A number is computed when the engine needs it, over the parameters that are then in scope, and remembered. On an
accelerator it stays there as a tensor of no dimension, so that nothing waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from flatmin.vectors.blocks import Block, Scope, Select, Values

#: A Number's value: a float where all parameters live on the CPU, otherwise a tensor of no dimension on the device.
Real: TypeAlias = "float | Tensor"


class NotYetKnown(Exception):
    """An expression was asked for a number before the gradients in it were computed, or after they were released."""

    def __init__(self) -> None:
        super().__init__(
            "a Vec was used whose gradient is not known in this step; a method that keeps a Vec from step to step must "
            "put it into `memory`, not into an attribute: memory['name'] = vec"
        )


class Node:
    """A node of an expression. `args` are the nodes that it is made of."""

    args: tuple[Node, ...] = ()
    #: All parameters, where a node knows them.
    scope: Scope | None = None

    def evaluate_scalars(self, scope: Scope) -> None:
        """Compute every norm and dot product inside, so that what they depend on may be overwritten afterwards."""
        for arg in self.args:
            arg.evaluate_scalars(scope)


def walk(*roots: Node) -> Iterator[Node]:
    """Every node of some expressions, each once."""
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen.add(id(node))
            stack += node.args
            yield node


class Number(Node):
    """A number of the step, such as a norm: `+ - * / **`, `min`, `max`; `float()` where its value must be looked at.

    Looking (`float`, comparisons) is allowed but has a price: the engine then cannot see the step in advance, keeps
    every gradient apart, and waits for the accelerator.
    """

    def __init__(self, compute: Callable[[Scope], Real], *args: Node):
        self._compute = compute
        self._known: dict[Scope, Real] = {}
        self.args = args

    def value(self, scope: Scope) -> Real:
        """The number, computed over the parameters in scope and remembered."""
        if scope not in self._known:
            self._known[scope] = self._compute(scope)
        return self._known[scope]

    def evaluate_scalars(self, scope: Scope) -> None:
        """Compute and remember the value."""
        self.value(scope)

    def forget(self) -> None:
        """Compute the value anew when it is next needed, because what it depends on has changed."""
        self._known.clear()

    def __float__(self) -> float:
        everything = next((node.scope for node in walk(self) if node.scope is not None), Scope((), ()))
        value = float(self.value(everything))
        return value if everything.agree is None else everything.agree(value)

    def __bool__(self) -> bool:
        return float(self) != 0.0

    def __lt__(self, other: float | Number) -> bool:
        return float(self) < float(other)

    def __gt__(self, other: float | Number) -> bool:
        return float(self) > float(other)

    def __le__(self, other: float | Number) -> bool:
        return float(self) <= float(other)

    def __ge__(self, other: float | Number) -> bool:
        return float(self) >= float(other)

    def __add__(self, other: float | Number) -> Number:
        return _number(lambda a, b: a + b, self, other)

    def __sub__(self, other: float | Number) -> Number:
        return _number(lambda a, b: a - b, self, other)

    def __mul__(self, other: float | Number) -> Number:
        return _number(lambda a, b: a * b, self, other) if isinstance(other, float | int | Number) else NotImplemented

    def __truediv__(self, other: float | Number) -> Number:
        return _number(_divide, self, other)

    def __rsub__(self, other: float) -> Number:
        return _number(lambda a, b: b - a, self, other)

    def __rtruediv__(self, other: float) -> Number:
        return _number(lambda a, b: _divide(b, a), self, other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __pow__(self, power: float) -> Number:
        return _number(lambda a: a**power, self)

    def exp(self) -> Number:
        """e to the power of this number."""
        return _number(lambda a: a.exp() if isinstance(a, Tensor) else math.exp(a), self)

    def sign(self) -> Number:
        """-1, 0 or 1."""
        return _number(lambda a: a.sgn() if isinstance(a, Tensor) else float((a > 0) - (a < 0)), self)

    def inverse(self, smallest: float | Number) -> Number:
        """One divided by this number, which is not negative; zero where it is below `smallest`."""

        def compute(a: Real, smallest: Real) -> Real:
            if isinstance(a, Tensor):
                return torch.where(a < smallest, torch.zeros_like(a), 1 / a)
            return 0.0 if a < smallest else 1 / a

        return _number(compute, self, smallest)

    def min(self, other: float) -> Number:
        """The smaller of this number and a constant."""
        return _number(lambda a: a.clamp(max=other) if isinstance(a, Tensor) else min(a, other), self)

    def max(self, other: float) -> Number:
        """The larger of this number and a constant."""
        return _number(lambda a: a.clamp(min=other) if isinstance(a, Tensor) else max(a, other), self)


def _number(function: Callable[..., Any], *args: float | Number) -> Number:
    def compute(scope: Scope) -> Real:
        value: Real = function(*[real(a, scope) for a in args])
        return value

    return Number(compute, *[a for a in args if isinstance(a, Number)])


def _divide(a: Real, b: Real) -> Real:
    """As tensors divide: by zero gives infinity, or nan."""
    return a / b if isinstance(b, Tensor) or b != 0 else a * float("inf")


def real(number: float | Number, scope: Scope) -> Real:
    """The value of what may be a plain number."""
    return number.value(scope) if isinstance(number, Number) else number


#: Sums of squares below this may have lost terms, because the squares of small float32 numbers are zero.
UNDERFLOW = 1e-24

#: So many squares a compiled pass adds up in single precision.
RUN = 256


class Piece(NamedTuple):
    """The tensors of one block. `fresh` ones are temporaries that the receiver may overwrite."""

    tensors: list[Tensor]
    fresh: bool


class Expression(Node):
    """A node with a tensor for every parameter that takes part."""

    #: Whether an element depends on nothing but the same element of the arguments (and on Numbers).
    pointwise = True
    #: A predicate that must be constant within a block.
    select: Select | None = None

    @property
    def values(self) -> Values | None:
        """The tensors that a leaf reads, which must be there or not within a block."""
        return None

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """Evaluate on one block; None where the parameters of the block take no part."""
        raise NotImplementedError


def pieces(
    vec: Expression, scope: Scope, *targets: Values, among: Iterable[int] | None = None
) -> Iterator[tuple[Block, Piece | None]]:
    """Evaluate a vector block by block. Every Number in it is known before the first block is handed out.

    Args:
        vec: what to evaluate.
        scope: the parameters that it is evaluated over.
        targets: lists of tensors that the caller reads or writes along with it, so that blocks fit them too.
        among: which parameters the blocks are wanted of, by index; None for all. Numbers are over the whole scope.
    """
    vec.evaluate_scalars(scope)
    wanted = scope if among is None else scope.keep(set(among).intersection(scope.indices))
    return _pieces(vec, scope, wanted, *targets)


def _pieces(vec: Expression, scope: Scope, wanted: Scope, *targets: Values) -> Iterator[tuple[Block, Piece | None]]:
    for block in blocks_of((vec,), wanted, *targets):
        yield block, vec.at(block, scope)


def blocks_of(vecs: tuple[Expression, ...], scope: Scope, *targets: Values) -> list[Block]:
    """Blocks that fit the leaves of some vectors, and targets."""
    nodes = [node for node in walk(*vecs) if isinstance(node, Expression)]
    leaves = [node.values for node in nodes if node.values is not None]
    selects = [node.select for node in nodes if node.select is not None]
    return scope.blocks([*leaves, *targets], selects, cut=all(node.pointwise for node in nodes))


def length(factor: float | Number, body: Expression, scope: Scope) -> Real:
    """The Euclidean length of a factor times a vector, over all parameters in scope and all processes.

    It is right to single precision from the smallest normal float32 on, although the squares of such numbers are zero
    in float32: on a CPU very small sums are taken again in double precision, elsewhere all of them are.
    """
    if scope.on_cpu:
        compiled = scope.compiler and scope.compiler.compiled(_compiled_squares, (body,), scope)
        squares = float(compiled().total or 0.0) if compiled else _sum_of_squares(body, scope, _squares)
        if squares < UNDERFLOW:
            squares = _sum_of_squares(body, scope, _squares_in_double)
        return abs(float(real(factor, scope))) * math.sqrt(squares)
    # Each piece is used up before the next is made: together they would be a whole-model temporary.
    lengths, dtype = [], torch.float32
    for block, piece in _pieces(body, scope, scope):
        if piece is not None:
            lengths.append((block, torch.linalg.vector_norm(torch.stack(_norms_in_double(_stored(piece.tensors))))))
            if piece.tensors[0].dtype in (torch.float64, torch.complex128):
                dtype = torch.float64
    if not lengths:
        return 0.0
    device = lengths[0][1].device
    if any(scope.shards):
        total = scope.total((block, length.to(device).square()) for block, length in lengths).sqrt()
    else:
        together = [length.to(device, non_blocking=True) for _, length in lengths]
        total = torch.linalg.vector_norm(torch.stack(together))
    return total.to(dtype) * abs(real(factor, scope))  # type: ignore[no-any-return]  # a tensor


def _sum_of_squares(body: Expression, scope: Scope, squares: Callable[[Tensor], float]) -> float:
    blocks = ((block, _stored(piece.tensors)) for block, piece in _pieces(body, scope, scope) if piece is not None)
    return float(scope.total((block, squares(t)) for block, tensors in blocks for t in tensors))


def _compiled_squares(tensors: list[Tensor]) -> Tensor:
    """For `Compiler`: sums of `RUN` squares in single precision, their sum in double.

    One sum in single precision would lose digits over millions of elements; squares in double take twice the time.
    """
    flat = tensors[0].reshape(-1)
    whole = flat.numel() // RUN * RUN
    runs = flat[:whole].view(-1, RUN).square().sum(1).double().sum()
    return runs + flat[whole:].double().square().sum()


def _stored(tensors: list[Tensor]) -> list[Tensor]:
    return [t.coalesce().values() if t.is_sparse else t for t in tensors]


def _squares(t: Tensor) -> float:
    """Sum of squared moduli on a CPU.

    By BLAS, whose blocked sum over at most `CPU_BLOCK` elements is faster than `torch.linalg.vector_norm` and a hundred
    times more exact: relative errors of 4e-7 and 4e-5 for two million standard normal float32.
    """
    if t.is_contiguous() and not t.is_complex():
        flat = t.view(-1)
        return float(torch.dot(flat, flat))
    return float(torch.linalg.vector_norm(t)) ** 2


def _squares_in_double(t: Tensor) -> float:
    return float(torch.linalg.vector_norm(_real_parts(t), dtype=torch.float64)) ** 2


def _norms_in_double(tensors: list[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm([_real_parts(t) for t in tensors], 2, torch.float64))


def _real_parts(t: Tensor) -> Tensor:
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


def inner(left: Expression, right: Expression, scope: Scope) -> Real:
    """The inner product of two vectors, over all parameters in scope and all processes."""
    if scope.on_cpu and scope.compiler:
        compiled = scope.compiler.compiled(_compiled_product, (left, right), scope)
        if compiled:
            return float(compiled().total or 0.0)
    parts = [
        (block, _product(a, b))
        for block in blocks_of((left, right), scope)
        for a, b in _pairs(left, right, block, scope)
    ]
    if scope.on_cpu or not parts:
        return float(scope.total((block, part.item()) for block, part in parts))
    device = parts[0][1].device
    return scope.total((block, part.to(device, non_blocking=True)) for block, part in parts)  # type: ignore[no-any-return]  # a tensor


def _compiled_product(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """For `Compiler`, as `_compiled_squares`."""
    flat = (left[0] * right[0]).reshape(-1)
    whole = flat.numel() // RUN * RUN
    return flat[:whole].view(-1, RUN).sum(1).double().sum() + flat[whole:].double().sum()


def _pairs(left: Expression, right: Expression, block: Block, scope: Scope) -> list[tuple[Tensor, Tensor]]:
    a, b = left.at(block, scope), right.at(block, scope)
    return [] if a is None or b is None else list(zip(a.tensors, b.tensors, strict=True))


def _product(a: Tensor, b: Tensor) -> Tensor:
    if a.is_complex() or b.is_complex():
        return (a.to_dense() * b.to_dense().conj()).sum().real
    return (a * b).sum()

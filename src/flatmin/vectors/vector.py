"""`Vec`: points and directions in parameter space, with the operators of a textbook.

A method computes with the weights `w` and the gradients `g` of *all* parameters at once: `abs(w) * g`, `g.norm()`,
`(g + g_star).unit()`. Nothing is computed when such a line runs. The result is an expression, and the engine evaluates
it later, block by block (see `space.py`), straight into the weights or the gradients. So a method reads like the paper
and still allocates no whole-model temporary, and the engine can look at the expressions to see what a step will need.

A parameter that has no gradient takes no part: missing plus x is x, missing times x is missing.

Half-precision tensors are read as float32, so norms and products neither overflow nor round before their end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flatmin.vectors.blocks import Block, Scope, Select, Values
from flatmin.vectors.expression import Expression, NotYetKnown, Number, Piece, Real, inner, length, real

#: The smallest normal float32. Norms below it count as zero, so that the unit vector of zero is zero. Its inverse is
#: finite in float32.
TINY = torch.finfo(torch.float32).tiny


#: A vector minus its projection on a parallel one is, in float32, below this share of the vector. Anything longer is a
#: direction.
ROUNDING = 1e-5

#: Factors above this are applied in two steps.
LARGE = 2.0**100


class Vec(Expression):
    """A vector over all parameters: `+ - * /` with another Vec, a Number or a float, `abs`, and the methods below.

    Every operation is out of place, free when written, and element-wise unless it says otherwise.
    """

    def __add__(self, other: Vec | float) -> Vec:
        if isinstance(other, Vec):
            return Add(self, other)
        return self if other == 0 else Shifted(other, self)

    def __sub__(self, other: Vec | float) -> Vec:
        return self + (-other)

    def __rsub__(self, other: float) -> Vec:
        return -self + other

    def __mul__(self, other: Vec | Number | float) -> Vec:
        return Multiply(self, other) if isinstance(other, Vec) else Scaled(other, self)

    def __truediv__(self, other: Vec | Number | float) -> Vec:
        if isinstance(other, Vec):
            return Pointwise(lambda x, y: torch._foreach_div(dense(x), dense(y)), self, other)
        return Scaled(1 / other, self)

    def __neg__(self) -> Vec:
        return Scaled(-1.0, self)

    def __abs__(self) -> Vec:
        return Pointwise(torch._foreach_abs, self)

    __radd__ = __add__
    __rmul__ = __mul__

    def sign(self) -> Vec:
        """-1, 0 or 1 (of unit modulus for complex parameters)."""
        return Pointwise(lambda x: [t.sgn() for t in x], self)

    def sqrt(self) -> Vec:
        """The square root of every element."""
        return Pointwise(lambda x: torch._foreach_sqrt(dense(x)), self)

    def once(self) -> Vec:
        """This vector, for a method that remembers it and answers with it: computed once, for both."""
        return Once(self)

    def norm(self) -> Number:
        """The Euclidean length, over all parameters together; at least float32 whatever their dtype."""
        return Number(lambda scope: length(*split(self), scope), self)

    def dot(self, other: Vec) -> Number:
        """The inner product with another vector, over all parameters together (its real part if complex)."""
        return Number(lambda scope: inner(self, other, scope), self, other)

    def unit(self, *, per: str = "global") -> Vec:
        """The vector of length one in this direction; zero stays zero.

        Args:
            per: whether the length over all parameters is one ("global"), or that of every "tensor".
        """
        return self.norm().inverse(TINY) * self if per == "global" else self.map(_unit)

    def orthogonal_to(self, other: Vec) -> Vec:
        """The part orthogonal to another vector, a − (a·b / b·b) b; all of it where the other is zero."""
        along = other.unit()
        return self - self.dot(along) * along

    def unit_orthogonal_to(self, other: Vec) -> Vec:
        """The vector of length one along the part orthogonal to another; zero where that part is a rounding error.

        It counts as one where it is shorter than `ROUNDING` times this vector. The direction of such a part is
        arbitrary, and length one would make it large.
        """
        part = self.orthogonal_to(other)
        return part.norm().inverse((ROUNDING * self.norm()).max(TINY)) * part

    def clip(self, radius: float, *, per: str = "all") -> Vec:
        """The nearest point of the ball of this radius: one ball for "all" parameters or one per "tensor"."""
        if per == "tensor":
            shrink = self.rms("tensor", mean=False).map(lambda length: (radius / length.clamp(min=TINY)).clamp(max=1.0))
            return self * shrink
        return self * (radius / self.norm().max(TINY)).min(1.0)

    def rms(self, per: str, *, mean: bool = True) -> Vec:
        """Root mean square of every "tensor" or "filter" (index of dimension 0), shaped to multiply the tensors.

        With `mean=False` the root of the sum of squares, that is the length. A vector counts as one filter.
        """
        return Local(lambda x: _rms(x, per, mean), self)

    def map(self, function: Callable[..., Tensor], *others: Vec) -> Vec:
        """Apply a function of whole tensors, one parameter at a time: for everything that is not element-wise.

        The function must not write into its arguments, and must return the shape it was given (or one that broadcasts
        to it). Sparse gradients arrive dense.
        """
        return Local(function, self, *others)

    def elementwise(self, function: Callable[..., Tensor], *others: Vec) -> Vec:
        """Apply a function that acts element by element: a formula with many terms, computed in one go.

        As for `map`, the function must not write into its arguments, and sparse gradients arrive dense. It is called
        with parts of tensors, where processes hold parts, and must not return one of its arguments.
        """
        return Pointwise(
            lambda *lists: [function(*dense(tensors)) for tensors in zip(*lists, strict=True)], self, *others
        )

    def where(self, select: Select, other: float) -> Vec:
        """This vector on the parameters that `select` accepts, a constant on the others."""
        return Where(self, select, other)

    def only(self, select: Select) -> Vec:
        """This expression computed as if the parameters that `select` refuses did not exist, norms included."""
        return Only(self, select)


class Tensors(Vec):
    """A leaf: one tensor per parameter, None where a parameter takes no part.

    Args:
        scope: all parameters of the optimizer.
        values: their tensors; None as a whole if they are not known yet.
    """

    scope: Scope

    def __init__(self, scope: Scope, values: Values | None = None):
        self.scope = scope
        self._values = values

    @property
    def values(self) -> Values:
        """The tensors.

        Raises:
            NotYetKnown: they are not known yet.
        """
        if self._values is None:
            raise NotYetKnown
        return self._values

    @values.setter
    def values(self, values: Values | None) -> None:
        self._values = values

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """The tensors themselves; half-precision ones as float32."""
        tensors = block.of(self.values)
        if tensors is None:
            return None
        if tensors[0].dtype in (torch.float16, torch.bfloat16):
            return Piece([t.float() for t in tensors], fresh=True)
        return Piece(tensors, fresh=False)


class Scaled(Vec):
    """A number times a vector."""

    def __init__(self, factor: float | Number, vec: Vec):
        self.factor, self.vec = factor, vec
        self.args = (vec, factor) if isinstance(factor, Number) else (vec,)

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """Scale, in place where the vector is a temporary."""
        piece = self.vec.at(block, scope)
        if piece is None:
            return None
        tensors, factor = piece.tensors, _near(real(self.factor, scope), piece.tensors)
        if not isinstance(factor, Tensor):
            tensors, factor = representable(tensors, factor)
        if piece.fresh and tensors is piece.tensors:
            torch._foreach_mul_(tensors, factor)
            return piece
        return Piece(list(torch._foreach_mul(tensors, factor)), fresh=True)


class Shifted(Vec):
    """A vector with a number added to every element."""

    def __init__(self, shift: float | Number, vec: Vec):
        self.shift, self.vec = shift, vec
        self.args = (vec, shift) if isinstance(shift, Number) else (vec,)

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """Add, out of place."""
        piece = self.vec.at(block, scope)
        if piece is None:
            return None
        tensors, shift = dense(piece.tensors), _near(real(self.shift, scope), piece.tensors)
        if isinstance(shift, Tensor):  # torch's call for lists would look at its value
            return Piece([t + shift for t in tensors], fresh=True)
        return Piece(list(torch._foreach_add(tensors, shift)), fresh=True)


class Add(Vec):
    """The sum of two vectors; where one takes no part, the other."""

    def __init__(self, left: Vec, right: Vec):
        self.args: tuple[Vec, Vec] = (left, right)

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """Add, in place where the left vector is a temporary."""
        left, right = (arg.at(block, scope) for arg in self.args)
        if left is None or right is None:
            return left or right
        if left.tensors[0].is_sparse and not right.tensors[0].is_sparse:  # torch adds them in one order only
            left, right = right, left
        if left.fresh and _same_kind(left, right):
            torch._foreach_add_(left.tensors, right.tensors)
            return left
        return Piece(list(torch._foreach_add(left.tensors, right.tensors)), fresh=True)


class Multiply(Vec):
    """The element-wise product of two vectors; where one takes no part, nothing."""

    def __init__(self, left: Vec, right: Vec):
        self.args: tuple[Vec, Vec] = (left, right)

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """Multiply, in place where the left vector is a temporary."""
        left, right = (arg.at(block, scope) for arg in self.args)
        if left is None or right is None:
            return None
        if left.fresh and _same_kind(left, right):
            torch._foreach_mul_(left.tensors, right.tensors)
            return left
        return Piece(list(torch._foreach_mul(left.tensors, right.tensors)), fresh=True)


class Pointwise(Vec):
    """An element-wise function of lists of tensors, out of place; where an argument takes no part, nothing."""

    args: tuple[Vec, ...]

    def __init__(self, function: Callable[..., Any], *args: Vec):
        self.function = function
        self.args = args

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """Call the function on the block."""
        pieces = [arg.at(block, scope) for arg in self.args]
        known = [piece.tensors for piece in pieces if piece is not None]
        return Piece(list(self.function(*known)), fresh=True) if len(known) == len(pieces) else None


class Local(Pointwise):
    """A function of whole tensors, one parameter at a time."""

    pointwise = False

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """Call the function on every tensor of the block; on whole ones where processes hold parts of them."""
        pieces = [arg.at(block, scope) for arg in self.args]
        known = [piece.tensors for piece in pieces if piece is not None]
        if len(known) < len(pieces):
            return None
        results = []
        for i, tensors in zip(block.indices, zip(*known, strict=True), strict=True):
            shards = scope.shards[i]
            if shards is None:
                results.append(self._call(self.function, *tensors))
            else:
                wholes = [shards.whole(t) for t in tensors]
                results.append(shards.part(self._call(self.function, *wholes).expand_as(wholes[0])))
        return Piece(results, fresh=True)

    @staticmethod
    def _call(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        whole = dense(tensors)
        result = function(*whole)
        try:
            result.expand_as(whole[0])
        except RuntimeError as misfit:
            raise ValueError(
                f"the function given to Vec.map returned shape {tuple(result.shape)} for a tensor of shape "
                f"{tuple(whole[0].shape)}; return one element per element"
            ) from misfit
        return result.clone() if any(result is t for t in whole) else result


class Where(Vec):
    """A vector on some parameters, a constant on the others."""

    select: Select

    def __init__(self, vec: Vec, select: Select, other: float):
        self.vec, self.select, self.other = vec, select, other
        self.args = (vec,)

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """The vector or the constant; a block never holds parameters of both kinds."""
        piece = self.vec.at(block, scope)
        if piece is None or self.select(scope.params[block.indices[0]]):
            return piece
        return Piece([torch.full_like(t, self.other, layout=torch.strided) for t in piece.tensors], fresh=True)


class Once(Vec):
    """A vector that memory keeps: from then on it is read from there."""

    def __init__(self, vec: Vec):
        self.vec = vec
        self.args = (vec,)
        self._kept: Values | None = None

    @property
    def values(self) -> Values | None:
        """What memory keeps; None before."""
        return self._kept

    def keep(self, values: Values) -> None:
        """Note what was computed: one tensor per parameter, None where one takes no part."""
        self._kept, self.args = values, ()

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """Evaluate, or read what is known."""
        if self._kept is None:
            return self.vec.at(block, scope)
        tensors = block.of(self._kept)
        return None if tensors is None else Piece(tensors, fresh=False)


class Only(Vec):
    """An expression over fewer parameters."""

    select: Select

    def __init__(self, vec: Vec, select: Select):
        self.vec, self.select = vec, select
        self.args = (vec,)

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """The vector on the selected parameters, nothing on the others."""
        return self.vec.at(block, scope.only(self.select)) if self.select(scope.params[block.indices[0]]) else None

    def evaluate_scalars(self, scope: Scope) -> None:
        """Compute the numbers over the selected parameters."""
        self.vec.evaluate_scalars(scope.only(self.select))


def split(vec: Vec) -> tuple[float | Number, Vec]:
    """A vector as (factor, body) with the outermost factors taken out, for `add_(body, alpha=factor)`."""
    factor: float | Number = 1.0
    while isinstance(vec, Scaled):
        factor, vec = factor * vec.factor, vec.vec
    return factor, vec


def representable(tensors: list[Tensor], factor: float) -> tuple[list[Tensor], float]:
    """The same product with a factor that float32 can hold, as radius / norm is not for the smallest gradients."""
    if LARGE < abs(factor) < math.inf:
        return list(torch._foreach_mul(tensors, LARGE)), factor / LARGE
    return tensors, factor


def dense(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors, sparse ones made dense."""
    return [t.to_dense() if t.is_sparse else t for t in tensors]


def _rms(tensor: Tensor, per: str, mean: bool) -> Tensor:
    dims = tuple(range(1, tensor.ndim)) if per == "filter" and tensor.ndim > 1 else tuple(range(tensor.ndim))
    length = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True) if dims else tensor.abs()
    count = math.prod(tensor.shape[d] for d in dims)
    return length / math.sqrt(max(count, 1)) if mean else length


def _unit(tensor: Tensor) -> Tensor:
    """Of length one, computed so that no square underflows or overflows; zero stays zero."""
    if not tensor.numel():
        return tensor
    scaled = tensor / tensor.abs().amax().clamp(min=1e-45)  # the smallest positive float32
    length: Tensor = torch.linalg.vector_norm(scaled).clamp(min=1.0)
    return scaled / length


def _near(number: Real, tensors: list[Tensor]) -> Real:
    return number.to(tensors[0].device, non_blocking=True) if isinstance(number, Tensor) else number


def _same_kind(left: Piece, right: Piece) -> bool:
    """Whether the left tensors can hold the result; a real one cannot hold a complex product, say."""
    a, b = left.tensors[0], right.tensors[0]
    same = a.dtype == b.dtype and a.layout == b.layout
    return same and all(a.shape == b.shape for a, b in zip(left.tensors, right.tensors, strict=True))

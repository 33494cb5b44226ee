"""A method whose gradients are estimated: the same questions to the method's loop, answered without backpropagation.

A method asks for gradients at a few points. An estimator answers each of these requests by requests of its own, for
losses or for derivatives along a vector, and puts an estimate together. So any method works with any estimator, and
neither knows the other.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

from torch import Tensor

from flatmin.protocol import Ask, Conversation, Gradient, Memory, Method, Number, Vec, Weights, Wrapper
from flatmin.vectors.blocks import Block, Scope
from flatmin.vectors.expression import Piece

#: Yields requests, is sent what they give, returns the estimate of the gradient.
Estimation: TypeAlias = "Generator[Ask, Gradient, Vec]"


class Estimator(Protocol):
    """What puts the gradient at a point together from losses, or from derivatives along vectors."""

    @property
    def backpropagates(self) -> bool:
        """Whether it asks for gradients all the same, to simulate an estimate."""
        ...

    def draw(self, w: Weights, memory: Memory) -> Sequence[Vec]:
        """The tangents of one step. All points of the step are looked at along the same ones.

        Args:
            w: the weights.
            memory: what the estimator remembers between steps.
        """
        ...

    def estimate(self, ask: Ask, tangents: Sequence[Vec], memory: Memory) -> Estimation:
        """Estimate the gradient that a method asks for.

        Args:
            ask: the request; `ask.value(shift)` and `ask.derivative(along)` are requests at the same point.
            tangents: of this step, restricted to the parameters that the method asks about.
            memory: what the estimator remembers between steps.
        """
        ...


class Estimate(Vec):
    """An estimate of a gradient, with the losses of its first probe.

    Args:
        vec: the estimate.
        first: what the first probe gave.
    """

    def __init__(self, vec: Vec, first: Gradient):
        self.args = (vec,)
        self._vec, self._first = vec, first

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """The estimate."""
        return self._vec.at(block, scope)

    @property
    def losses(self) -> Tensor:
        """The losses at the first probe, (n,) in the order of the batch; this process's own."""
        return self._first.losses

    @property
    def loss(self) -> Number:
        """Their mean, over all processes."""
        return self._first.loss


@dataclass(frozen=True)
class Estimated(Wrapper):
    """A method on estimated gradients: what `FlatOptimizer(base, method, gradient=...)` runs.

    Args:
        method: that asks for gradients.
        gradient: what estimates them.
    """

    method: Method
    gradient: Estimator

    #: Options of `FlatOptimizer` that need backpropagation: name -> (the only value allowed, what to write, why).
    _refused: ClassVar[dict[str, tuple[Any, str, str]]] = {
        "scaler": (None, "leave scaler out", "no backward pass runs, so no gradient is too small for half precision"),
        "ascent": (
            "synchronised",
            'write ascent="synchronised"',
            "the loss at every point is the mean over all workers; no gradient is sent",
        ),
        "noise": (
            "shared",
            'write noise="shared"',
            "the direction is made of the tangents, so with other ones the workers' weights would drift apart",
        ),
    }

    def __post_init__(self) -> None:
        value = self.gradient
        if isinstance(value, type) or not (callable(getattr(value, "draw", None)) and hasattr(value, "estimate")):
            shown = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
            raise TypeError(f"gradient must be an estimator such as flatmin.ForwardGradient(), got {shown}")

    def check(self, **options: Any) -> None:
        """Refuse options of `FlatOptimizer` that have no meaning without backpropagation.

        Raises:
            ValueError: there is one; the message says what to write.
        """
        if self.gradient.backpropagates:
            return
        for name, value in options.items():
            allowed, instead, why = self._refused[name]
            if value != allowed:
                raise ValueError(
                    f"gradient={self.gradient!r} and {name}={value!r} exclude each other: {why}; {instead}"
                )

    def direction(self, w: Weights, memory: Memory) -> Conversation:
        """What the method answers, its gradients estimated along the same tangents."""
        own: Memory = memory.setdefault("gradient", {})
        tangents = self.gradient.draw(w, own)
        conversation = self.method.direction(w, memory.setdefault("method", {}))
        reply: Any = None
        while True:
            try:
                request = conversation.send(reply)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]  # checked by the engine
            ask = request if isinstance(request, Ask) else Ask(request)
            reply = (yield from self._estimate(ask, tangents, own)) if ask.gradient else (yield ask)

    def _estimate(self, ask: Ask, tangents: Sequence[Vec], memory: Memory) -> Generator[Ask, Gradient, Estimate]:
        if ask.keep_slopes or ask.slopes_of is not None:
            raise RuntimeError(
                f"{self.method!r} starts a backward pass at the outputs, which {self.gradient!r} cannot estimate; "
                "leave gradient out"
            )
        only = ask.only
        chosen = tangents if only is None else [v.only(only) for v in tangents]
        estimation = self.gradient.estimate(ask, chosen, memory)
        first: Gradient | None = None
        reply: Any = None
        while True:
            try:
                request = estimation.send(reply)
            except StopIteration as stop:
                assert first is not None, "an estimator asks at least once"
                return Estimate(stop.value, first)
            reply = yield request
            first = reply if first is None else first

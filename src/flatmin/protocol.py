"""What a method and the engine say to each other: requests for gradients, the gradients, and the answer.

A method is a generator. It yields what it wants, is sent a gradient for each request, and returns a direction:

    def direction(self, w, memory):
        g = yield                      # None: the gradient at w
        h = yield delta                # a Vec: the gradient at w + delta
        f = yield Ask(rows=..., ...)   # an Ask: chosen or weighted examples, some parameters, or losses only
        return u                       # a Vec, or an Answer

The caller of the optimizer meets each request as a probe, see `flatmin.engine.probe`:

    for probe in opt.probes():
        losses = F.cross_entropy(net(x[probe.rows]), y[probe.rows], reduction="none")
        probe.backward(losses)

This loop is right for every method. Where a method needs it, the plain loop is refused, not silently wrong.

A method file imports this module, `flatmin.checks` and other methods, and nothing else of flatmin.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from flatmin.vectors.blocks import Scope, Select
from flatmin.vectors.expression import NotYetKnown, Number, Real
from flatmin.vectors.vector import Tensors, Vec
from flatmin.vectors.weights import Weights

__all__ = ["Answer", "Ask", "Conversation", "Gradient", "Memory", "Method", "Number", "Vec", "Weights"]

#: What a method remembers between steps: Vecs, Numbers, plain numbers, strings, and dicts of them.
Memory: TypeAlias = dict[str, Any]
#: Yields None (a gradient at w), δ (a gradient at w + δ) or an Ask, is sent that gradient, returns the direction.
Conversation: TypeAlias = "Generator[Vec | Ask | None, Gradient, Vec | Answer]"
#: Which examples of a batch, as an index of its first dimension.
Rows: TypeAlias = "slice | Tensor"
#: The same, or a function that knows when the probe begins: it may read the losses of earlier ones.
Choice: TypeAlias = "Rows | Callable[[], Rows]"
#: (losses of the examples, what the caller passed as `labels`) -> a weight for each, in the same shape.
Weigh: TypeAlias = "Callable[[Tensor, Tensor | None], Tensor]"


class Method(Protocol):
    """An optimizer method: anything with this one generator.

    A method that asks about single examples (`Ask.rows`, `weigh` or `each`) also declares `per_example = True`, see
    `AsksAboutExamples`. Then a closure, which cannot answer such questions, is refused at once.
    """

    def direction(self, w: Weights, memory: Memory) -> Conversation:
        """Ask for gradients, answer with the direction that the base optimizer descends along.

        Args:
            w: the weights.
            memory: what the method remembers between steps. Changes take effect when the step succeeds.
        """
        ...


class AsksAboutExamples(Method, Protocol):
    """A method that may ask about single examples."""

    @property
    def per_example(self) -> bool:
        """Whether it does so at its present hyper-parameters."""
        ...


class LearnsDistribution(Method, Protocol):
    """A method that learns a distribution of the weights around them, as `IVON`."""

    def sample(self, w: Weights, memory: Memory) -> Vec:
        """A draw of the weights, relative to them."""
        ...


def asks_about_examples(method: object) -> bool:
    """Whether a method declares that it asks about single examples, so that it needs `probe.backward(losses)`."""
    return bool(getattr(method, "per_example", False))


class Wrapper:
    """Base of methods whose fields hold other methods: it asks about single examples if one of them does."""

    @property
    def per_example(self) -> bool:
        """Whether one of the fields asks about single examples."""
        return any(asks_about_examples(value) for value in vars(self).values())


class ReadsLoss(Protocol):
    """What a base optimizer declares to be given a closure that returns the losses of the first probe, as `KOALA`."""

    reads_loss: bool


def reads_loss(base: object) -> bool:
    """Whether a base optimizer declares that it reads the loss."""
    return bool(getattr(base, "reads_loss", False))


@dataclass(frozen=True, eq=False)
class Ask:
    """A request of a method to its caller.

    Args:
        at: the displacement δ of the weights; None for the weights themselves.
        rows: the examples to use, as an index of the batch; None for all of them. A function is called when the caller
            looks, so that a choice by the losses of earlier probes does not keep the engine from rehearsing.
        weigh: weights of the examples: the gradient is that of mean(weights · losses). Called after the forward pass.
        gradient: False asks for the losses only, and there is no backward pass.
        each: the loss of every example is needed, as `losses` of what is sent back; their mean is refused.
        only: which parameters' gradient is wanted, a function of a parameter; the others take no part in it. None for
            all. If these are the last layers and `FlatOptimizer` has the model, the layers before them run once per
            step, see `flatmin.engine.reuse`.
        keep_slopes: keep the gradient of the loss with respect to what the network computed, for `slopes_of`.
        slopes_of: the gradient of an earlier probe that kept them. The backward pass begins at the outputs with those
            slopes, so the gradient is their product with the Jacobian of this probe.
        frozen: a displacement of weights that no group owns, made of `w.adapted()`; None for none.
        objective: True asks for the number that would be differentiated, and there is no backward pass: the forward
            pass runs without autograd, and a closure may answer. See `value`.
        shift: with `objective`, a displacement of all weights beside δ: the groups' `perturb` and `radius_scale` do not
            apply to it.
        along: the derivative of that number along this vector, by forward-mode differentiation. See `derivative`.
    """

    at: Vec | None = None
    rows: Choice | None = None
    weigh: Weigh | None = None
    gradient: bool = True
    each: bool = False
    only: Select | None = None
    keep_slopes: bool = False
    slopes_of: Gradient | None = None
    frozen: Vec | None = None
    objective: bool = False
    shift: Vec | None = None
    along: Vec | None = None

    @property
    def cost(self) -> float:
        """What it takes compared with a gradient of the whole batch, if a backward pass takes two forward passes.

        A derivative along a vector counts as a gradient: beside the product of weights and activations in the forward
        pass there are two more, one with the tangent of either. Rows given as a tensor are counted by the receiver, who
        knows the batch.
        """
        return 1.0 if self.gradient or self.along is not None else 1 / 3

    @property
    def forward_only(self) -> bool:
        """Whether no backward pass will need what the forward pass computes."""
        return self.objective or self.along is not None

    def value(self, shift: Vec | None = None) -> Ask:
        """Instead of the gradient, the loss at the same point, or at one shifted from it."""
        return replace(self, gradient=False, only=None, objective=True, shift=shift)

    def derivative(self, along: Vec) -> Ask:
        """Instead of the gradient, its inner product with a vector."""
        return replace(self, gradient=False, only=None, along=along)


@dataclass(frozen=True, eq=False)
class Answer:
    """A direction, and a part of the step that the base optimizer does not see.

    Args:
        direction: what the base descends along.
        bypass: after the base's step the weights move by -lr · bypass, past momentum and whatever else the base has.
    """

    direction: Vec
    bypass: Vec

    @staticmethod
    def shaped(answer: Vec | Answer, shape: Callable[[Vec], Vec]) -> Vec | Answer:
        """What another method answered, its direction in another shape."""
        if isinstance(answer, Answer):
            return Answer(shape(answer.direction), answer.bypass)
        return shape(answer)


def each_request(conversation: Conversation, change: Callable[[Ask], Ask]) -> Conversation:
    """The same conversation, each of its requests changed."""
    gradient: Any = None  # a generator's first turn is sent None
    while True:
        try:
            request = conversation.send(gradient)
        except StopIteration as stop:
            answer: Vec | Answer = stop.value
            return answer
        gradient = yield change(request if isinstance(request, Ask) else Ask(request))


class Gradient(Tensors):
    """The gradient of one probe, a placeholder until the probe has run."""

    _ran: bool = False
    _reported: Tensor | None = None
    _mean: Callable[[float], float] | None = None
    _objective: Tensor | None = None
    _slope: Tensor | None = None
    #: Of the loss with respect to the outputs, a tensor for every call of `Probe.backward`.
    slopes: Sequence[Tensor] = ()

    @property
    def absent(self) -> bool:
        """Whether no parameter has a part in it any more, because the next gradient was added to it."""
        return all(value is None for value in self.values)

    @property
    def losses(self) -> Tensor:
        """The losses at this probe, (n,) in the order of the batch; this process's own.

        Raises:
            NotYetKnown: the probe has not run yet.
            RuntimeError: the caller did not tell.
        """
        if not self._ran:
            raise NotYetKnown
        if self._reported is None:
            raise RuntimeError(
                "the method asks for losses; call probe.backward(losses) in the loop over opt.probes(), "
                "or return the loss from the closure"
            )
        return self._reported

    @property
    def loss(self) -> Number:
        """The mean loss at this probe, over all processes."""
        return Number(self._loss, self)

    @property
    def objective(self) -> Number:
        """What `Ask.value` asked for: the number that would be differentiated, its mean over all processes."""
        return Number(lambda _: self._number(self._objective), self)

    @property
    def slope(self) -> Number:
        """What `Ask.derivative` asked for: the derivative of that number along the vector."""
        return Number(lambda _: self._number(self._slope), self)

    def report(
        self,
        losses: Tensor | None,
        mean: Callable[[float], float] | None,
        objective: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> None:
        """Note the losses of the probe.

        Args:
            losses: of the examples, or their mean; None if the caller does not tell.
            mean: of a number over the processes, if there are several.
            objective: the number that would be differentiated, and
            slope: its derivative, if they were asked for.
        """
        self._ran, self._reported, self._mean, self._objective, self._slope = True, losses, mean, objective, slope

    def _loss(self, scope: Scope) -> Real:
        return self._number(self.losses.double().mean())

    def _number(self, own: Tensor | None) -> Real:
        """This process's number as one of all processes."""
        if own is None:
            raise NotYetKnown
        if self._mean is not None:
            return self._mean(float(own))
        return float(own) if self.scope.on_cpu else own.float()

"""The leaf `w`, and noise in its shape."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flatmin.distributed import is_sharded
from flatmin.selectors import adapted_weights, last_layers
from flatmin.vectors.blocks import Block, Scope, Select, Values
from flatmin.vectors.expression import Piece
from flatmin.vectors.vector import Multiply, Tensors, Vec


class Weights(Tensors):
    """The weights, as a method sees them.

    Args:
        scope: all parameters of the optimizer.
        values: the same, with None for frozen ones.
        seed: of the noise drawn in this step.
        base: the base optimizer.
        model: the network, if it is known.
    """

    def __init__(
        self,
        scope: Scope,
        values: Values,
        seed: tuple[int, ...],
        base: BaseState | None = None,
        model: nn.Module | None = None,
    ):
        super().__init__(scope, values)
        self._seed = seed
        self._base = base
        self._model = model
        #: How many noises were drawn.
        self.draws = 0

    @property
    def momentum(self) -> Vec:
        """The base optimizer's momentum, with the sign of a gradient; zero before its first step.

        SGD's is the sum of past gradients (weight decay included), Adam's their running mean.

        Raises:
            RuntimeError: the base optimizer keeps none.
        """
        values = self._base.momentum() if self._base is not None else [None] * len(self.scope.params)
        return Tensors(self.scope, self.scope.local(values))

    @property
    def lr(self) -> float:
        """The learning rate of the first parameter group."""
        return self._base.rates()[0] if self._base is not None else 1.0

    def last_layers(self, count: int) -> Select:
        """A selector for the last layers of the network, see `flatmin.selectors.last_layers`."""
        return last_layers(count, self.scope.params, self._model)

    def adapted(self) -> Weights:
        """The frozen weights of the network that adapters change, each with what its adapters add: W + s B A.

        A vector over other parameters than all else here: of `FlatOptimizer`'s model, and in no group of the optimizer.

        Raises:
            ValueError: the model is unknown, or has none.
            TypeError: they are quantized or sharded.
        """
        self.draws += 1
        ours = {id(p) for p in self.scope.params}
        layers = [] if self._model is None else adapted_weights(self._model)
        found = [(weight, change) for weight, change in layers if id(weight) not in ours]
        if not found:
            raise ValueError(
                "the model must have frozen weights under adapters, got none; write FlatOptimizer(base, method, "
                "model=net) with layers of PEFT, or give your own a method adapter_change() that returns what they add"
            )
        for weight, _ in found:
            if not weight.is_floating_point() or is_sharded(weight):
                kind = f"{weight.dtype} weights" if not weight.is_floating_point() else "sharded weights"
                raise TypeError(f"frozen weights must be whole and of a floating type to be perturbed, got {kind}")
        return Adapted(found, (*self._seed, self.draws, -1))

    def step(self, u: Vec) -> Vec:
        """What plain gradient descent along u would subtract: each parameter's learning rate times u."""
        rates = set(self._base.rates()) if self._base is not None else {1.0}
        if len(rates) == 1:
            return rates.pop() * u
        return Multiply(Rates(self, self._base), u)  # type: ignore[arg-type]  # one base, several rates

    def zero(self) -> Vec:
        """The zero vector, to begin a sum with: what is added to it comes back as it is."""
        return Zero(self)

    def coin(self, p: float) -> bool:
        """True with probability p: the same on all workers, and new at every call and every step."""
        return self.uniform() < p

    def uniform(self) -> float:
        """A number in [0, 1): the same on all workers, and new at every call and every step."""
        self.draws += 1
        digest = hashlib.blake2b(repr((*self._seed[:2], "coin", self.draws)).encode(), digest_size=7).digest()
        return (int.from_bytes(digest, "big") >> 3) / 2**53

    def bernoulli(self, p: float, per: str = "element") -> Vec:
        """Independent ones, with probability p, and zeros: for every "element", or one for each "tensor"."""
        if per == "tensor":
            return self._noise(lambda t, generator: t.fill_(_coin(t, p, generator)))
        return self._noise(lambda t, generator: _real(t).bernoulli_(p, generator=generator).to(t.dtype))

    def randn(self) -> Vec:
        """Independent standard normal noise.

        The same wherever the result is used, but new at every call and every step. It occupies no memory: each use
        makes it again from its seed. The global generators are not touched.
        """
        return self._noise(lambda t, generator: t.normal_(generator=generator))

    def random_signs(self) -> Vec:
        """Independent random signs, -1 or 1; otherwise as `randn`."""
        return self._noise(_signs)

    def _noise(self, draw: Callable[[Tensor, torch.Generator], Tensor]) -> Vec:
        self.draws += 1
        return Noise(self, draw, (*self._seed, self.draws))


class Adapted(Weights):
    """Frozen weights, with what adapters add.

    Args:
        found: weights, and functions that compute what is added.
        seed: of the noise.
    """

    pointwise = False  # a change is computed for a whole tensor

    def __init__(self, found: Sequence[tuple[Tensor, Callable[[], Tensor]]], seed: tuple[int, ...]):
        weights = [weight for weight, _ in found]
        super().__init__(Scope(weights, range(len(weights))), weights, seed)
        self._changes = [change for _, change in found]

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """W + s B A."""
        piece = super().at(block, scope)
        if piece is None:
            return None
        pairs = zip(block.indices, piece.tensors, strict=True)
        return Piece([t + self._changes[i]().to(t.dtype) for i, t in pairs], fresh=True)

    def _noise(self, draw: Callable[[Tensor, torch.Generator], Tensor]) -> Vec:
        self.draws += 1
        return Noise(Tensors(self.scope, self.values), draw, (*self._seed, self.draws))


class Zero(Vec):
    """Zeros in the shape of the weights, which no sum evaluates."""

    def __init__(self, w: Vec):
        self.w = w
        self.args = (w,)

    def __add__(self, other: Vec | float) -> Vec:
        return other if isinstance(other, Vec) else super().__add__(other)

    __radd__ = __add__

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """Zeros."""
        piece = self.w.at(block, scope)
        return None if piece is None else Piece([torch.zeros_like(t) for t in piece.tensors], fresh=True)


class Noise(Vec):
    """Random numbers in the shape of the weights, made again from their seed at every evaluation."""

    pointwise = False  # a slice of a tensor would draw the numbers of its beginning

    def __init__(self, w: Vec, draw: Callable[[Tensor, torch.Generator], Tensor], seed: tuple[int, ...]):
        self.w, self.draw, self.seed = w, draw, seed
        self.args = (w,)

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """Draw each parameter's noise from its own generator."""
        piece = self.w.at(block, scope)
        if piece is None:
            return None
        generator = torch.Generator(piece.tensors[0].device)
        noise = []
        for i, t in zip(block.indices, piece.tensors, strict=True):
            digest = hashlib.blake2b(repr((*self.seed, i)).encode(), digest_size=7).digest()
            generator.manual_seed(int.from_bytes(digest, "big"))
            shards = scope.shards[i]
            if shards is None:
                noise.append(self.draw(torch.empty_like(t), generator))
            else:  # the whole tensor's, so that it does not depend on the number of processes
                noise.append(shards.part(self.draw(shards.empty(like=t), generator)))
        return Piece(noise, fresh=True)


class Rates(Vec):
    """The learning rate of every parameter, in the shape of the weights."""

    def __init__(self, w: Vec, base: BaseState):
        self.w, self.rates = w, base.rates()
        self.args = (w,)

    def at(self, block: Block, scope: Scope) -> Piece | None:
        """Constants."""
        piece = self.w.at(block, scope)
        if piece is None:
            return None
        pairs = zip(piece.tensors, block.indices, strict=True)
        return Piece([torch.full_like(t, self.rates[i]) for t, i in pairs], fresh=True)


def _coin(t: Tensor, p: float, generator: torch.Generator) -> float:
    return float(torch.rand((), device=t.device, generator=generator) < p)


def _signs(t: Tensor, generator: torch.Generator) -> Tensor:
    return _real(t).bernoulli_(0.5, generator=generator).mul_(2).sub_(1).to(t.dtype)


def _real(t: Tensor) -> Tensor:
    return t.real if t.is_complex() else t


#: What optimizers call the running mean (or sum) of the gradients: SGD and Muon; Adam and its relatives.
MOMENTA = ("momentum_buffer", "exp_avg")


class BaseState:
    """A base optimizer, read only.

    Args:
        base: the optimizer.
        steps: how many it has taken.
    """

    def __init__(self, base: Optimizer, steps: int):
        self._base, self._steps = base, steps

    def momentum(self) -> list[Tensor | None]:
        """Of every parameter; None before the first step, and for those that never had a gradient.

        Raises:
            RuntimeError: the base optimizer keeps none.
        """
        found = [self._momentum(p) for p in self._params()]
        if self._steps and all(v is None for v in found):
            raise RuntimeError(
                f"the method reads the momentum of its base optimizer, and this {type(self._base).__name__} keeps "
                "none; write torch.optim.SGD(net.parameters(), lr=..., momentum=0.9), or use AdamW"
            )
        return found

    def rates(self) -> list[float]:
        """The learning rate of every parameter."""
        return [float(group["lr"]) for group in self._base.param_groups for _ in group["params"]]

    def _momentum(self, p: Tensor) -> Tensor | None:
        state = self._base.state.get(p, {})
        return next((state[name] for name in MOMENTA if state.get(name) is not None), None)

    def _params(self) -> Iterator[Tensor]:
        return (p for group in self._base.param_groups for p in group["params"])

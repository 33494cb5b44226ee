"""The leaf `w`, and noise in its shape."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from flatmin.evaluate import Piece
from flatmin.space import Block, Scope, Values
from flatmin.vector import Tensors, Vec


class Weights(Tensors):
    """The weights, as a method sees them.

    Args:
        scope: all parameters of the optimizer.
        values: the same, with None for frozen ones.
        seed: of the noise drawn in this step.
    """

    def __init__(self, scope: Scope, values: Values, seed: tuple[int, ...]):
        super().__init__(scope, values)
        self._seed = seed
        #: How many noises were drawn.
        self.draws = 0

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


def _signs(t: Tensor, generator: torch.Generator) -> Tensor:
    real = t.real if t.is_complex() else t
    real.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    return real.to(t.dtype)

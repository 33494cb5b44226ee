"""Gradients from derivatives along random tangents, by forward-mode differentiation.

ForwardGradient: arXiv 2202.08587. MultiTangent: arXiv 2410.17764, whose orthogonal aggregation the authors call FROG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flatmin.checks import at_least, one_of
from flatmin.entry import Paper
from flatmin.estimators.estimated import Estimation
from flatmin.estimators.tangents import check_distribution, tangent
from flatmin.protocol import Ask, Memory, Number, Vec, Weights
from flatmin.vectors.tangents import Combination, elements, elements_of, projection

FORWARD_PAPER = Paper(
    "Gradients without Backpropagation",
    "Baydin, Atilim Gunes and Pearlmutter, Barak A. and Syme, Don and Wood, Frank and Torr, Philip",
    2022,
    "2202.08587",
)
MULTI_TANGENT_PAPER = Paper(
    "Beyond Backpropagation: Optimization with Multi-Tangent Forward Gradients",
    "Flügel, Katharina and Coquelin, Daniel and Weiel, Marie and Streit, Achim and Götz, Markus",
    2024,
    "2410.17764",
)


@dataclass(frozen=True)
class ForwardGradient:
    """An unbiased estimate of the gradient from its components along random tangents.

        v₁ ... v_k random, with mean 0 and E[v vᵀ] = 1
        dᵢ = ∇f(w) · vᵢ                  by one forward pass that carries vᵢ along
        g  = (1/k) Σ dᵢ vᵢ

    The relative error E‖g − ∇f‖² / ‖∇f‖² for n parameters is (n + 1) / k with "gaussian" tangents, and (n − 1) / k with
    the others. So the learning rate must be about n / k times smaller than with backpropagation.

    Args:
        tangents: k; >= 1. The paper: 1.
        distribution: of v: "gaussian", as in the paper, "rademacher" (random signs), or "sphere" (of radius √n).

    Cost: k forward passes with a tangent per gradient, each counted as one gradient: a product of matrices in the
    forward pass becomes three. No graph and no copy of the weights is kept; activations take twice the memory of
    inference.

    Differs from the paper: nothing is known to.

    Examples:
        >>> import torch, flatmin
        >>> net = torch.nn.Linear(4, 1)
        >>> base = torch.optim.SGD(net.parameters(), lr=0.01)
        >>> opt = flatmin.FlatOptimizer(base, flatmin.SAM(), gradient=ForwardGradient(tangents=4))
        >>> x, y = torch.randn(8, 4), torch.randn(8, 1)
        >>> loss = opt.step(lambda: torch.nn.functional.mse_loss(net(x), y))
    """

    tangents: int = 1
    distribution: str = "gaussian"

    #: No backward pass is asked for.
    backpropagates = False

    def __post_init__(self) -> None:
        at_least("tangents", self.tangents, 1, whole=True)
        check_distribution(self.distribution)

    def draw(self, w: Weights, memory: Memory) -> Sequence[Vec]:
        """v₁ ... v_k."""
        return [tangent(w, self.distribution) for _ in range(self.tangents)]

    def estimate(self, ask: Ask, tangents: Sequence[Vec], memory: Memory) -> Estimation:
        """g = (1/k) Σ dᵢ vᵢ."""
        d = []
        for v in tangents:
            f = yield ask.derivative(along=v)
            d.append(f.slope)
        return Combination(d, tangents) / len(tangents)


@dataclass(frozen=True)
class MultiTangent:
    """The part of the gradient that lies in the span of k random tangents, in place of a mean over them.

        v₁ ... v_k standard normal, the columns of V
        dᵢ = ∇f(w) · vᵢ
        g  = c V (VᵀV)⁻¹ d               "orthogonal", called FROG: ∇f projected on the span of V, times c
        g  = (1/k) Σ dᵢ vᵢ               "mean"

    The projection is exact for k = n, the number of parameters, and never longer than the gradient: its expected square
    is k / n of the gradient's. So it tolerates learning rates like those of backpropagation, while the mean is about
    √(n / k) times longer than the gradient. The directions of the two hardly differ for k ≪ n. The relative error
    E‖g − ∇f‖² / ‖∇f‖² of the projection is 1 − k / n with c = 1, and n / k − 1 with c = n / k.

    Args:
        tangents: k; >= 1. More than n of them count as n. The authors: 1, 2, 4 and 16.
        aggregate: "orthogonal" or "mean".
        scale: c: "none" is 1, "length" makes the expected length that of the gradient, E[χₙ] / E[χₖ] with the lengths χ
            of standard normal vectors, "unbiased" is n / k. Not for "mean", which is unbiased.
        simulate: compute the gradient by backpropagation, and project it. The steps are the same to rounding, and take
            one gradient each: for experiments on how good the estimate is, not on how fast. The authors' code trains
            networks so by default.

    Cost: k forward passes with a tangent per gradient, each counted as one gradient. Of the largest parameter k copies
    in double precision; tangents are made again from their seeds wherever they are used.

    Differs from the paper: the Gram matrix is inverted by its eigenvalues, so dependent tangents do no harm.

    Examples:
        >>> MultiTangent(tangents=16)
        MultiTangent(tangents=16, aggregate='orthogonal', scale='none', simulate=False)
    """

    tangents: int = 4
    aggregate: str = "orthogonal"
    scale: str = "none"
    simulate: bool = False

    def __post_init__(self) -> None:
        at_least("tangents", self.tangents, 1, whole=True)
        one_of("aggregate", self.aggregate, ("orthogonal", "mean"))
        one_of("scale", self.scale, ("none", "length", "unbiased"))
        if self.aggregate == "mean" and self.scale != "none":
            raise ValueError(f"scale must be 'none' with aggregate='mean', which is unbiased, got {self.scale!r}")

    @property
    def backpropagates(self) -> bool:
        """Whether the estimate is simulated."""
        return self.simulate

    def draw(self, w: Weights, memory: Memory) -> Sequence[Vec]:
        """v₁ ... v_k."""
        return [tangent(w, "gaussian") for _ in range(min(self.tangents, elements(w)))]

    def estimate(self, ask: Ask, tangents: Sequence[Vec], memory: Memory) -> Estimation:
        """g = c V (VᵀV)⁻¹ d."""
        d: list[Number] = []
        if self.simulate:
            gradient = yield ask
            d = [gradient.dot(v) for v in tangents]
        else:
            for v in tangents:
                f = yield ask.derivative(along=v)
                d.append(f.slope)
        if self.aggregate == "mean":
            return Combination(d, tangents) / len(tangents)
        return self._factor(tangents) * projection(d, tangents)

    def _factor(self, tangents: Sequence[Vec]) -> float:
        """c."""
        if self.scale == "none":
            return 1.0
        n, k = elements_of(tangents), len(tangents)
        return n / k if self.scale == "unbiased" else mean_length(n) / mean_length(k)


def mean_length(n: int) -> float:
    """E[χₙ], the mean length of a standard normal vector of n components: about √n."""
    return math.sqrt(2) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))

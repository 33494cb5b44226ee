"""Gradients from losses alone.

ZerothOrder: two points on a random line, arXiv 2305.17333 (MeZO). HybridZerothOrder: random directions and single
coordinates, arXiv 2012.11518, of which only the abstract could be read; what is our reading is marked as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatmin.checks import at_least, between, one_of
from flatmin.entry import Paper
from flatmin.estimators.estimated import Estimation
from flatmin.estimators.tangents import check_distribution, tangent
from flatmin.protocol import Ask, Gradient, Memory, Number, Vec, Weights
from flatmin.vectors.tangents import Combination, Coordinates, flat

MEZO_PAPER = Paper(
    "Fine-Tuning Language Models with Just Forward Passes",
    "Malladi, Sadhika and Gao, Tianyu and Nichani, Eshaan and Damian, Alex and Lee, Jason D. and Chen, Danqi and "
    "Arora, Sanjeev",
    2023,
    "2305.17333",
)
HYBRID_PAPER = Paper(
    "Zeroth-Order Hybrid Gradient Descent: Towards A Principled Black-Box Optimization Framework",
    "Sharma, Pranay and Xu, Kaidi and Liu, Sijia and Chen, Pin-Yu and Lin, Xue and Varshney, Pramod K.",
    2020,
    "2012.11518",
)


@dataclass(frozen=True)
class ZerothOrder:
    """An estimate of the gradient from the losses at two points on a random line, at the memory of inference.

        v₁ ... v_k random, with mean 0 and E[v vᵀ] = 1
        dᵢ = (f(w + μ vᵢ) − f(w − μ vᵢ)) / 2μ        sides = 2
        dᵢ = (f(w + μ vᵢ) − f(w)) / μ               sides = 1
        g  = (1/k) Σ dᵢ vᵢ

    With "gaussian" directions and two sides, E[g] is the gradient of the loss averaged over a Gaussian of standard
    deviation μ around w: f + ½ μ² tr ∇²f up to fourth order in μ. So it is drawn to small traces of the Hessian, and
    exact on a quadratic. The relative error for n parameters is that of `ForwardGradient`, (n + 1) / k or (n − 1) / k.

    **Memory.** Directions are made again from their seeds wherever they are used. The weights are displaced where they
    are read, and never written, so no copy is kept, and nothing is lost to rounding. `opt.step(closure)` on a base
    optimizer of `torch.optim` makes the direction a few parameters at a time, and leaves no `p.grad`. SGD without
    momentum then needs the memory of inference and three times the largest parameter. In the loop over `opt.probes()`
    `p.grad` holds the whole direction. A network that is compiled, scripted or sharded needs one copy.

    Args:
        directions: k; >= 1. The paper: 1.
        mu: μ, in the unit of the weights; > 0. The paper: 1e-3. In bfloat16 a displacement below 0.2 % of a weight is
            lost to rounding: use 1e-2, or keep the weights in float32.
        distribution: of v: "gaussian", as in the paper, "rademacher" (random signs), or "sphere" (of radius √n).
        sides: 2, or 1 for k + 1 forward passes instead of 2 k, with an error of the order of μ.

    Cost: 2 k forward passes per gradient, or k + 1: each counts as a third of a gradient.

    Differs from the paper: the weights are restored exactly; the authors subtract the noise again. The parts of a step
    that follow from several losses (momentum, Adam's moments) are those of the base.

    Examples:
        >>> import torch, flatmin
        >>> net = torch.nn.Linear(4, 1)
        >>> base = torch.optim.SGD(net.parameters(), lr=0.01)
        >>> opt = flatmin.FlatOptimizer(base, flatmin.PUGD(), gradient=ZerothOrder(directions=8))
        >>> x, y = torch.randn(8, 4), torch.randn(8, 1)
        >>> loss = opt.step(lambda: torch.nn.functional.mse_loss(net(x), y))
    """

    directions: int = 1
    mu: float = 1e-3
    distribution: str = "gaussian"
    sides: int = 2

    #: No backward pass is asked for.
    backpropagates = False

    def __post_init__(self) -> None:
        at_least("directions", self.directions, 1, whole=True)
        at_least("mu", self.mu, 0, strictly=True)
        check_distribution(self.distribution)
        one_of("sides", self.sides, (1, 2))

    def draw(self, w: Weights, memory: Memory) -> Sequence[Vec]:
        """v₁ ... v_k."""
        return [tangent(w, self.distribution) for _ in range(self.directions)]

    def estimate(self, ask: Ask, tangents: Sequence[Vec], memory: Memory) -> Estimation:
        """g = (1/k) Σ dᵢ vᵢ."""
        refuse_weighing(ask)
        d: list[Number] = []
        f: Gradient | None = (yield ask.value()) if self.sides == 1 else None
        for v in tangents:
            f_plus = yield ask.value(self.mu * v)
            f_minus = (yield ask.value(-self.mu * v)) if f is None else f
            d.append((f_plus.objective - f_minus.objective) / (self.sides * self.mu))
        return Combination(d, tangents) / len(tangents)


@dataclass(frozen=True)
class HybridZerothOrder:
    """An estimate from random directions and from single coordinates, the important ones more often.

        u₁ ... u_q uniform on the unit sphere;  i₁ ... i_m chosen coordinates, i with probability pᵢ
        D(v) = (f(w + μ v) − f(w − μ v)) / 2μ
        g_r = (n/q) Σ D(uⱼ) uⱼ                        random directions
        g_c = Σ D(eᵢ) eᵢ / pᵢ                         coordinates
        g   = α g_r + (1 − α) g_c
        pᵢ  = c sᵢ, between floor · m/n and 1, with c such that Σ pᵢ = m
        sᵢ ← (1 − β) sᵢ + β |D(eᵢ)|                   for the chosen i; 1 at first

    The variance of g_c is Σ (1/pᵢ − 1) gᵢ². Among all p with this sum it is smallest at pᵢ = min(1, c |gᵢ|). |gᵢ| is
    unknown, and sᵢ stands in for it. For black-box losses of up to some thousands of parameters.

    Args:
        directions: q; >= 0.
        coordinates: m; >= 0, at most n are used. One of q and m must be positive.
        alpha: α, the share of the random directions; in [0, 1]. 1 without coordinates, 0 without directions.
        mu: μ, in the unit of the weights; > 0.
        beta: β, how fast s follows; in [0, 1]. 0 chooses all coordinates alike.
        floor: the smallest p, in units of m / n; in (0, 1].

    Cost: 2 (q + m) forward passes per gradient, each a third of a gradient. Two vectors of n numbers on the CPU within
    a step, one is kept between steps.

    Differs from the paper: only its abstract could be read. The estimates are the standard ones, p is the optimum that
    we derived, and s is our proxy. Systematic sampling chooses exactly m coordinates, so that all steps cost the same.

    Examples:
        >>> HybridZerothOrder(directions=4, coordinates=8)
        HybridZerothOrder(directions=4, coordinates=8, alpha=0.5, mu=0.001, beta=0.3, floor=0.1)
    """

    directions: int = 4
    coordinates: int = 8
    alpha: float = 0.5
    mu: float = 1e-3
    beta: float = 0.3
    floor: float = 0.1

    #: No backward pass is asked for.
    backpropagates = False

    def __post_init__(self) -> None:
        at_least("directions", self.directions, 0, whole=True)
        at_least("coordinates", self.coordinates, 0, whole=True)
        if not self.directions + self.coordinates:
            raise ValueError("directions and coordinates must not both be 0")
        between("alpha", self.alpha, 0, 1)
        at_least("mu", self.mu, 0, strictly=True)
        between("beta", self.beta, 0, 1)
        between("floor", self.floor, 0, 1, "(]")

    def draw(self, w: Weights, memory: Memory) -> Sequence[Vec]:
        """√n u₁ ... √n u_q, and e_i for the chosen coordinates; memory holds their probabilities."""
        directions = [tangent(w, "sphere") for _ in range(self.directions)]
        s: Vec = memory.setdefault("s", w.zero() + 1.0)
        p = self._probabilities(flat(s, w))
        chosen = _systematic(p, w.uniform())
        memory["p"] = {str(i): float(p[i]) for i in chosen}
        memory["seen"] = False
        return [*directions, *(Coordinates(w, {i: 1.0}) for i in chosen)]

    def estimate(self, ask: Ask, tangents: Sequence[Vec], memory: Memory) -> Estimation:
        """g = α g_r + (1 − α) g_c."""
        refuse_weighing(ask)
        d: list[Number] = []
        for v in tangents:
            f_plus = yield ask.value(self.mu * v)
            f_minus = yield ask.value(-self.mu * v)
            d.append((f_plus.objective - f_minus.objective) / (2 * self.mu))
        q, p = self.directions, memory["p"]
        if not memory["seen"] and ask.only is None:  # the first point of a step
            memory["seen"] = True
            memory["s"] = self._followed(memory["s"], dict(zip(p, d[q:], strict=True)), tangents)
        alpha = 1.0 if not p else self.alpha if q else 0.0
        shares = [alpha / max(q, 1)] * q + [(1 - alpha) / p_i for p_i in p.values()]
        return Combination([share * slope for share, slope in zip(shares, d, strict=True)], tangents)

    def _probabilities(self, s: Tensor) -> Tensor:
        """pᵢ = c sᵢ between floor · m/n and 1, with the sum m: c by bisection."""
        n = len(s)
        m = min(self.coordinates, n)
        low, s = self.floor * m / n, s.clamp(min=1e-30)
        lower, upper = 0.0, n / float(s.min())
        for _ in range(200):
            c = (lower + upper) / 2
            total = float((c * s).clamp(low, 1.0).sum())
            lower, upper = (c, upper) if total < m else (lower, c)
        return (upper * s).clamp(low, 1.0)

    def _followed(self, s: Vec, d: dict[str, Number], tangents: Sequence[Vec]) -> Vec:
        """s, moved towards the size of what was seen at the chosen coordinates."""
        e = tangents[self.directions :]
        changes = [self.beta * ((slope * slope) ** 0.5 - s.dot(v)) for v, slope in zip(e, d.values(), strict=True)]
        return s + Combination(changes, e) if changes else s


def refuse_weighing(ask: Ask) -> None:
    """Refuse weights of the examples that depend on the losses, and so on the point.

    Raises:
        RuntimeError: the method weighs examples.
    """
    if ask.weigh is not None:
        raise RuntimeError(
            "the method weighs examples, by weights that would differ from point to point; write "
            "gradient=flatmin.ForwardGradient(), which holds them still"
        )


def _systematic(p: Tensor, start: float) -> list[int]:
    """Indices, each once with its probability, as many as the probabilities add up to: where steps of one land."""
    total = round(float(p.sum()))
    points = torch.arange(total, dtype=torch.float64) + start
    found = torch.searchsorted(p.cumsum(0), points, right=True).clamp(max=len(p) - 1)
    return sorted(set(found.tolist()))

"""The gradient at a worse neighbour: SAM (arXiv 2010.01412), ASAM (2102.11600), AMP (2010.04925)."""

import math

import numpy as np

from .vector import flat, join, norm, split, unit


@flat
def sam(w, grad, rho=0.05, p=2):
    g = grad(w)
    delta = rho * np.sign(g) if p == math.inf else rho * unit(g)
    return grad(w + delta)


def asam(w, grad, rho=0.5, eta=0.01, on="all"):
    """The ball is measured in units of the weights, T = |w| + η; in "matrices", vectors keep the plain unit T = 1."""
    T = join([abs(t) + eta if on == "all" or t.ndim > 1 else np.ones_like(t) for t in w])
    g = join(grad(w))
    # δ = ρ T²g / ‖Tg‖ : one T for the steepest direction in the scaled space, one to come back from it.
    delta = rho * T * unit(T * g)
    return grad(split(join(w) + delta, w))


def amp(w, grad, epsilon=0.5, zeta=1.0, steps=1, norm="global"):
    """Clipped ascent, not normalised: a small gradient gives a small perturbation."""
    delta = [np.zeros_like(t) for t in w]
    for _ in range(steps):
        g = grad([t + d for t, d in zip(w, delta, strict=True)])
        delta = [d + zeta * gi for d, gi in zip(delta, g, strict=True)]
        if norm == "global":
            delta = split(into_ball(join(delta), epsilon), w)
        else:
            delta = [into_ball(d, epsilon) for d in delta]
    return grad([t + d for t, d in zip(w, delta, strict=True)])


def into_ball(v, radius):
    return v if norm(v) <= radius else radius * unit(v)

"""Estimates of gradients: arXiv 2202.08587, 2410.17764, 2305.17333, and 2012.11518 in our reading.

An estimate is a function of the loss f and its gradient at one point, and of the tangents of the step: long vectors.
"""

import numpy as np

from .vector import join, norm, split


def forward_gradient(f, g, vs):
    return sum((g @ v) * v for v in vs) / len(vs)


def multi_tangent(f, g, vs, aggregate="orthogonal", factor=1.0):
    if aggregate == "mean":
        return forward_gradient(f, g, vs)
    V = np.stack(vs, axis=1)
    return factor * V @ np.linalg.lstsq(V, g, rcond=None)[0]  # the nearest point of the span


def central(f, v, mu):
    return (f(mu * v) - f(-mu * v)) / (2 * mu)


def zeroth_order(f, g, vs, mu=1e-3, sides=2):
    if sides == 2:
        return sum(central(f, v, mu) * v for v in vs) / len(vs)
    return sum((f(mu * v) - f(0 * v)) / mu * v for v in vs) / len(vs)


def sphere(v):
    """On the sphere of radius √n."""
    return np.sqrt(v.size) * v / norm(v)


def water_fill(s, m, floor):
    """pᵢ = c sᵢ between the floor and 1 that add up to m, for every c at which one of them changes its kind."""
    n = s.size
    low = floor * m / n
    total = lambda c: np.clip(c * s, low, 1).sum()  # noqa: E731  # piecewise linear in c
    kinks = np.sort(np.concatenate([low / s, 1 / s]))
    c = np.interp(m, [total(c) for c in kinks], kinks)
    return np.clip(c * s, low, 1)


def systematic(p, start):
    """Where start, start + 1, ... fall among the sums of p."""
    ends = np.cumsum(p)
    return [int(np.searchsorted(ends, start + k, side="right")) for k in range(round(p.sum()))]


def hybrid(w, see, memory, point, directions, coordinates, alpha=0.5, mu=1e-3, beta=0.3, floor=0.1):
    """One step at one point: the estimate, and the memory s moved on."""
    n = join(w).size
    us = [sphere(join(see.noise("randn"))) for _ in range(directions)]
    s = memory.setdefault("s", np.ones(n))
    p = water_fill(s, min(coordinates, n), floor) if coordinates else np.zeros(n)
    chosen = systematic(p, see.noise("uniform"))
    f = loss_at(see, w, point)
    g = np.zeros(n)
    alpha = alpha if directions and coordinates else float(directions > 0)
    for u in us:
        g += alpha / directions * central(f, u, mu) * u
    for i in chosen:
        e = np.eye(n)[i]
        d = central(f, e, mu)
        g += (1 - alpha) / p[i] * d * e
        s[i] = (1 - beta) * s[i] + beta * abs(d)
    return g


def loss_at(see, like, point):
    """The mean loss as a function of a shift from a point."""
    return lambda shift: np.mean(see.losses(split(point + shift, like)))


class Estimating:
    """An oracle whose gradients are estimates, all along the same tangents."""

    def __init__(self, see, tangents, estimate):
        self._see, self._tangents, self._estimate = see, tangents, estimate
        self.noise, self.coin, self.momentum, self.lr = see.noise, see.coin, see.momentum, see.lr

    def grad(self, w):
        g = join(self._see.grad(w))
        return split(self._estimate(loss_at(self._see, w, join(w)), g, self._tangents), w)


def estimated(step, estimate, k, kind="randn", shape=lambda v: v):
    """The twin of a method on estimated gradients: `k` tangents a step, drawn as noise of some kind."""

    def run(w, see, memory):
        tangents = [shape(join(see.noise(kind))) for _ in range(k)]
        return step(w, Estimating(see, tangents, estimate), memory)

    return run

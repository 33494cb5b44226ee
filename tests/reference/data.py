"""Noise, chosen and weighed examples, steps that read the loss.

ARWP and m-RWP (arXiv 2404.00357, the authors' code), TSAM (2410.22656), Entropy-SGD (1611.01838), ESAM (2110.03141),
K-SAM (2210.12864), Focal-SAM (2505.01660), ImbSAM (2308.07815), Polyak's step as in 2010.04786.
"""

import math

import numpy as np

from .vector import flat_step, norm, unit


def filter_lengths(t):
    """Of every filter; a vector is one. Shaped to multiply."""
    axes = tuple(range(1, t.ndim)) if t.ndim > 1 else None
    return np.sqrt(np.sum(t * t, axis=axes, keepdims=True))


def filter_noise(w, see, memory, sigma, eta, power):
    F = memory.setdefault("F", [0 * filter_lengths(t) for t in w])
    z = see.noise("randn")
    return [sigma * filter_lengths(t) * zi / (1 + eta * Fi) ** power for t, zi, Fi in zip(w, z, F, strict=True)]


def remember_squares(g, memory, beta, form):
    def squares(t):
        return t**2 if form == "code" and t.ndim == 1 else filter_lengths(t) ** 2

    memory["F"] = [beta * Fi + squares(gi) for Fi, gi in zip(memory["F"], g, strict=True)]


def arwp(w, see, memory, sigma=0.01, eta=0.1, beta=0.99, power=0.25, form="paper"):
    n = filter_noise(w, see, memory, sigma, eta, power)
    g = see.grad([t + ni for t, ni in zip(w, n, strict=True)])
    remember_squares(g, memory, beta, form)
    return g


def m_rwp(w, see, memory, sigma=0.015, eta=0.0, beta=0.99, power=0.25, form="paper", lam=0.5, halves=True):
    examples = np.arange(len(see.problem.labels))
    even, odd = (examples[::2], examples[1::2]) if halves else (examples, examples)
    clean = see.grad_of(w, odd)
    n = filter_noise(w, see, memory, sigma, eta, power)
    perturbed = see.grad_of([t + ni for t, ni in zip(w, n, strict=True)], even)
    remember_squares(perturbed, memory, beta, form)
    return [lam * p + (1 - lam) * c for p, c in zip(perturbed, clean, strict=True)]


@flat_step
def tsam(w, see, memory, radius=1.0, tilt=1.0, n=3, rho=0.0):
    losses, gradients = [], []
    for _ in range(n):
        point = w + radius * unit(see.noise("randn"))
        if rho > 0:
            point = point + rho * unit(see.grad(point))
        gradients.append(see.grad(point))
        losses.append(see.known_losses(point).mean())
    odds = np.exp(tilt * (np.array(losses) - max(losses)))
    return sum(p * g for p, g in zip(odds / odds.sum(), gradients, strict=True))


@flat_step
def entropy_sgd(w, see, memory, steps=5, inner_lr=0.1, gamma=0.01, scoping=0.0, noise=1e-4, alpha=0.75, form="paper"):
    t = memory["t"] = memory.get("t", -1) + 1
    pull = gamma * (1 + scoping) ** t
    x, mu = w, w
    for _ in range(steps):
        x = x - inner_lr * (see.grad(x) + pull * (x - w))
        if noise > 0:
            temperature = {"paper": 1, "code": 2}[form]
            x = x - math.sqrt(temperature * inner_lr) * noise * see.noise("randn")
        mu = alpha * mu + (1 - alpha) * x
    return (w - mu) / inner_lr


def highest(values, share):
    """The indices of the ceil(share n) largest."""
    return np.argsort(values)[-math.ceil(share * len(values)) :]


@flat_step
def esam(w, see, memory, rho=0.05, beta=0.6, gamma=0.5, per="tensor"):
    e = rho * unit(see.grad(w))
    if beta < 1:
        e = see.noise("bernoulli", beta, per) * e / beta
    if gamma == 1:
        return see.grad(w + e)
    rise = see.losses(w + e) - see.known_losses(w)
    return see.grad_of(w + e, highest(rise, gamma))


@flat_step
def k_sam(w, see, memory, rho=0.05, share=0.5):
    chosen = highest(see.losses(w), share)
    return see.grad_of(w + rho * unit(see.grad_of(w, chosen)), chosen)


def weighted_sam(w, see, c, rho, factor=1):
    """The gradient of mean((1 − c) f)(w) + factor · mean(c f)(w + e), e uphill for the second."""
    e = rho * unit(see.grad(w, c))
    return factor * see.grad(w + e, c) + see.grad(w, 1 - c)


@flat_step
def focal_sam(w, see, memory, counts=(1,) * 10, rho=0.2, gamma=3.0, lam=0.5):
    n = np.array(counts)[see.labels]
    return weighted_sam(w, see, lam * (1 - n / sum(counts)) ** gamma, rho)


@flat_step
def imb_sam(w, see, memory, counts=(1,) * 10, rho=0.05, rare=100, weight=1):
    is_rare = np.array(counts)[see.labels] < rare
    return weighted_sam(w, see, is_rare.astype(float), rho, weight)


@flat_step
def tilted_ugd(w, see, memory, tilt=5.0):
    memory["highest"] = max(memory.get("highest", 0), see.lr)
    odds = np.exp(-tilt * (1 - see.lr / memory["highest"]) * see.known_losses(w))
    return unit(see.grad(w, odds / odds.sum()))


@flat_step
def polyak(w, see, memory, target=0.0, cap=10.0):
    g = see.grad(w)
    return min(max(see.known_losses(w).mean() - target, 0) / norm(g) ** 2, cap) * g


def m_arwp(w, see, memory, eta=0.1, **hyper):
    return m_rwp(w, see, memory, eta=eta, **hyper)

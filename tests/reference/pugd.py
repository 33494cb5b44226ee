"""Perturbated Unit Gradient Descent, arXiv 2110.00199."""

from .vector import flat, unit


@flat
def pugd(w, grad, radius=1.0):
    """|w| enters once (ASAM has it twice), and both gradients are summed before the normalisation."""
    g = grad(w)
    delta = radius * unit(abs(w) * g)
    g_star = grad(w + delta)
    return unit(g_star + g)

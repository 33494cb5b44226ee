"""Channel-directed gradients (arXiv 2008.10766), our reading: the gradient in a metric along the output channels."""

import numpy as np


def channel_directed(g, metric="l2", lam=1.0, boundary="neumann"):
    """The G with ⟨G, k⟩ in the metric equal to the plain ⟨g, k⟩ for all k, i.e. solve M G = g along dim 0."""
    n = len(g)
    return np.linalg.solve(gram(metric, n, lam, boundary), g.reshape(n, -1)).reshape(g.shape)


def gram(metric, n, lam, boundary="neumann"):
    """The metric on n channels as a dense matrix. The channel axis has length one, so h' is n times the difference."""
    eye, mean = np.eye(n), np.full((n, n), 1 / n)
    roughness = -(n**2) * second_difference(n, boundary)
    return {
        "l2": mean + lam * (eye - mean),  # h̄k̄ + λ avg((h-h̄)(k-k̄))
        "h1": eye + lam * roughness,  # avg(hk) + λ avg(h'k')
        "tilde-h1": mean + lam * roughness,  # h̄k̄ + λ avg(h'k')
    }[metric]


def second_difference(n, boundary="neumann"):
    """(Δh)ᵢ = Σ (neighbour - hᵢ). Neumann: an end has one neighbour. Periodic: the ends are neighbours."""
    delta = np.zeros((n, n))
    for i in range(n):
        for j in (i - 1, i + 1):
            if boundary == "periodic" or 0 <= j < n:
                delta[i, j % n] += 1
                delta[i, i] -= 1
    return delta

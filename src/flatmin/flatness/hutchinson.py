"""The trace of the Hessian: the mean curvature over all directions, times their number.

M. F. Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing Splines", 1990.
With a sketch: R. A. Meyer, C. Musco, C. Musco, D. P. Woodruff, "Hutch++: Optimal Stochastic Trace Estimation", 2021,
arXiv 2010.09649.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flatmin.flatness.arguments import positive, whole
from flatmin.flatness.cost import Meter, Progress
from flatmin.flatness.risk import Risk
from flatmin.flatness.sampling import FEWEST, Estimate, enough, mean_and_error, signs

#: Dimensions of a sketch that nobody gave a size.
SKETCH = 10


def trace(
    risk: Risk,
    *,
    operator: str = "hessian",
    tol: float = 0.02,
    max_products: int = 200,
    sketch: int | None = None,
    block: int = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> Estimate:
    """The trace of H = ∇²L(w), in units of loss per squared unit of the weights.

        tr H = E zᵀ H z,    z random signs

    and with a sketch, where few eigenvalues are large and the others contribute less noise:

        Q = orth(H S), S of `sketch` columns of random signs
        tr H = tr Qᵀ H Q + E zᵀ P H P z,    P = 1 − Q Qᵀ

    Both are unbiased. Probes end when the standard error of the mean is within the tolerance, and not before the sixth;
    that the rule looks at the samples makes the error some percent too small.

    Args:
        risk: the loss surface.
        operator: "hessian" or "ggn".
        tol: standard error at which to stop, as a fraction of the trace.
        max_products: when to stop in any case, with the error that is reached by then.
        sketch: dimensions to treat exactly, at two products each; 0 for Hutchinson's plain estimator. By default 10,
            made of plain probes, as soon as these say that to go on like that would take more products.
        block: probes per pass over the data, which share its forward and first backward passes.
        seed: of the probes.
        progress: called after every block, with the products done and `max_products`.

    Returns:
        The trace with its standard error over the probes.

    Raises:
        ValueError: an argument is out of range; `max_products` leaves no two probes after the sketch.

    Cost: one product per probe and two per dimension of the sketch; float64 vectors: some two for each of `block` or
    of `sketch`, whichever is more.
    """
    positive("tol", tol)
    whole("block", block)
    if sketch is not None:
        whole("sketch", sketch, 0)
        if sketch >= risk.parameters:
            raise ValueError(f"sketch must be less than the number of parameters, {risk.parameters}, got {sketch}")
    whole("max_products", max_products, 2 * (sketch or 0) + 2)
    meter, generator = Meter(risk), torch.Generator().manual_seed(seed)
    H = _Products(risk, operator, block, max_products, progress)

    def draw(rows: int) -> Tensor:
        return signs(rows, risk.parameters, generator).to(risk.device)

    samples, plain = list[float](), list[Tensor]()
    while sketch is None and H.left and not enough(samples, tol):
        z = draw(min(block, H.left))
        Hz = H(z)
        samples += (z * Hz).sum(1).tolist()
        if risk.parameters > 10 * SKETCH:
            plain += [Hz] if len(samples) - len(z) < SKETCH else []
            sketch = SKETCH if _saves(samples, tol, H.left) else None
    exact, Q = 0.0, None
    if sketch:
        columns = torch.cat([*plain, H(draw(max(sketch - len(samples), 0)))])
        Q = torch.linalg.qr(columns[:sketch].T)[0]
        samples, exact = [], float((Q.T * H(Q.T)).sum())
        del columns
    plain.clear()
    while H.left and not enough(samples, tol, exact):
        z = draw(min(block, H.left))
        if Q is not None:
            z -= (z @ Q) @ Q.T
        samples += (z * H(z)).sum(1).tolist()
    mean, error = mean_and_error(samples)
    return Estimate(exact + mean, error, len(samples), tol, meter.read())


def _saves(samples: list[float], tol: float, left: int) -> bool:
    """Whether a sketch, and the fewest probes after it, takes less than to go on with plain probes."""
    if len(samples) < FEWEST:
        return False
    mean, error = mean_and_error(samples)
    plain = len(samples) * ((error / (tol * mean)) ** 2 - 1) if mean else math.inf
    sketched = 2 * SKETCH - min(len(samples), SKETCH) + FEWEST
    return sketched < plain and sketched <= left


class _Products:
    """The matrix times rows, some at a time, as long as there are products left.

    Args:
        risk: the loss surface.
        operator: which matrix of it.
        block: rows per pass over the data.
        most: products in all.
        progress: told after every block.
    """

    def __init__(self, risk: Risk, operator: str, block: int, most: int, progress: Progress | None):
        self._risk, self._operator, self._block, self._progress = risk, operator, block, progress
        self._most = self.left = most

    def __call__(self, rows: Tensor) -> Tensor:
        """(k, d) -> (k, d)."""
        found = []
        for part in torch.split(rows, self._block) if len(rows) else ():
            found.append(self._risk.product(part, self._operator))
            self.left -= len(part)
            if self._progress is not None:
                self._progress(self._most - self.left, self._most)
        return torch.cat(found) if found else rows

"""The methods as one would first write them: one loop over the parameters per operation, a fresh temporary each.

This is what the library's time is compared with. It is correct (a test holds it against the library), it is how most
published implementations look, and it is not slowed down on purpose.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Backward = Callable[[], None]


def _norm(tensors: list[Tensor]) -> Tensor:
    norm: Tensor = torch.stack([t.norm() for t in tensors]).norm()
    return norm


def _grads(params: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


@torch.no_grad()
def pugd(params: list[Tensor], base: torch.optim.Optimizer, backward: Backward) -> None:
    """PUGD: ascend along |w| g / ‖|w| g‖, then step along the unit-length sum of both gradients."""
    backward()
    first = [g.clone() for g in _grads(params)]
    scaled = [p.abs() * g for p, g in zip(params, first, strict=True)]
    norm = _norm(scaled)
    delta = [s / norm for s in scaled]
    home = [p.clone() for p in params]
    for p, d in zip(params, delta, strict=True):
        p.add_(d)
    backward()
    for p, h in zip(params, home, strict=True):
        p.copy_(h)
    total = [g_star + g for g_star, g in zip(_grads(params), first, strict=True)]
    norm = _norm(total)
    for p, t in zip(params, total, strict=True):
        p.grad = t / norm
    base.step()


@torch.no_grad()
def sam(params: list[Tensor], base: torch.optim.Optimizer, backward: Backward, rho: float = 0.05) -> None:
    """SAM: ascend along ρ g / ‖g‖, then step along the gradient found there."""
    backward()
    norm = _norm(_grads(params))
    delta = [rho * g / norm for g in _grads(params)]
    home = [p.clone() for p in params]
    for p, d in zip(params, delta, strict=True):
        p.add_(d)
    backward()
    for p, h in zip(params, home, strict=True):
        p.copy_(h)
    base.step()


@torch.no_grad()
def asam(
    params: list[Tensor], base: torch.optim.Optimizer, backward: Backward, rho: float = 0.5, eta: float = 0.01
) -> None:
    """ASAM: ascend along ρ T² g / ‖T g‖ with T = |w| + η, then step along the gradient found there."""
    backward()
    scale = [p.abs() + eta for p in params]
    scaled = [t * g for t, g in zip(scale, _grads(params), strict=True)]
    norm = _norm(scaled)
    delta = [rho * t * s / norm for t, s in zip(scale, scaled, strict=True)]
    home = [p.clone() for p in params]
    for p, d in zip(params, delta, strict=True):
        p.add_(d)
    backward()
    for p, h in zip(params, home, strict=True):
        p.copy_(h)
    base.step()

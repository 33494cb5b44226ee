"""What people run: the passes over the weights of other implementations, written from their description.

Each has the arithmetic, the temporaries and the lasting state of its model, and nothing else: no parameter groups, no
checks. So a time below theirs is not won against their overhead. A test holds them against the library.

- `composer_sam`: Composer's SAM: add e = ρ g / |g|, keep e, subtract it.
- `davda54_sam`: the SAM of most repositories: clone the weights, add e, put the clones back.
- `official_pugd`: the PUGD of its authors: add e = |w| g / | |w| g |, keep e and subtract it; the second gradient is
  added to the first by autograd, and the sum is scaled to length one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Backward = Callable[[], None]
#: parameter -> what an optimizer keeps for it between steps.
State = dict[Tensor, Any]

#: What they add to a norm before they divide by it.
SMALL = 1e-12


def _norm(tensors: list[Tensor]) -> Tensor:
    norm: Tensor = torch.stack([t.norm() for t in tensors]).norm()
    return norm


@torch.no_grad()
def composer_sam(
    params: Sequence[Tensor], base: torch.optim.Optimizer, backward: Backward, state: State, rho: float = 0.05
) -> None:
    """One step of SAM."""
    base.zero_grad()
    backward()
    scale = rho / (_norm([p.grad for p in params if p.grad is not None]) + SMALL)
    for p in params:
        if p.grad is not None:
            state[p] = p.grad * scale
            p.add_(state[p])
    base.zero_grad()
    backward()
    for p in params:
        p.sub_(state[p])
    base.step()


@torch.no_grad()
def davda54_sam(
    params: Sequence[Tensor], base: torch.optim.Optimizer, backward: Backward, state: State, rho: float = 0.05
) -> None:
    """One step of SAM."""
    base.zero_grad()
    backward()
    scale = rho / (_norm([p.grad for p in params if p.grad is not None]) + SMALL)
    for p in params:
        if p.grad is not None:
            state[p] = p.detach().clone()
            p.add_(p.grad * scale)
    base.zero_grad()
    backward()
    for p in params:
        p.data = state[p]
    base.step()


@torch.no_grad()
def official_pugd(params: Sequence[Tensor], base: torch.optim.Optimizer, backward: Backward, state: State) -> None:
    """One step of PUGD."""
    base.zero_grad()
    backward()
    scale = 1 / (_norm([p.abs() * p.grad for p in params if p.grad is not None]) + SMALL)
    for p in params:
        if p.grad is not None:
            state[p] = p.abs() * p.grad * scale
            p.add_(state[p])
    backward()  # autograd adds
    scale = 1 / (_norm([p.grad for p in params if p.grad is not None]) + SMALL)
    for p in params:
        if p.grad is not None:
            p.sub_(state[p])
            p.grad.mul_(scale)
    base.step()

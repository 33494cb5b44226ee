"""Half-inverse gradients: half-way between the gradient and the Gauss-Newton step. Experimental.

"Half-Inverse Gradients for Physical Deep Learning", ICLR 2022, arXiv 2203.10131. The formula is that of the authors'
page and code; nothing here comes from it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from flatmin.checks import between


def half_inverse_backward(
    loss: Tensor, outputs: Tensor, parameters: Iterable[Tensor], *, kappa: float = 0.5, rcond: float = 1e-6
) -> None:
    """In place of `loss.backward()`: put the half-inverse gradient into `p.grad`.

        J   = ∂y/∂w = U Λ Vᵀ             y: all outputs of the batch, (m,); n parameters
        p.grad = V Λ^{−κ} Uᵀ ∂L/∂y        singular values up to rcond · σ_max are left out

    κ = −1 is the gradient, κ = 1 the Gauss-Newton step. The paper has plain gradient descent as base; it works with any
    other, and with any method of flatmin, whose gradients it then replaces. For small networks and regression: physics,
    where outputs differ in scale by orders of magnitude.

    **Experimental.** Micro-batches do not add up to the batch, since J is that of the batch as a whole. Neither do the
    parts of several processes.

    Args:
        loss: a scalar, made of the outputs.
        outputs: what the network computed, of any shape; m numbers in all.
        parameters: that learn; others have no part in J.
        kappa: κ, in [−1, 1]. The paper: 1/2.
        rcond: in [0, 1). The authors: 1e-6 and 1e-5. The larger κ, the more it matters.

    Cost: m backward passes at once, J with m · n numbers in double precision, and its singular value decomposition,
    O(min(m, n)² max(m, n)). Some hundred outputs times some ten thousand parameters take a second.

    Raises:
        ValueError: an argument is out of range, or the loss is not made of the outputs.

    Examples:
        >>> net = torch.nn.Linear(3, 2)
        >>> opt = torch.optim.SGD(net.parameters(), lr=0.5)
        >>> outputs = net(torch.randn(4, 3))
        >>> half_inverse_backward(outputs.square().mean(), outputs, net.parameters())
        >>> opt.step()
    """
    between("kappa", kappa, -1, 1)
    between("rcond", rcond, 0, 1, "[)")
    learning = [p for p in parameters if p.requires_grad]
    (slopes,) = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
    if slopes is None:
        raise ValueError("loss must be made of the outputs; write outputs = net(x), loss = criterion(outputs, y)")
    m = outputs.numel()
    rows = torch.eye(m, dtype=outputs.dtype, device=outputs.device).view(m, *outputs.shape)
    parts = torch.autograd.grad(outputs, learning, rows, is_grads_batched=True, allow_unused=True)
    used = [(p, part) for p, part in zip(learning, parts, strict=True) if part is not None]
    jacobian = torch.cat([part.reshape(m, -1) for _, part in used], dim=1).double()
    direction = _half_inverse(jacobian, slopes.reshape(-1).double(), kappa, rcond)
    for (p, _), part in zip(used, torch.split(direction, [p.numel() for p, _ in used]), strict=True):
        p.grad = part.view(p.shape).to(p.dtype)


def _half_inverse(jacobian: Tensor, slopes: Tensor, kappa: float, rcond: float) -> Tensor:
    """V Λ^{−κ} Uᵀ g over the singular values above rcond · σ_max."""
    u, s, vh = torch.linalg.svd(jacobian, full_matrices=False)
    kept = s > rcond * s[0]
    powers = torch.where(kept, s, torch.ones_like(s)) ** -kappa * kept
    direction: Tensor = vh.t() @ (powers * (u.t() @ slopes))
    return direction

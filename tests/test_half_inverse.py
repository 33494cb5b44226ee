"""Half-inverse gradients against numpy, at the ends of kappa, and on outputs of two scales."""

import numpy as np
import pytest
import torch
from torch import nn

import flatmin


def problem(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2), nn.Linear(2, 2)).double()
    net[0].bias.requires_grad_(False)
    return net, torch.randn(4, 2).double(), torch.randn(4, 2).double()


def jacobian_and_slopes(net, x, y):
    """J by one backward pass for each output, and ∂L/∂y of the mean squared error."""
    outputs, learning = net(x), [p for p in net.parameters() if p.requires_grad]
    rows = [torch.autograd.grad(o, learning, retain_graph=True) for o in outputs.flatten()]
    J = np.stack([np.concatenate([g.numpy().ravel() for g in row]) for row in rows])
    return J, (2 * (outputs - y) / y.numel()).detach().numpy().ravel()


def half_inverse(net, x, y, **options):
    outputs = net(x)
    flatmin.half_inverse_backward((outputs - y).square().mean(), outputs, net.parameters(), **options)
    assert net[0].bias.grad is None
    return np.concatenate([p.grad.numpy().ravel() for p in net.parameters() if p.requires_grad])


@pytest.mark.parametrize("kappa", [-1, 0, 0.5, 1])
@pytest.mark.parametrize("rcond", [1e-9, 0.2])
def test_the_twin(kappa, rcond):
    """By the eigenvalues of J Jᵀ, in numpy: Jᵀ U Λ^{−κ−1} Uᵀ g."""
    net, x, y = problem()
    J, g = jacobian_and_slopes(net, x, y)
    squares, U = np.linalg.eigh(J @ J.T)
    kept = squares > max(rcond, 1e-7) ** 2 * squares.max()
    powers = np.where(kept, squares, 1.0) ** (-(kappa + 1) / 2) * kept
    np.testing.assert_allclose(
        half_inverse(net, x, y, kappa=kappa, rcond=rcond), J.T @ U @ (powers * (U.T @ g)), atol=1e-6
    )


def test_kappa_of_minus_one_is_the_gradient_and_of_one_the_gauss_newton_step():
    net, x, y = problem()
    J, g = jacobian_and_slopes(net, x, y)
    np.testing.assert_allclose(half_inverse(net, x, y, kappa=-1), J.T @ g, atol=1e-12)
    np.testing.assert_allclose(half_inverse(net, x, y, kappa=1), np.linalg.pinv(J, rcond=1e-6) @ g, atol=1e-8)


def test_an_output_of_another_scale_counts_by_half():
    """At κ = 1/2 an output that is c times as large moves the weight by c^−½ as much, per slope of the loss."""
    steps = {}
    for scale in (1.0, 1e-4):
        w = nn.Parameter(torch.ones(1, dtype=torch.float64))
        outputs = scale * w
        flatmin.half_inverse_backward(outputs.sum(), outputs, [w])
        steps[scale] = float(w.grad)
    assert steps[1e-4] / steps[1.0] == pytest.approx(1e-4**-0.5)


def test_it_takes_the_place_of_backward_in_a_method():
    net, x, y = problem()
    opt = flatmin.FlatOptimizer(torch.optim.SGD(net.parameters(), lr=0.5), flatmin.SAM(0.01))
    losses = []
    for _ in range(40):
        for probe in opt.probes():
            outputs = net(x)
            loss = (outputs - y).square().mean()
            flatmin.half_inverse_backward(loss, outputs, net.parameters())
            losses += [loss.item()] if probe == 0 else []
        opt.step()
    assert losses[-1] < 0.02 * losses[0]


def test_bad_arguments_are_refused():
    net, x, y = problem()
    for options, message in (
        ({"kappa": 2}, r"kappa must be in \[-1, 1\]"),
        ({"rcond": 1.0}, r"rcond must be in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            half_inverse(net, x, y, **options)
    with pytest.raises(ValueError, match="loss must be made of the outputs"):
        flatmin.half_inverse_backward(net(x).sum(), net(x), net.parameters())

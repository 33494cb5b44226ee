"""Updates without a part in a subspace, and the subspaces that inputs fill."""

import numpy as np
import pytest
import torch
from torch import nn

import flatmin
from flatmin.subspace import orthonormal


def columns(n, r, seed=0):
    return torch.randn(n, r, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(width=6, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(width, 4).double()


def without(change, *bases):
    """In numpy: each row minus its nearest point in the span of all bases together."""
    B = np.concatenate(bases, axis=1)
    return change - np.stack([B @ np.linalg.lstsq(B, row, rcond=None)[0] for row in change])


def train(opt, net, steps=4):
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def closure():
        opt.zero_grad()
        loss = (net(x) - 1).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        opt.step(closure)


@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("method", [None, flatmin.Plain(), flatmin.PUGD()], ids=str)
def test_updates_have_no_part_in_the_subspace(base, method):
    """Momentum, weight decay and Adam's scaling come before the projection."""
    net, B = layer(), columns(6, 2)
    options = {"momentum": 0.9} if base == "sgd" else {}
    make = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[base]
    made = make(net.parameters(), lr=0.1, weight_decay=0.1, **options)
    train(made, net, 2)  # momentum from before
    opt = made if method is None else flatmin.FlatOptimizer(made, method)
    flatmin.ProjectOut(opt, {net.weight: B, net.bias: None})
    before, bias, outputs = net.weight.detach().clone(), net.bias.detach().clone(), net(B.T).detach()
    train(opt, net)
    change = net.weight.detach() - before
    assert (change @ B).abs().max() < 1e-12 < change.abs().max()
    assert torch.equal(net.bias, bias)
    torch.testing.assert_close(net(B.T), outputs)


def test_a_step_is_the_twins_step():
    net, free, B, C = layer(), layer(), columns(6, 2), columns(6, 1, seed=1)
    opts = [torch.optim.SGD(each.parameters(), lr=0.1, weight_decay=0.1) for each in (net, free)]
    flatmin.ProjectOut(opts[0], {net.weight: [B, C]})
    before = net.weight.detach().numpy().copy()
    for opt, each in zip(opts, (net, free), strict=True):
        train(opt, each, 1)
    expected = without(free.weight.detach().numpy() - before, B.numpy(), C.numpy())
    np.testing.assert_allclose(net.weight.detach().numpy() - before, expected, atol=1e-14)
    torch.testing.assert_close(net.bias, free.bias)


def test_overlapping_bases_are_joined_and_not_taken_in_turn():
    """Toy of the plane: two directions 45 degrees apart fill it. In turn they leave a part in the first."""
    a, b = torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([[1.0], [1.0], [0.0]]) / 2**0.5
    weight = nn.Parameter(torch.zeros(1, 3))
    guard = flatmin.ProjectOut(torch.optim.SGD([weight], lr=1.0))
    for basis in (a, b):
        guard.add(weight, basis)
    g = torch.tensor([[0.3, 1.0, 0.7]])
    in_turn = g - (g @ a) @ a.T
    in_turn = in_turn - (in_turn @ b) @ b.T
    assert (in_turn @ a).abs() > 0.1
    torch.testing.assert_close(guard.project(weight, g), torch.tensor([[0.0, 0.0, 0.7]]))


def test_dependent_columns_count_once():
    B = orthonormal([columns(6, 2), columns(6, 2) @ torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()])
    assert B.shape == (6, 2)
    torch.testing.assert_close(B.T @ B, torch.eye(2).double())
    assert orthonormal(torch.zeros(6, 0)).shape == (6, 0)


def test_the_gradient_can_be_projected_instead():
    """Then weight decay acts in the subspace, too."""
    net, B = layer(), columns(6, 2)
    guard = None
    for decay in (0.0, 0.1):
        if guard is not None:
            guard.remove()
        opt = flatmin.FlatOptimizer(torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=decay), flatmin.PUGD())
        guard = flatmin.ProjectOut(opt, {net.weight: B}, when="gradient")
        before = net.weight.detach().clone()
        train(opt, net, 1)
        part = ((net.weight.detach() - before) @ B).abs().max()
        assert (part < 1e-12) == (decay == 0.0)


def test_removed_hooks_do_nothing():
    net, free = layer(), layer()
    opts = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (net, free)]
    flatmin.ProjectOut(opts[0], {net.weight: columns(6, 2)}).remove()
    for opt, each in zip(opts, (net, free), strict=True):
        train(opt, each, 1)
    assert torch.equal(net.weight, free.weight)


# -- the inputs of layers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(2, 4, 3),
        nn.Conv2d(2, 4, 3, padding="same", bias=False),
        nn.Conv2d(2, 4, 2, stride=2, padding=1, dilation=2),
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
    ],
    ids=str,
)
def test_outputs_on_earlier_inputs_stay(conv):
    """With all of the energy, in a network with a convolution and a linear layer."""
    net = nn.Sequential(conv, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)).double()
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64) if conv.kernel_size == (3, 3) else torch.randn(2, 2, 5, 5).double()
    opt = torch.optim.AdamW(net.parameters(), lr=0.1)
    bases = flatmin.input_bases(net, [x[:1], (x[1:],)], energy=1.0)
    assert bases[net[4].bias] is None
    assert net.training
    flatmin.ProjectOut(opt, bases)
    before, weight = net(x).detach(), net[4].weight.detach().clone()
    net(torch.randn_like(x)).square().mean().backward()
    opt.step()
    torch.testing.assert_close(net(x).detach(), before, atol=1e-6, rtol=1e-6)
    assert not torch.equal(net[4].weight, weight)


def test_as_few_directions_as_hold_the_energy():
    net = nn.Linear(8, 2, bias=False).double()
    x = torch.randn(50, 8, dtype=torch.float64) * torch.tensor([10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05])
    shares = np.cumsum(np.linalg.svd(x.numpy(), compute_uv=False) ** 2) / float(x.square().sum())
    for energy in (0.5, 0.9, 0.99):
        basis = flatmin.input_bases(net, [x], energy=energy)[net.weight]
        assert basis.shape[1] == int((shares < energy).sum()) + 1
        assert float((x @ basis).square().sum() / x.square().sum()) >= energy - 1e-9


def test_known_directions_count_for_the_energy_and_stay_first():
    net, x = nn.Linear(8, 2, bias=False).double(), torch.randn(50, 8, dtype=torch.float64)
    first = flatmin.input_bases(net, [x], energy=0.6)
    more = flatmin.input_bases(net, [x], energy=0.9, known=first)
    k = first[net.weight].shape[1]
    torch.testing.assert_close(more[net.weight][:, :k], first[net.weight])
    torch.testing.assert_close(more[net.weight].T @ more[net.weight], torch.eye(more[net.weight].shape[1]).double())
    assert more[net.weight].shape == flatmin.input_bases(net, [x], energy=0.9)[net.weight].shape


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda net, opt: flatmin.ProjectOut(net), "optimizer must be a torch.optim.Optimizer, got Linear"),
        (lambda net, opt: flatmin.ProjectOut(opt, when="after"), "when must be one of 'update', 'gradient'"),
        (lambda net, opt: flatmin.ProjectOut(opt, {net.weight: columns(5, 1)}), r"must be \(6, r\), got \(5, 1\)"),
        (lambda net, opt: flatmin.ProjectOut(opt, {net.bias: columns(4, 1)}), "None: a vector has no inputs"),
        (lambda net, opt: flatmin.ProjectOut(opt, {layer().weight: columns(6, 1)}), "in no group of the optimizer"),
        (lambda net, opt: flatmin.input_bases(net, [], energy=0.0), r"energy must be in \(0, 1\], got 0.0"),
        (
            lambda net, opt: flatmin.input_bases(nn.Conv2d(4, 4, 3, groups=2), [torch.zeros(1, 4, 5, 5)]),
            "without groups, got groups=2",
        ),
    ],
)
def test_bad_arguments_are_refused(act, message):
    net = layer()
    with pytest.raises((TypeError, ValueError), match=message):
        act(net, torch.optim.SGD(net.parameters(), lr=0.1))

"""Unlearning: a trained network forgets one digit, and should then be as one that was never shown it.

python examples/unlearning.py [SEED]

After SFR-on (arXiv 2409.19732), in our reading: a step up the loss of what is to be forgotten, on the weights that
matter more to it than to the rest; a step down the loss of the rest; then the weights go a part of this way only. Steps
up are UGD's: the loss has no upper bound, and plain ascent destroys the network.
"""

import copy
import sys

import torch
from digits import accuracy, load, network
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import flatmin

DIGIT, ROUNDS, SLOW = 3, 50, 0.5
train, test = load()


def split(data):
    """(images, labels) of the digit, and of the others."""
    x, y = data.tensors
    return [(x[chosen], y[chosen]) for chosen in (y == DIGIT, y != DIGIT)]


def fisher(net, x, y):
    """The squared gradients of the batches' losses, averaged: which weights matter."""
    total = [torch.zeros_like(p) for p in net.parameters()]
    for rows in torch.arange(len(x)).split(16):
        gradient = torch.autograd.grad(cross_entropy(net(x[rows]), y[rows]), list(net.parameters()))
        total = [t + g**2 * len(rows) / len(x) for t, g in zip(total, gradient, strict=True)]
    return total


def optimizer(net, method, **options):
    """A method on SGD."""
    return flatmin.FlatOptimizer(torch.optim.SGD(net.parameters(), **options), method, model=net)


def fit(net, x, y):
    """Train as usual."""
    opt = optimizer(net, flatmin.Plain(), lr=0.1, momentum=0.9)
    for rows in (rows for _ in range(15) for rows in torch.randperm(len(x)).split(64)):
        for _ in opt.probes():
            cross_entropy(net(x[rows]), y[rows]).backward()
        opt.step()
    return net.eval()


def unlearn(net, forget, remain):
    """Forget the one, keep the other."""
    mask = [f >= r for f, r in zip(fisher(net, *forget), fisher(net, *remain), strict=True)]
    up, down = optimizer(net, flatmin.UGD(), lr=0.1, maximize=True), optimizer(net, flatmin.Plain(), lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(up, ROUNDS)
    for _ in range(ROUNDS):
        slow = [p.detach().clone() for p in net.parameters()]
        for opt, (x, y) in ((up, forget), (down, remain)):
            rows = torch.randperm(len(x))[:64]
            for _ in opt.probes():
                cross_entropy(net(x[rows]), y[rows]).backward()
            for p, matters in zip(net.parameters(), mask, strict=True):
                p.grad *= matters if opt is up else 1.0  # the direction, before the base takes it
            opt.step()
        for p, s in zip(net.parameters(), slow, strict=True):
            p.data.lerp_(s, 1 - SLOW)
        schedule.step()
    return net


torch.manual_seed(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
(forget, remain), (_, tested) = split(train), split(test)
nets = {"trained": fit(network(), *train.tensors), "retrained without": fit(network(), *remain)}
nets["unlearned"] = unlearn(copy.deepcopy(nets["trained"]), forget, remain)
print(f"{'':18} {'forget':>7} {'remain':>7} {'test':>7}")
for name, net in nets.items():
    figures = [accuracy(net, TensorDataset(*data)) for data in (forget, remain, tested)]
    print(f"{name:18} " + " ".join(f"{value:7.3f}" for value in figures))
print(f"test accuracy {figures[-1]:.3f}")

"""Five tasks after each other, to tell two digits apart: what later ones do to earlier ones, and a way against it.

python examples/continual_learning.py [SEEDS]

After each task the span of every layer's inputs is added to what updates must leave alone. The table has the accuracy
on each task when it was just learned, that at the end, and their difference for the first four: the backward transfer.
Means over the seeds; for the transfer also its smallest and largest value.
"""

import sys

import torch
from digits import load
from torch import nn
from torch.nn.functional import cross_entropy

import flatmin

EPOCHS, BATCH = 10, 32
SEEDS = int(sys.argv[1]) if len(sys.argv) > 1 else 1
TASKS = [torch.tensor([2 * i, 2 * i + 1]) for i in range(5)]
train, test = load()


def of_task(data, classes):
    """The images of two digits, and which of the two they show: 0 or 1."""
    images, labels = data.tensors
    chosen = torch.isin(labels, classes)
    return images[chosen].flatten(1), labels[chosen] % 2


@torch.no_grad()
def accuracies(net):
    """The accuracy on the test images of each task."""
    pairs = [(net(x).argmax(1), y) for task in TASKS for x, y in [of_task(test, task)]]
    return [(guess == y).float().mean().item() for guess, y in pairs]


def learn(method, projected, seed):
    """(accuracy on each task just after it, accuracy on each task at the end)."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 200, bias=False), nn.ReLU(), nn.Linear(200, 2, bias=False))
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    opt = flatmin.FlatOptimizer(base, method, model=net)
    guard = flatmin.ProjectOut(opt)
    first = []
    for number, task in enumerate(TASKS):
        base.state.clear()  # momentum of the last task
        x, y = of_task(train, task)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(x)).split(BATCH):
                for _ in opt.probes():
                    cross_entropy(net(x[rows]), y[rows]).backward()
                opt.step()
        first.append(accuracies(net)[number])
        if projected:
            known = dict(guard.bases)
            for weight, basis in flatmin.input_bases(net, [x], energy=0.95, known=known).items():
                guard.add(weight, basis)
    return first, accuracies(net)


def mean(values):
    """The mean of a list."""
    return sum(values) / len(values)


print(f"{'':10} {'projected':>9} {'just learned':>12} {'at the end':>10} {'backward transfer':>26}")
for name, method in {"sgd": flatmin.Plain(), "pugd": flatmin.PUGD(radius=0.2)}.items():
    for projected in (False, True):
        runs = [learn(method, projected, seed) for seed in range(SEEDS)]
        learned, kept = (mean([mean(run[i]) for run in runs]) for i in (0, 1))
        transfers = [mean([b - a for a, b in zip(run[0][:-1], run[1][:-1], strict=True)]) for run in runs]
        transfer = f"{mean(transfers):+.3f} ({min(transfers):+.3f} to {max(transfers):+.3f})"
        print(f"{name:10} {'yes' if projected else 'no':>9} {learned:12.3f} {kept:10.3f} {transfer:>26}")
print(f"test accuracy {kept:.3f}")

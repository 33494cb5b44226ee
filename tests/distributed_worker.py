"""One rank of the tests in `test_distributed.py`; prints nothing, saves its final weights.

python distributed_worker.py RANK WORLD RENDEZVOUS_FILE OUT
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import flatmin

METHODS = {
    "ugd": flatmin.UGD(),
    "pugd": flatmin.PUGD(),
    "sam": flatmin.SAM(0.1),
    "asam": flatmin.ASAM(),
    "s-sgd": flatmin.SymmetricNoise(),
    "channel-pugd": flatmin.ChannelDirected(flatmin.PUGD(), metric="h1", lam=0.01),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 10)).double()


def batch(step, rank=None):
    """Sixteen images of a step: all of them, or a rank's eight."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 1, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(10, (16,), generator=generator)
    rows = slice(None) if rank is None else slice(8 * rank, 8 * rank + 8)
    return x[rows], y[rows]


def train(net, module, method, steps, rank=None):
    """Train `net` through `module`; a copy of its weights."""
    base = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    opt = flatmin.FlatOptimizer(base, method, model=module, seed=0)
    for step in range(steps):
        x, y = batch(step, rank)
        for _ in opt.probes():
            nn.functional.cross_entropy(module(x), y).backward()
        opt.step()
    return [p.detach().clone() for p in net.parameters()]


def main():
    rank, world, rendezvous, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    weights = {}
    for name, method in METHODS.items():
        for views in (False, True):
            net = network()
            module = DistributedDataParallel(net, gradient_as_bucket_view=views)
            weights[f"{name} {views}"] = train(net, module, method, 30, rank)
    torch.save(weights, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

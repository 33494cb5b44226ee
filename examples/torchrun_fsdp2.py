"""Several processes, each with a part of the weights: fully_shard (FSDP2), and a checkpoint that any number can read.

torchrun --standalone --nproc-per-node 2 examples/torchrun_fsdp2.py
"""

import tempfile

import torch
import torch.distributed as dist
from digits import accuracy, load, network
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

import flatmin
from flatmin import checkpoint

EPOCHS = 5


def sharded() -> tuple[nn.Module, flatmin.FlatOptimizer]:
    """A network of which every process has a part, and its optimizer."""
    torch.manual_seed(0)
    net = network()
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (dist.get_world_size(),))
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    return net, flatmin.FlatOptimizer(base, flatmin.PUGD(), model=net)


dist.init_process_group()
train, test = load()
sampler = DistributedSampler(train, drop_last=True)
loader = DataLoader(train, batch_size=32, sampler=sampler, drop_last=True)

folder = [tempfile.mkdtemp()]
dist.broadcast_object_list(folder)  # the first process's, for all
net, opt = sharded()
for epoch in range(EPOCHS):
    sampler.set_epoch(epoch)
    for images, labels in loader:
        for _ in opt.probes():  # once per gradient that the method asks for
            cross_entropy(net(images), labels).backward()
        opt.step()
    checkpoint.save(f"{folder[0]}/{epoch}", net, opt)

net, opt = sharded()  # as another training would begin, on more processes or fewer
checkpoint.load(f"{folder[0]}/{EPOCHS - 1}", net, opt)
fraction = accuracy(net, test)  # all processes take part in a forward pass
if dist.get_rank() == 0:
    print(f"test accuracy {fraction:.3f}")
dist.barrier()  # leave together
dist.destroy_process_group()

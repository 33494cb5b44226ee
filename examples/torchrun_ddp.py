"""Several processes, each with its own part of every batch: DistributedDataParallel.

torchrun --standalone --nproc-per-node 2 examples/torchrun_ddp.py
"""

import torch
import torch.distributed as dist
from digits import accuracy, load, network
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

import flatmin

EPOCHS, MICRO_BATCHES = 5, 2

dist.init_process_group()
torch.manual_seed(0)
train, test = load()
sampler = DistributedSampler(train, drop_last=True)
loader = DataLoader(train, batch_size=32, sampler=sampler, drop_last=True)

net = network()
ddp = DistributedDataParallel(net)
base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
# Each worker perturbs along its own gradient; leave `ascent` out to perturb along the mean of all.
opt = flatmin.FlatOptimizer(base, flatmin.PUGD(), model=ddp, ascent="per-worker")
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=EPOCHS * len(loader))

for epoch in range(EPOCHS):
    sampler.set_epoch(epoch)
    for images, labels in loader:
        for _ in opt.probes():  # once per gradient that the method asks for
            for x, y in zip(images.chunk(MICRO_BATCHES), labels.chunk(MICRO_BATCHES), strict=True):
                (cross_entropy(ddp(x), y) / MICRO_BATCHES).backward()
        opt.step()
        scheduler.step()

if dist.get_rank() == 0:
    print(f"test accuracy {accuracy(net, test):.3f}")
dist.barrier()  # leave together
dist.destroy_process_group()

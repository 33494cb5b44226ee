"""Hugging Face Accelerate, with gradient accumulation.

The loader gives the whole batch of an update, and every probe runs the parts of it: a closure or a loop over loaded
micro-batches would show most of them to the first probe only.

python examples/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from digits import accuracy, load, network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import flatmin

EPOCHS, MICRO_BATCHES = 5, 2

set_seed(0)
train, test = load()
accelerator = Accelerator(gradient_accumulation_steps=MICRO_BATCHES, cpu=True)

net = network()
base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
flat = flatmin.FlatOptimizer(base, flatmin.PUGD(), model=net, scaler=accelerator.scaler)
loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(flat, T_max=EPOCHS * len(loader))
net, opt, loader, scheduler = accelerator.prepare(net, flat, loader, scheduler)

for epoch in range(EPOCHS):
    for images, labels in loader:
        for probe in flat.probes():
            loss = 0.0
            for x, y in zip(images.chunk(MICRO_BATCHES), labels.chunk(MICRO_BATCHES), strict=True):
                with accelerator.accumulate(net):  # synchronises workers at the last part only
                    part = cross_entropy(net(x), y)
                    accelerator.backward(part)  # divides by MICRO_BATCHES
                loss += part.item() / MICRO_BATCHES
            if probe == 0:
                step_loss = loss
        accelerator.clip_grad_norm_(net.parameters(), 1.0)  # the direction
        opt.step()
        scheduler.step()
    accelerator.print(f"epoch {epoch}: loss {step_loss:.3f}")

accelerator.print(f"test accuracy {accuracy(accelerator.unwrap_model(net), test):.3f}")

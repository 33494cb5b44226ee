"""A training loop of one's own: PUGD, micro-batches, clipping, a schedule.

python examples/plain_loop.py
"""

import torch
from digits import accuracy, load, network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import flatmin

EPOCHS, MICRO_BATCHES = 5, 2

torch.manual_seed(0)
train, test = load()
loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)

net = network()
base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
opt = flatmin.FlatOptimizer(base, flatmin.PUGD(), model=net)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=EPOCHS * len(loader))

for epoch in range(EPOCHS):
    for images, labels in loader:
        for probe in opt.probes():  # once per gradient that the method asks for
            loss = 0.0
            for x, y in zip(images.chunk(MICRO_BATCHES), labels.chunk(MICRO_BATCHES), strict=True):
                part = cross_entropy(net(x), y) / MICRO_BATCHES
                part.backward()
                loss += part.item()
            if probe == 0:  # the loss at the weights; later probes are near them
                step_loss = loss
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)  # the direction, which for PUGD is 1 long
        opt.step()
        scheduler.step()
    print(f"epoch {epoch}: loss {step_loss:.3f}")

print(f"test accuracy {accuracy(net, test):.3f}")

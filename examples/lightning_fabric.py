"""Lightning Fabric: set up network and FlatOptimizer as ever, and loop over probes.

python examples/lightning_fabric.py
"""

import lightning
import torch
from digits import accuracy, load, network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import flatmin

EPOCHS = 5

fabric = lightning.Fabric(accelerator="cpu")
fabric.seed_everything(0, verbose=False)
train, test = load()
loader = fabric.setup_dataloaders(DataLoader(train, batch_size=64, shuffle=True))

net = network()
base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
net, opt = fabric.setup(net, flatmin.FlatOptimizer(base, flatmin.PUGD(), model=net))
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=EPOCHS * len(loader))

for epoch in range(EPOCHS):
    for images, labels in loader:
        for probe in opt.probes():
            loss = cross_entropy(net(images), labels)
            fabric.backward(loss)
            if probe == 0:
                step_loss = loss.item()
        fabric.clip_gradients(net, opt, max_norm=1.0)  # the direction
        opt.step()
        scheduler.step()
    print(f"epoch {epoch}: loss {step_loss:.3f}")

print(f"test accuracy {accuracy(net, test):.3f}")

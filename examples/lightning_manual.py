"""Lightning's Trainer with manual optimisation, which is the way to accumulate micro-batches.

python examples/lightning_manual.py
"""

import lightning
import torch
from digits import accuracy, load, network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import flatmin

MICRO_BATCHES = 2


class Digits(lightning.LightningModule):
    """The loop over probes is in `training_step`; it gets the whole batch of an update."""

    def __init__(self):
        super().__init__()
        self.net = network()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        """One step, with two micro-batches at each of two probes."""
        opt = self.optimizers()
        images, labels = batch
        for probe in opt.probes():
            for x, y in zip(images.chunk(MICRO_BATCHES), labels.chunk(MICRO_BATCHES), strict=True):
                loss = cross_entropy(self.net(x), y) / MICRO_BATCHES
                self.manual_backward(loss)
                if probe == 0:
                    self.log("loss", loss, reduce_fx="sum", on_step=True)
        self.clip_gradients(opt, gradient_clip_val=1.0)  # the direction
        opt.step()
        self.lr_schedulers().step()

    def configure_optimizers(self):
        """With precision="16-mixed" the optimizer needs the trainer's scaler; otherwise that is None."""
        base = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        opt = flatmin.FlatOptimizer(base, flatmin.PUGD(), model=self, scaler=self.trainer.scaler)
        steps = int(self.trainer.estimated_stepping_batches)
        return [opt], [torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=steps)]


lightning.seed_everything(0, verbose=False)
train, test = load()
module = Digits()
trainer = lightning.Trainer(
    max_epochs=5,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(module, DataLoader(train, batch_size=64, shuffle=True, drop_last=True))
print(f"{trainer.global_step} steps")
print(f"test accuracy {accuracy(module.net, test):.3f}")

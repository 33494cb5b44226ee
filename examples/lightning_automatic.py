"""Lightning's Trainer with automatic optimisation: `FlatModule`, and a `FlatOptimizer` from `configure_optimizers`.

python examples/lightning_automatic.py
"""

import lightning
import torch
from digits import accuracy, load, network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import flatmin
from flatmin.integrations.lightning import FlatModule


class Digits(FlatModule, lightning.LightningModule):
    """An ordinary LightningModule, but for the line above and the one that makes `opt`."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def training_step(self, batch, batch_idx):
        """Runs twice per step with PUGD; logs the first."""
        images, labels = batch
        loss = cross_entropy(self.net(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        """The schedule is attached to the FlatOptimizer, as Lightning wants it."""
        base = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        opt = flatmin.FlatOptimizer(base, flatmin.PUGD(), model=self)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=steps)
        return {"optimizer": opt, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


lightning.seed_everything(0, verbose=False)
train, test = load()
module = Digits()
trainer = lightning.Trainer(
    max_epochs=5,
    gradient_clip_val=1.0,  # clips the direction
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(module, DataLoader(train, batch_size=64, shuffle=True))
print(f"{trainer.global_step} steps, last loss {trainer.callback_metrics['loss']:.3f}")
print(f"test accuracy {accuracy(module.net, test):.3f}")

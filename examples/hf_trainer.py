"""Hugging Face's Trainer: `FlatTrainer` with `method=`; everything else is Trainer's.

python examples/hf_trainer.py
"""

import tempfile

import torch
from digits import load, network
from torch import nn
from transformers import TrainingArguments, set_seed

import flatmin
from flatmin.integrations.transformers import FlatTrainer


class Digits(nn.Module):
    """A model as Trainer wants it: one that returns its loss. Those of transformers do."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, images, labels):
        """Loss and logits."""
        logits = self.net(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def collate(rows):
    """A batch, with the names of `forward`'s arguments."""
    images, labels = zip(*rows, strict=True)
    return {"images": torch.stack(images), "labels": torch.stack(labels)}


set_seed(0)
train, test = load()
with tempfile.TemporaryDirectory() as folder:
    args = TrainingArguments(
        output_dir=folder,
        num_train_epochs=5,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=2,  # both micro-batches at both probes
        learning_rate=0.1,
        optim="sgd",
        weight_decay=5e-4,
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,  # clips the direction
        logging_steps=23,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = FlatTrainer(
        method=flatmin.PUGD(),
        model=Digits(),
        args=args,
        train_dataset=train,
        eval_dataset=test,
        data_collator=collate,
        compute_metrics=lambda p: {"accuracy": (p.predictions.argmax(-1) == p.label_ids).mean()},
    )
    trainer.train()
    print(f"test accuracy {trainer.evaluate()['eval_accuracy']:.3f}")

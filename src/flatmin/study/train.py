"""The training loop: one run, from its seed to its accuracy."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flatmin.study import config, data, models, record
from flatmin.study.config import Run
from flatmin.study.contender import Contender
from flatmin.study.record import Result

Log = Callable[[dict[str, Any]], None]

#: Small enough for the activations to stay in the processor's cache: a third faster than everything at once.
EVALUATION_BATCH = 360


def perform(run: Run, folder: Path) -> None:
    """Train `run` and leave its folder complete; what an earlier attempt left there is overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    with record.atomic(folder / "config.toml") as path:
        config.save(run, path)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as log:
        result = train(run, lambda row: print(json.dumps(row, allow_nan=False), file=log, flush=True))
    record.write_json(folder / "result.json", dataclasses.asdict(result))


def train(run: Run, log: Log = lambda row: None) -> Result:
    """Train `run`, calling `log` with a row of metrics after every epoch.

    Training loss and accuracy are those of the epoch's batches, at the first probe of every step and on noisy labels;
    validation accuracy is that of the network after the epoch.

    Runs of one seed are paired: initial weights, data order and label noise come from generators that know the seed and
    nothing of the method. Labels are noisy in training only. The test split is read once, after the last step, and only
    if `run.test`.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are none of our business
        return _train(run, log)


def _train(run: Run, log: Log) -> Result:
    x, clean = data.load(run.data, "train")  # (n, channels, height, width), (n,)
    classes = data.classes(run.data)
    y = data.replace_labels(clean, run.noise, classes, _generator(run.seed, "label noise"))

    torch.manual_seed(_number(run.seed, "initial weights"))
    net = models.build(run.model, x.shape[1], classes)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a tenth faster; torch types it not
    loss_of = nn.CrossEntropyLoss()
    contender = Contender.parse(run.contender)
    optimizer = contender.optimizer(net, run.settings, seed=_number(run.seed, "method"))

    size = min(run.batch_size, len(x))
    per_epoch = len(x) // size
    steps = run.epochs * per_epoch
    if run.budget == "grads":
        steps = max(1, int(steps / contender.entry.gradients))

    gradients, seconds, diverged = 0, 0.0, None
    losses: list[float] = []
    right = 0
    began = time.perf_counter()
    for step, batch in enumerate(batches(len(x), size, steps, _generator(run.seed, "data order")), start=1):
        xb, yb = x[batch], y[batch]
        _set_lr(optimizer, run.settings["lr"] * cosine((step - 1) / steps))
        for probe in optimizer.probes():
            outputs = net(xb)  # (batch, classes)
            loss = loss_of(outputs, yb)
            loss.backward()
            gradients += 1
            if probe == 0:
                losses.append(loss.item())
                right += int((outputs.argmax(1) == yb).sum())
        optimizer.step()

        if step % per_epoch == 0 or step == steps:
            seconds += time.perf_counter() - began
            epoch = step / per_epoch
            train_loss = statistics.fmean(losses)
            validation = evaluate(net, *data.load(run.data, "validation"))
            log(
                {
                    "epoch": epoch,
                    "gradient_evaluations": gradients,
                    "train_loss": train_loss if math.isfinite(train_loss) else None,
                    "train_accuracy": right / (size * len(losses)),
                    "validation_accuracy": validation,
                    "seconds": round(seconds, 4),
                }
            )
            if not math.isfinite(train_loss):
                diverged = epoch
                break
            losses, right = [], 0
            began = time.perf_counter()

    return Result(
        test_accuracy=evaluate(net, *data.load(run.data, "test")) if run.test else None,
        validation_accuracy=validation,
        gradient_evaluations=gradients,
        steps=step,
        seconds=round(seconds, 4),
        diverged=diverged,
        method=repr(optimizer.method),
        parameters=sum(p.numel() for p in net.parameters()),
        environment=record.environment(torch.get_num_threads()),
    )


def batches(n: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of each of `steps` batches: a fresh permutation of all n per epoch, its incomplete last batch left out."""
    per_epoch = n // size
    for step in range(steps):
        position = step % per_epoch
        if position == 0:
            order = torch.randperm(n, generator=generator)
        yield order[position * size : (position + 1) * size]


def cosine(progress: float) -> float:
    """The share of the learning rate that is left at `progress` in [0, 1]: 1 at the start, 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def evaluate(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy of `net` on all of (x, y), in evaluation mode; the mode is put back."""
    training = net.training
    net.eval()
    batches = zip(torch.split(x, EVALUATION_BATCH), torch.split(y, EVALUATION_BATCH), strict=True)
    right = sum(int((net(xb).argmax(1) == yb).sum()) for xb, yb in batches)
    net.train(training)
    return right / len(x)


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _number(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose of one run: streams of different purposes have nothing in common."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:8], "big") >> 1


def _generator(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(_number(seed, purpose))

"""The schedule of a run (steps, learning rate, evaluations) and its counters."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flatmin.engine.probe import Probe
from flatmin.study.config import Run, check_batch_size
from flatmin.study.training.torchrun import Processes


@dataclass(frozen=True)
class Schedule:
    """The steps of a run, numbered from 1.

    Args:
        run: the run.
        batch_size: examples per step.
        per_epoch: steps per epoch.
        steps: number of steps.
        evaluations: the steps after which the network is evaluated, the last one included.
    """

    run: Run
    batch_size: int
    per_epoch: int
    steps: int
    evaluations: frozenset[int]

    @classmethod
    def of(cls, run: Run, examples: int, gradients: float) -> Schedule:
        """The schedule of `run` on `examples` training examples, with a method of `gradients` gradients per step.

        Raises:
            ValueError: a batch is larger than the training set.
        """
        check_batch_size(run, examples)
        size = run.batch_size
        per_epoch = examples // size
        steps = run.epochs * per_epoch
        if run.budget == "grads":
            steps = max(1, int(steps / gradients))
        return cls(run, size, per_epoch, steps, frozenset(evaluation_steps(steps, per_epoch, run.evaluations)))

    def set_lr(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the learning rate of a step."""
        lr = self.run.settings["lr"] * rate(self.run, (step - 1) / self.steps)
        for group in optimizer.param_groups:
            group["lr"] = lr


def rate(run: Run, progress: float) -> float:
    """The factor of the learning rate at `progress` in [0, 1)."""
    if progress < run.warmup:
        return progress / run.warmup
    progress = (progress - run.warmup) / (1 - run.warmup)
    if run.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if run.schedule == "linear":
        return 1 - progress
    if run.schedule == "step":
        return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
    return 1.0


def evaluation_steps(steps: int, per_epoch: int, evaluations: int) -> set[int]:
    """The steps after which to evaluate: each epoch, or `evaluations` evenly spaced ones; always the last step."""
    if evaluations:
        return {round(steps * (i + 1) / evaluations) for i in range(evaluations)} - {0}
    return {*range(per_epoch, steps, per_epoch), steps}


@dataclass
class Counters:
    """The state of a run's progress and metrics. Plain numbers, since checkpoints hold it.

    Args:
        step: steps taken.
        gradients: forward-backward passes, in units of whole batches. A pass on fewer examples counts its share, a
            forward pass alone a third.
        seconds: of training, without evaluation.
        losses: training loss of each part of a batch since the last evaluation, at the first probe.
        right: correctly classified examples in those.
        shown: examples in those.
        rows: of metrics, so far.
        evaluated: the step of the last evaluation.
    """

    step: int = 0
    gradients: float = 0.0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    right: int = 0
    shown: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    evaluated: int = 0

    _since = 0.0  # start of the clock; without annotation, so not a field

    def start_clock(self) -> None:
        """Count time as training from here on."""
        self._since = time.perf_counter()

    def count(self, probe: Probe, examples: int, schedule: Schedule) -> None:
        """Count a probe.

        Args:
            probe: of the step.
            examples: number of its examples, over all processes.
            schedule: of the run.
        """
        self.gradients += probe.cost * examples / schedule.batch_size
        if probe == 0:
            self.shown += examples

    @property
    def gradient_evaluations(self) -> float:
        """The counted gradients, to two decimals; an int if whole."""
        rounded = round(self.gradients, 2)
        return int(rounded) if rounded == int(rounded) else rounded

    def take(self, seen: list[Tensor], processes: Processes) -> None:
        """Add the losses and correct predictions of all processes, and clear the list."""
        values = torch.stack(seen).tolist() if seen else []
        self.losses += [loss / processes.size for loss in processes.sum([loss for loss, _ in values])]
        self.right += int(processes.sum([sum(right for _, right in values)])[0])
        seen.clear()
        self.seconds += time.perf_counter() - self._since
        self.start_clock()

    def row(self, schedule: Schedule, validation: float) -> dict[str, Any]:
        """Add a row of metrics, and reset the statistics for the next row."""
        steps = self.step - self.evaluated
        parts = len(self.losses) / steps
        loss = statistics.fmean(self.losses) * parts
        row = {
            "epoch": self.step / schedule.per_epoch,
            "gradient_evaluations": self.gradient_evaluations,
            "train_loss": loss if math.isfinite(loss) else None,
            "train_accuracy": self.right / self.shown,
            "validation_accuracy": validation,
            "seconds": round(self.seconds, 4),
        }
        self.losses, self.right, self.shown, self.evaluated = [], 0, 0, self.step
        self.rows.append(row)
        return row

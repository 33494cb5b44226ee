"""The training loop: one run, from its seed to its accuracy."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flatmin.study import config, data, models, record
from flatmin.study.augment import augment
from flatmin.study.average import Average
from flatmin.study.config import Run
from flatmin.study.contender import Contender
from flatmin.study.data import Dataset, Split
from flatmin.study.record import Result
from flatmin.study.resume import Checkpoints, Stop
from flatmin.study.team import Team

Log = Callable[[dict[str, Any]], None]

#: Small enough for the activations to stay in the processor's cache: a third faster than everything at once.
EVALUATION_BATCH = 360


@dataclass
class Progress:
    """How far a run is. Plain numbers: it goes into checkpoints.

    Args:
        step: steps taken.
        gradients: forward-backward passes, counted.
        seconds: of training.
        losses: training loss of every part of a batch since the last evaluation, at the first probe.
        right: training examples named right in those.
        rows: of metrics, so far.
        evaluated: the step of the last evaluation.
    """

    step: int = 0
    gradients: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    right: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    evaluated: int = 0

    def take(self, seen: list[Tensor], seconds: float, team: Team) -> None:
        """Take in losses and right answers of all processes, and empty the list of this one's."""
        values = torch.stack(seen).tolist() if seen else []
        self.losses += [loss / team.size for loss in team.total([loss for loss, _ in values])]
        self.right += int(team.total([sum(right for _, right in values)])[0])
        self.seconds = seconds
        seen.clear()


def perform(run: Run, folder: Path, show: Log = lambda row: None, team: Team | None = None) -> None:
    """Train `run` and leave its folder complete. What an earlier attempt left there is continued.

    Args:
        run: what to train.
        folder: where to leave it.
        show: gets every row of metrics, too.
        team: the processes that do it together; the first one writes.

    Raises:
        KeyboardInterrupt: somebody asked to stop. A checkpoint was written.
        OSError: the folder cannot be written.
    """
    team = team or Team()
    checkpoints = Checkpoints(folder, write=team.first)
    if not team.first:
        train(run, checkpoints=checkpoints, team=team)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with record.atomic(folder / "config.toml") as path:
        config.save(run, path)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:

        def log(row: dict[str, Any]) -> None:
            print(json.dumps(row, allow_nan=False), file=file, flush=True)
            show(row)

        result = train(run, log, checkpoints, team)
    record.write_json(folder / "result.json", dataclasses.asdict(result))
    checkpoints.clear()


def train(
    run: Run, log: Log = lambda row: None, checkpoints: Checkpoints | None = None, team: Team | None = None
) -> Result:
    """Train `run`, calling `log` with a row of metrics after every evaluation.

    Training loss and accuracy are those of the batches since the last row, at the first probe of every step and on
    noisy labels; validation accuracy is that of the network then, or of its average.

    Runs of one seed are paired: initial weights, data order, augmentation and label noise come from generators that
    know the seed and nothing of the method. Labels are noisy in training only. The test split is read once, after the
    last step, and only if `run.test`.

    Args:
        run: what to train.
        log: gets the rows; those of an attempt that is continued first.
        checkpoints: where to continue from and to keep some; None for nowhere.
        team: the processes that do it together; None for this one alone.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are none of our business
        return _train(run, log, checkpoints or Checkpoints(None), team or Team())


def _train(run: Run, log: Log, checkpoints: Checkpoints, team: Team) -> Result:
    device = team.device
    dataset = data.load(run.data, subset=run.subset, image_size=run.image_size)
    images, clean = dataset.train
    if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
        images = images.to(device)
    labels = data.replace_labels(clean, run.noise, len(dataset.classes), generator(run.seed, "label noise"))
    labels = labels.to(device)

    torch.manual_seed(number(run.seed, "initial weights"))
    net = network(run, dataset, device)
    wrapped = team.wrap(net)
    forward = torch.compile(wrapped) if run.compile else wrapped
    average = Average(run.average, net)
    loss_of = nn.CrossEntropyLoss(label_smoothing=run.label_smoothing)
    contender = Contender.parse(run.contender)
    optimizer = contender.optimizer(wrapped, run.settings, seed=number(run.seed, "method"))

    size = min(run.batch_size, len(images))
    per_epoch = len(images) // size
    steps = run.epochs * per_epoch
    if run.budget == "grads":
        steps = max(1, int(steps / contender.entry.gradients))
    evaluations = evaluation_steps(steps, per_epoch, run.evaluations)

    progress = Progress()
    parts: dict[str, Any] = {"net": net, "optimizer": optimizer, "average": average}
    saved = checkpoints.load()
    if saved is not None and saved["run"] == dataclasses.asdict(run):  # else it is of something else that was here
        progress = Progress(**saved["progress"])
        torch.set_rng_state(saved["random"])
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        for row in progress.rows:
            log(row)

    diverged, stop, seconds = None, Stop(), progress.seconds
    seen: list[Tensor] = []  # loss and number of right answers of every part of a batch
    began = time.perf_counter()
    with stop.listening():
        for rows in batches(len(images), size, steps, generator(run.seed, "data order"), skip=progress.step):
            step = progress.step = progress.step + 1
            shown = augment(
                images[rows.to(images.device)].to(device),
                run.augment,
                generator(run.seed, f"augmentation {step}", device),
            )
            x, y = dataset.standardise(team.mine(shown)), team.mine(labels[rows.to(device)])
            _set_lr(optimizer, run.settings["lr"] * rate(run, (step - 1) / steps))
            for probe in optimizer.probes():
                for xb, yb in zip(x.chunk(run.micro_batches), y.chunk(run.micro_batches), strict=True):
                    with torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bfloat16"):
                        outputs = forward(xb)  # (batch, classes)
                        loss = loss_of(outputs, yb) * team.weight(xb, rows)
                    loss.backward()
                    if probe == 0:  # numbers stay on the device: to look at them is to wait for it
                        seen.append(torch.stack([loss.detach(), (outputs.argmax(1) == yb).sum()]))
                progress.gradients += 1
            if run.clip:
                nn.utils.clip_grad_norm_(net.parameters(), run.clip)
            optimizer.step()
            average.update(net, step / steps)

            if step in evaluations:
                progress.take(seen, seconds + time.perf_counter() - began, team)
                validation = evaluate(average.network(net), dataset, dataset.validation, team)
                row = _row(progress, step - progress.evaluated, size, per_epoch, validation)
                progress.rows.append(row)
                log(row)
                if row["train_loss"] is None:
                    diverged = row["epoch"]
                    break
                seconds, began = progress.seconds, time.perf_counter()
            stopping = team.any(stop.asked)
            if team.any(checkpoints.due()) or stopping:
                progress.take(seen, seconds + time.perf_counter() - began, team)
                states = {name: part.state_dict() for name, part in parts.items()}
                plain = {"run": dataclasses.asdict(run), "progress": dataclasses.asdict(progress)}
                checkpoints.save({**states, **plain, "random": torch.get_rng_state()})
            if stopping:
                raise KeyboardInterrupt

    return Result(
        test_accuracy=evaluate(average.network(net), dataset, dataset.test, team) if run.test else None,
        validation_accuracy=progress.rows[-1]["validation_accuracy"],
        gradient_evaluations=progress.gradients,
        steps=progress.step,
        seconds=round(progress.seconds, 4),
        diverged=diverged,
        method=repr(optimizer.method),
        parameters=sum(p.numel() for p in net.parameters()),
        environment=record.environment(torch.get_num_threads()),
    )


def network(run: Run, dataset: Dataset, device: torch.device) -> nn.Module:
    """The freshly initialised network of a run; its weights come from torch's global generator."""
    channels, height = dataset.train.images.shape[1:3]
    net = models.build(run.model, channels, len(dataset.classes), image_size=height, pretrained=run.pretrained)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # a tenth faster; torch types it not
    return net


def evaluation_steps(steps: int, per_epoch: int, evaluations: int) -> set[int]:
    """After which steps to evaluate: after every epoch, or that many times, evenly spaced; always after the last."""
    if evaluations:
        return {round(steps * (i + 1) / evaluations) for i in range(evaluations)} - {0}
    return {*range(per_epoch, steps, per_epoch), steps}


def batches(n: int, size: int, steps: int, generator: torch.Generator, skip: int = 0) -> Iterator[Tensor]:
    """Rows of each of `steps` batches: a fresh permutation of all n per epoch, its incomplete last batch left out.

    Args:
        n: examples.
        size: of a batch.
        steps: batches in all.
        generator: of the permutations.
        skip: leave out the first batches, drawing their permutations all the same.
    """
    per_epoch = n // size
    for step in range(steps):
        position = step % per_epoch
        if position == 0:
            order = torch.randperm(n, generator=generator)
        if step >= skip:
            yield order[position * size : (position + 1) * size]


def rate(run: Run, progress: float) -> float:
    """The share of the learning rate at `progress` in [0, 1)."""
    if progress < run.warmup:
        return progress / run.warmup
    progress = (progress - run.warmup) / (1 - run.warmup)
    if run.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if run.schedule == "step":
        return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
    return 1.0


@torch.no_grad()
def evaluate(net: nn.Module, dataset: Dataset, split: Split, team: Team | None = None) -> float:
    """Accuracy of `net` on all of a split, in evaluation mode; the mode is put back. Processes share the work."""
    team = team or Team()
    training = net.training
    net.eval()
    device = next(net.parameters()).device
    right = 0
    for start in range(team.rank * EVALUATION_BATCH, len(split.labels), team.size * EVALUATION_BATCH):
        rows = slice(start, start + EVALUATION_BATCH)
        outputs = net(dataset.standardise(split.images[rows].to(device)))
        right += int((outputs.argmax(1) == split.labels[rows].to(device)).sum())
    net.train(training)
    return team.total([right])[0] / len(split.labels)


def number(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose of one run: streams of different purposes have nothing in common."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, device: torch.device | None = None) -> torch.Generator:
    """Random numbers for one purpose of one run."""
    return torch.Generator(device or "cpu").manual_seed(number(seed, purpose))


def _row(progress: Progress, steps: int, size: int, per_epoch: int, validation: float) -> dict[str, Any]:
    """A row of metrics; begins the statistics of the next one."""
    parts = len(progress.losses) / steps
    loss = statistics.fmean(progress.losses) * parts
    row = {
        "epoch": progress.step / per_epoch,
        "gradient_evaluations": progress.gradients,
        "train_loss": loss if math.isfinite(loss) else None,
        "train_accuracy": progress.right / (size * steps),
        "validation_accuracy": validation,
        "seconds": round(progress.seconds, 4),
    }
    progress.losses, progress.right, progress.evaluated = [], 0, progress.step
    return row


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr

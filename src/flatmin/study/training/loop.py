"""The training loop: one run, from its seed to its accuracy."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatmin.distributed import reshard
from flatmin.engine.batchnorm import rebuild_statistics
from flatmin.protocol import asks_about_examples
from flatmin.robustness import scored
from flatmin.study.config import Run, Training, number
from flatmin.study.contender import Contender
from flatmin.study.data.dataset import Dataset, Split, load_dataset
from flatmin.study.networks import models
from flatmin.study.training import record, robust, sharding
from flatmin.study.training.average import Average
from flatmin.study.training.batches import TrainingBatches, gather
from flatmin.study.training.checkpoints import Checkpoints, StopRequest
from flatmin.study.training.record import Result
from flatmin.study.training.robust import Change
from flatmin.study.training.schedule import Counters, Schedule
from flatmin.study.training.torchrun import Processes

Log = Callable[[dict[str, Any]], None]
#: Called with a step, the schedule, and losses and correct predictions of parts of batches, those of this step last.
Watch = Callable[[int, Schedule, list[Tensor]], None]
#: Called with the number of steps and the network to evaluate: before the first step and at each evaluation.
Keep = Callable[[int, nn.Module], None]
#: Called with the optimizer; the context is active during the training.
Attend = Callable[[torch.optim.Optimizer], AbstractContextManager[Any]]


def train(
    run: Run,
    log: Log = lambda row: None,
    checkpoints: Checkpoints | None = None,
    processes: Processes | None = None,
    watch: Watch = lambda step, schedule, seen: None,
    keep: Keep = lambda step, net: None,
    attend: Attend = nullcontext,
) -> Result:
    """Train `run`; call `log` with a row of metrics after each evaluation.

    Training loss and accuracy are over the batches since the last row, at the first probe of each step, with noisy
    labels. Validation accuracy is that of the current network, or of the average of the weights.

    Runs of one seed are paired: initial weights, data order, augmentation and label noise come from generators that
    depend on the seed and not on the method. Labels are noisy in training only. The test split is read after the last
    step, and only if `run.test`.

    Args:
        run: what to train.
        log: called with the rows; the rows of an interrupted attempt come first.
        checkpoints: to continue from and to write; None for neither.
        processes: those that share the training; None for this one alone.
        watch: called after each step.
        keep: called on each process with the network.
        attend: returns a context manager for the optimizer, such as `flatmin.flatness.Updates`.

    Raises:
        ValueError: `run.robustness` with sharded weights.
    """
    if run.robustness and processes is not None and processes.mesh is not None:
        raise ValueError("robustness needs whole weights, and --shard keeps parts of them; leave out one of the two")
    with torch.random.fork_rng(devices=[]):  # leave the caller's generator as it was
        return _train(run, log, checkpoints or Checkpoints(None), processes or Processes(), watch, keep, attend)


def _train(
    run: Run, log: Log, checkpoints: Checkpoints, processes: Processes, watch: Watch, keep: Keep, attend: Attend
) -> Result:
    dataset = load_dataset(run.data, subset=run.subset, image_size=run.image_size)
    contender = Contender.parse(run.contender, run.average)
    examples = len(dataset.train.labels)
    schedule = Schedule.of(run, examples, contender.gradients(run.settings))
    train_batches = TrainingBatches(run, dataset, schedule, processes)

    torch.manual_seed(number(run.seed, "initial weights"))
    net = network(run, dataset, processes.init_device)
    average = Average(contender.average, run.settings, net, processes)
    wrapped = processes.wrap(net)
    forward = torch.compile(wrapped) if run.compile else wrapped
    seed = number(run.seed, "method")
    optimizer = contender.optimizer(
        wrapped, run.settings, seed, decay_vectors=run.decay_vectors, steps=schedule.steps, examples=examples
    )
    reduction = "none" if asks_about_examples(optimizer.method) else "mean"
    loss_of = nn.CrossEntropyLoss(label_smoothing=run.label_smoothing, reduction=reduction)

    counters = _restored(run, checkpoints, net, optimizer, average)
    for row in counters.rows:
        log(row)
    if counters.step == counters.evaluated:
        keep(counters.step, average.network(net))

    diverged, stop = None, StopRequest()
    seen: list[Tensor] = []  # loss and number of correct predictions of each part of a batch

    def judged() -> nn.Module:
        found = average.network(net)
        if contender.entry.perturbed:
            with _precision(run, processes.device):
                rebuild_statistics(found, train_batches.sample())
        return found

    counters.start_clock()
    with stop.handling_signals(), attend(optimizer), closing(train_batches.batches(skip=counters.step)) as batches:
        for x, y in batches:
            step = counters.step = counters.step + 1
            schedule.set_lr(optimizer, step)
            for probe in optimizer.probes():
                asked = x[probe.rows], y[probe.rows]  # usually the whole batch
                whole = schedule.batch_size if len(asked[1]) == len(y) else len(asked[1]) * processes.size
                for xb, yb in zip(*(part.chunk(run.micro_batches) for part in asked), strict=True):
                    with _precision(run, processes.device):
                        outputs = forward(xb)  # (batch, classes)
                        losses = loss_of(outputs, yb)
                    share = processes.loss_weight(xb, whole)
                    probe.backward(losses, yb, outputs=outputs, share=share)
                    if probe == 0:  # the numbers stay on the device, to avoid a synchronization
                        loss = losses.detach() if losses.ndim == 0 else losses.detach().mean()
                        seen.append(torch.stack([loss * share, (outputs.argmax(1) == yb).sum()]))
                counters.count(probe, whole, schedule)
            if run.clip:
                nn.utils.clip_grad_norm_(net.parameters(), run.clip)
            optimizer.step()
            processes.sync_buffers(net)
            average.update(net, step / schedule.steps)
            watch(step, schedule, seen)

            if step in schedule.evaluations:
                counters.take(seen, processes)
                row = counters.row(schedule, evaluate(judged(), dataset, dataset.validation, processes, run))
                log(row)
                keep(step, average.network(net))
                if row["train_loss"] is None:
                    diverged = row["epoch"]
                    break
                counters.start_clock()
            stopping = processes.any(stop.requested)
            if processes.any(checkpoints.due()) or stopping:
                counters.take(seen, processes)
                checkpoints.save(_state(run, counters, net, optimizer, average, keep=processes.first))
            if stopping:
                raise KeyboardInterrupt

    final = (
        _final(run, judged(), dataset, train_batches, processes) if run.test else {"test": None, "others": dict(NONE)}
    )
    return Result(
        validation=counters.rows[-1]["validation_accuracy"],
        gradient_evaluations=counters.gradient_evaluations,
        steps=counters.step,
        seconds=round(counters.seconds, 4),
        diverged=diverged,
        method=repr(optimizer.method),
        parameters=sum(p.numel() for p in net.parameters()),
        environment=record.environment(torch.get_num_threads()),
        **final,
    )


#: Training examples on which a final run is evaluated.
LEARNED = 2000
#: What is measured on them. train_accuracy: at the end, in evaluation mode, on fixed, class-balanced examples that are
#: not augmented, with the labels as given. memorised: the fraction of the wrong labels among these that the network
#: predicts; None if none is wrong.
NONE: dict[str, float | None] = {"train_accuracy": None, "memorised": None}


def _final(
    run: Run, net: nn.Module, dataset: Dataset, train_batches: TrainingBatches, processes: Processes
) -> dict[str, Any]:
    """The fields of the result that only final runs have, from one pass over test split and training examples each.

    With `run.robustness` the test split is gone over again for every change, see `robust.of_images`.
    """
    tested = correct(net, dataset, dataset.test, processes, run)
    given, wrong = train_batches.given(LEARNED)
    learned = correct(net, dataset, given, processes, run)

    def judge(change: Change | None) -> Tensor:
        return per_example(net, dataset, dataset.test, scored, processes, run, change)

    return {
        "test": _fraction(tested),
        "others": {
            "train_accuracy": _fraction(learned),
            "memorised": _fraction(learned[wrong]) if wrong.any() else None,
        },
        "test_images": len(tested),
        "test_correct": base64.b64encode(np.packbits(tested.numpy()).tobytes()).decode("ascii"),
        "robustness": robust.of_images(net, judge, run.seed) if run.robustness else None,
    }


def network(run: Run, dataset: Dataset, device: torch.device) -> nn.Module:
    """The initial network of a run; its weights are drawn from torch's global generator."""
    channels, height = dataset.train.images.shape[1:3]
    classes, images = len(dataset.classes), dataset.sample
    net = models.build(run.model, channels, classes, image_size=height, pretrained=run.pretrained, images=images)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # a tenth faster; untyped in torch
    return net


def _state(
    run: Run, counters: Counters, net: nn.Module, optimizer: torch.optim.Optimizer, average: Average, *, keep: bool
) -> dict[str, Any]:
    """A checkpoint. All processes must call it; without `keep`, sharded weights are None."""
    parts = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "average": average.state_dict()}
    plain = {"run": dataclasses.asdict(run), "progress": dataclasses.asdict(counters), "random": torch.get_rng_state()}
    return {**sharding.whole(parts, keep), **plain}


def _restored(
    run: Run, checkpoints: Checkpoints, net: nn.Module, optimizer: torch.optim.Optimizer, average: Average
) -> Counters:
    """Restore the checkpoint of this run, if there is one. That of another run is ignored."""
    saved = checkpoints.load()
    if saved is None or saved["run"] != dataclasses.asdict(run):
        return Counters()
    torch.set_rng_state(saved["random"])
    net.load_state_dict(sharding.module_state(saved["net"], net.state_dict()))
    optimizer.load_state_dict(sharding.optimizer_state(saved["optimizer"], optimizer))
    average.load_state_dict(sharding.module_state(saved["average"], average.state_dict()))
    return Counters(**saved["progress"])


#: Examples per batch of an evaluation. Activations stay in the CPU's cache: a third faster than one large batch.
BATCH = 360


def _precision(training: Training, device: torch.device) -> torch.autocast:
    """The context of every forward pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bfloat16")


def evaluate(
    net: nn.Module,
    dataset: Dataset,
    split: Split,
    processes: Processes | None = None,
    training: Training = Training(),  # noqa: B008  # frozen
) -> float:
    """Accuracy of `net` on all of a split; see `correct`."""
    return _fraction(correct(net, dataset, split, processes, training))


def _fraction(flags: Tensor) -> float:
    return int(flags.sum()) / len(flags)


def correct(
    net: nn.Module,
    dataset: Dataset,
    split: Split,
    processes: Processes | None = None,
    training: Training = Training(),  # noqa: B008  # frozen
) -> Tensor:
    """Which examples of a split `net` classifies as labelled: (n,) bool, on the CPU; see `per_example`."""

    def hits(outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs.argmax(1) == labels)[:, None]

    return per_example(net, dataset, split, hits, processes, training)[:, 0] > 0


@torch.no_grad()
def per_example(
    net: nn.Module,
    dataset: Dataset,
    split: Split,
    measure: Callable[[Tensor, Tensor], Tensor],
    processes: Processes | None = None,
    training: Training = Training(),  # noqa: B008  # frozen
    change: Change | None = None,
) -> Tensor:
    """Numbers of every example of a split, in evaluation mode: (n, k), on the CPU.

    The mode of the network is restored. Processes share the work, and all get the whole result. The precision is that
    of the training. With its `flip_at_test` the outputs are the means of those of each image and of its mirror image.

    Args:
        net: the network.
        dataset: of the split.
        split: the examples.
        measure: (outputs, labels) of a batch -> (batch, k).
        processes: those that share the work; None for this one alone.
        training: its precision, and what it says of mirror images.
        change: of the standardised images.
    """
    processes = processes or Processes()
    mode = net.training
    net.eval()
    device = next(net.parameters()).device
    examples = torch.arange(len(split.labels))
    starts = range(processes.rank * BATCH, len(examples) + processes.rank * BATCH, processes.size * BATCH)
    mine = [examples[start : start + BATCH] for start in starts]
    found: Tensor | None = None
    # All processes compute as many batches, since sharded weights need all of them; one without examples repeats one.
    with closing(gather(split.images, [rows if len(rows) else examples[:1] for rows in mine], device)) as gathered:
        for counted, (rows, images) in zip(mine, gathered, strict=True):
            images = dataset.standardise(images)
            if change is not None:
                images = change(images, int(rows[0]))
            with _precision(training, device):
                outputs = (net(images) + net(images.flip(3))) / 2 if training.flip_at_test else net(images)
            values = measure(outputs, split.labels[rows].to(device))
            found = values.new_zeros(len(examples), values.shape[1]) if found is None else found
            found[counted.to(found.device)] = values[: len(counted)]
    net.train(mode)
    reshard(net)  # steps update the shards; gathered weights would be stale at the next evaluation
    assert found is not None, "a split has examples"
    if processes.size == 1:
        return found.cpu()
    return torch.tensor(processes.sum(found.double().flatten().tolist())).view(found.shape)

"""The task `text`: a transformer that predicts the next character."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from flatmin.study.config import Run, Study, Training, check_batch_size, generator, number
from flatmin.study.contender import Contender, parameter_groups
from flatmin.study.data import text
from flatmin.study.data.dataset import replace_labels
from flatmin.study.data.text import Corpus, Text, Windows
from flatmin.study.networks import transformer
from flatmin.study.tasks import phrases
from flatmin.study.tasks.data_order import DataOrder
from flatmin.study.tasks.function import FunctionTask
from flatmin.study.tasks.outcome import Outcome
from flatmin.study.tasks.task import FORWARD, Cost
from flatmin.study.tasks.trial import Trial
from flatmin.study.training import robust
from flatmin.study.training.schedule import evaluation_steps, rate
from flatmin.study.training.torchrun import Processes

#: Windows per batch of an evaluation.
BATCH = 64
METRIC = "bits per character"


class Characters(FunctionTask):
    """Text by characters, as the options of `flatmin train` describe it."""

    def prepare(self, training: Training, console: Console | None = None) -> None:
        """Read the files once.

        Raises:
            ValueError: one cannot be read, or has too few characters.
        """
        corpus = text.load(training.data, training.then)
        for path, one in ((training.data, corpus.first), (training.then, corpus.then)):
            if one is None:
                continue
            shortest = min(len(one.validation), len(one.test))
            if shortest <= training.context:
                raise ValueError(
                    f"context must be less than the characters of validation and test of {path}, 5 % of it: "
                    f"{shortest}, got {training.context}; give more text, or write --context {max(2, shortest // 2)}"
                )
            check_batch_size(dataclasses.replace(training, data=path), _windows(one, training).count)
        if console is not None:
            alphabet = f"{corpus.symbols - 1} characters have a symbol, {corpus.first.others:.2%} of the test split not"
            console.print(f"text: {alphabet}", highlight=False)

    def shipped(self, training: Training, *, data: bool) -> Callable[[], None]:
        """A worker gets the texts, which are small."""
        return functools.partial(text.remember, text.contents(training.data, training.then))

    def source(self, run: Run) -> str:
        """The start of the SHA-256 of the files."""
        return text.load(run.data, run.then).digest

    def call(self, trial: Trial, run: Run) -> Outcome:
        """See `train`."""
        return train(trial, run)

    def cost(self, run: Run, gradients: float, per_step: float | None) -> Cost:
        """Steps times seconds per step, a third of a gradient per evaluated character, and what is measured at last."""
        one = super().cost(run, gradients, per_step)
        first = text.load(run.data, run.then).first
        gradient = (one.seconds / one.steps if per_step is None else per_step) / gradients
        test = FORWARD * gradient * len(first.test) / run.batch_size / run.context
        evaluations = evaluation_steps(one.steps, len(_windows(first, run)), run.evaluations)
        seconds = one.seconds + (per_step is None) * len(evaluations) * test
        last = test * (1 + run.robustness * (1 + robust.OF_WEIGHTS)) + bool(run.then) * (
            2 * test + run.then_steps * gradient
        )
        return Cost(one.steps, seconds, seconds + last)

    def in_words(self, study: Study, parameters: int) -> list[tuple[str, str]]:
        """Data, network, training."""
        return [
            ("Data", _data(study)),
            *([("Label noise", _noise(study))] if any(study.noise) else []),
            (
                "Network",
                f"A transformer by characters: pre-norm, {study.depth} blocks of width {study.width} with "
                f"{study.width // 32} heads, a context of {study.context} characters, no dropout, {parameters:,} "
                "trained parameters.",
            ),
            ("Training", phrases.training(study, PASSES.format(study.epochs))),
            *([("Forgetting", _forgetting(study))] if study.then else []),
        ]


def train(trial: Trial, run: Run) -> Outcome:
    """Train on the first text; a diverged run counts as one that knows nothing: equal probabilities.

    Windows of a batch are its examples: the loss of one is the mean over its characters.
    """
    corpus, device = text.load(run.data, run.then), Processes().device
    first, windows = corpus.first, _windows(corpus.first, run, _targets(corpus, trial.noise, run.seed))
    net = transformer.character_transformer(corpus.symbols, run.context, run.width, run.depth).to(device)
    steps = run.epochs * len(windows)
    groups = parameter_groups(net, run.decay_vectors)
    opt = trial.optimizer(groups, model=net, steps=steps, examples=windows.count)
    total = trial.max_steps(steps)
    scheduler = LambdaLR(opt, lambda step: rate(run, step / total))
    evaluations = evaluation_steps(total, len(windows), run.evaluations)
    seen: dict[str, Any] = {"step": 0, "evaluated": 0, "loss": torch.zeros((), device=device)}
    diverged = False
    for batch in trial.steps(windows, run.epochs, save=[net, opt, scheduler, seen]):
        x, y = (part.to(device) for part in batch)
        for probe in opt.probes():
            outputs = _outputs(net, x[probe.rows], run)
            losses = loss_of(outputs, y[probe.rows])
            probe.backward(losses, outputs=outputs)
            if probe == 0:
                seen["loss"] = seen["loss"] + losses.detach().mean()
        if run.clip:
            nn.utils.clip_grad_norm_(net.parameters(), run.clip)
        opt.step()
        scheduler.step()
        step = seen["step"] = seen["step"] + 1
        if step in evaluations:
            loss = float(seen["loss"]) / (step - seen["evaluated"]) / math.log(2)
            if diverged := not math.isfinite(loss):
                break
            trial.log(validation=bits(trial.evaluated(net), first.validation, run), train=loss)
            seen |= {"evaluated": step, "loss": torch.zeros_like(seen["loss"])}
    found = trial.evaluated(net)
    validation = bits(found, first.validation, run)
    if diverged or not math.isfinite(validation):  # perhaps by the last step
        nothing = math.log2(corpus.symbols)
        return Outcome(validation=nothing, test=nothing, better="lower", metric=METRIC, diverged=True)
    return Outcome(
        validation=validation,
        test=lambda: bits(found, first.test, run),
        better="lower",
        metric=METRIC,
        net=found,
        loss=loss_of,
        batches=((x.to(device), y.to(device)) for x, y in text.spread(first.train, run.context, BATCH)),
        forgetting=(lambda: forgetting(found, corpus, run)) if corpus.then is not None else None,
    )


def forgetting(net: nn.Module, corpus: Corpus, run: Run) -> tuple[float, float]:
    """Bits per character of both texts after `run.then_steps` steps of plain AdamW on the second.

    The learning rate is constant, the other settings are the defaults of studies. A copy of the network is trained, on
    batches that depend on the seed only.

    Args:
        net: the network after the training on the first text.
        corpus: both texts.
        run: the training.
    """
    assert corpus.then is not None
    net = copy.deepcopy(net).requires_grad_()
    groups = parameter_groups(net, run.decay_vectors)
    opt, _ = Contender("plain", "adamw").parts(groups, {"lr": run.then_lr}, {})
    order = DataOrder(_windows(corpus.then, run), number(run.seed, "then"))
    device = next(net.parameters()).device
    for _ in range(run.then_steps):
        x, y = (part.to(device) for part in order.next())
        opt.zero_grad()
        loss_of(_outputs(net, x, run), y).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if run.clip:
            nn.utils.clip_grad_norm_(net.parameters(), run.clip)
        opt.step()
    return bits(net, corpus.first.test, run), bits(net, corpus.then.test, run)


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of every window in nats, (n,), from logits (n, length, symbols) and symbols (n, length)."""
    return cross_entropy(outputs.transpose(1, 2).float(), targets, reduction="none").mean(1)


@torch.no_grad()
def bits(net: nn.Module, symbols: Tensor, run: Run) -> float:
    """Bits per character of a split, cut into windows: a character is predicted from 1 to `context` before it."""
    batches: Iterable[tuple[Tensor, Tensor]] = text.in_order(symbols, run.context, BATCH)
    device = next(net.parameters()).device
    losses = [loss_of(_outputs(net, x.to(device), run), y.to(device)) for x, y in batches]
    return torch.cat(losses).double().mean().item() / math.log(2)


def _outputs(net: nn.Module, x: Tensor, run: Run) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=run.precision == "bfloat16"):
        found: Tensor = net(x)
    return found


def _windows(one: Text, training: Training, targets: Tensor | None = None) -> Windows:
    return Windows(one.train, one.train if targets is None else targets, training.context, training.batch_size)


def _targets(corpus: Corpus, noise: float, seed: int) -> Tensor:
    """The characters to be predicted, a fraction of them replaced."""
    clean = corpus.first.train
    return replace_labels(clean, noise, corpus.symbols, generator(seed, "label noise")) if noise else clean


#: How often a text is read.
PASSES = "{} passes over the training split in windows, cut at other places in each"


def _data(study: Study) -> str:
    return (
        f"{Path(study.data).name}, by characters: the first 90 % for training, the next 5 % for validation, the last "
        f"5 % for the test. Characters that occur less than {text.OCCURRENCES} times in the training splits are one "
        "symbol. Validation and test are cut into windows, and each character is predicted from those before it in its "
        "window."
    )


def _noise(study: Study) -> str:
    return (
        f"{phrases.shares(study)} of the training characters that are to be predicted are replaced by one drawn "
        "uniformly from all. What is read, validation and test are clean."
    )


def _forgetting(study: Study) -> str:
    return (
        f"After the last step, a copy of the tested weights goes on with {Path(study.then).name} for "
        f"{study.then_steps:,} steps of plain AdamW, with the constant learning rate {study.then_lr:g}, in batches "
        "that are the same for all methods of a seed. Forgotten: the bits per character that the test split of the "
        "first text then costs more."
    )

"""The task that is built in: the classification of images."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from flatmin.study.config import Run, Study, Training, check_batch_size, check_options
from flatmin.study.data import cache, sources
from flatmin.study.data.dataset import NAMES, check, load_dataset
from flatmin.study.networks import models
from flatmin.study.tasks import phrases
from flatmin.study.tasks.task import FORWARD, AbsentError, Attempt, Cost
from flatmin.study.training import loop, robust
from flatmin.study.training.record import Result
from flatmin.study.training.schedule import Schedule

#: A calibration takes this many steps, or as many as fit into these seconds, after one that warms up.
STEPS, SECONDS = 32, 0.5


class Images:
    """Images, networks and their training, as the options of `flatmin train` describe them."""

    keeps_weights = True

    def check(self, training: Training) -> None:
        """Check the names of data and network, and refuse options of text."""
        check_options(training)
        check(training.data)
        models.check(training.model)

    def prepare(self, training: Training, console: Console | None = None) -> None:
        """Load the data and build the network once.

        Raises:
            ValueError: the data or the network cannot be used, or a batch is larger than the training set.
        """
        dataset = load_dataset(training.data, subset=training.subset, image_size=training.image_size, console=console)
        check_batch_size(training, len(dataset.train.labels))
        channels, size = dataset.train.images.shape[1:3]
        with torch.random.fork_rng(devices=[]):
            models.build(
                training.model,
                channels,
                len(dataset.classes),
                image_size=size,
                pretrained=training.pretrained,
                images=dataset.sample,
            )

    def inherited(self) -> Callable[[], None]:
        """A worker gets what this process knows of the data, so none asks the hub."""
        return functools.partial(sources.remember, sources.memory())

    def shipped(self, training: Training, *, data: bool) -> Callable[[], None]:
        """A worker looks for the decoded images of this machine in its own cache, or writes them there."""
        source, size = training.data, training.image_size
        if source in NAMES:
            return self.inherited()
        content = cache.content(source, size) if data else None
        return functools.partial(_receive, source, size, sources.fingerprint(source), content)

    def train(self, run: Run, attempt: Attempt) -> Result:
        """See `flatmin.study.training.loop.train`."""
        return loop.train(run, attempt.log, attempt.checkpoints, attempt.processes, attempt.watch, attempt.keep)

    def cost(self, run: Run, gradients: float, per_step: float | None) -> Cost:
        """Steps times seconds per step, and a third of a gradient per image of an evaluation."""
        dataset = load_dataset(run.data, subset=run.subset, image_size=run.image_size)
        schedule = Schedule.of(run, len(dataset.train.labels), gradients)
        per_step = _calibrated(run) if per_step is None else per_step
        passes = 1 + run.flip_at_test
        validation = passes * len(schedule.evaluations) * len(dataset.validation.labels)
        # Training images once, and test images once or for every change.
        tests = len(dataset.test.labels) * (1 + robust.PASSES * run.robustness)
        final = passes * (tests + min(loop.LEARNED, len(dataset.train.labels)))
        per_image = FORWARD * per_step / schedule.batch_size / gradients
        seconds = schedule.steps * per_step + validation * per_image
        return Cost(schedule.steps, seconds, seconds + final * per_image)

    def in_words(self, study: Study, parameters: int) -> list[tuple[str, str]]:
        """Data, label noise, network and training."""
        return [
            ("Data", _data(study)),
            ("Label noise", _noise(study)),
            ("Network", f"{study.model}{', pretrained' * study.pretrained}, {parameters:,} trained parameters."),
            ("Training", _training(study)),
        ]


def _receive(source: str, size: int, fingerprint: str, content: dict[str, NDArray[np.uint8]] | None) -> None:
    """See `Images.shipped`."""
    sources.remember({source: fingerprint})
    if content is not None:
        cache.adopt(source, size, content)
    elif not cache.holds(source, size):
        raise AbsentError(source)


class _EnoughError(Exception):
    """Ends a calibration."""


def _calibrated(run: Run) -> float:
    """Seconds per step of the first steps of `run`, without evaluations."""
    times: list[float] = []

    def watch(step: int, *_: object) -> None:
        times.append(time.perf_counter())
        if step > STEPS or (step > 1 and times[-1] - times[0] > SECONDS):
            raise _EnoughError

    began = time.perf_counter()
    with contextlib.suppress(_EnoughError):
        loop.train(dataclasses.replace(run, evaluations=1), watch=watch)
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else times[0] - began


def _data(study: Study) -> str:
    words = study.data
    if study.data == "digits":
        words += ": 1,797 real 8x8 images in ten classes, split 60/20/20 into training, validation and test"
    if study.subset:
        words += f"; {study.subset:,} training examples of it"
    if study.image_size:
        words += f"; {study.image_size} pixels wide and high"
    if study.data != "digits":
        words += (
            ". Data without a test split of their own are tested on 20 % of their images, which training does not use; "
            "10 % of the rest are the validation split"
        )
    return f"{words}. Augmentation: {study.augment}."


def _noise(study: Study) -> str:
    return (
        f"{phrases.shares(study)} of the training labels are replaced by a label drawn uniformly from all classes. "
        "Validation and test labels are clean."
    )


def _training(study: Study) -> str:
    return phrases.training(
        study,
        f"{study.epochs} epochs",
        f"each batch in {study.micro_batches} parts" if study.micro_batches > 1 else "",
        "compiled" if study.compile else "",
        f"label smoothing {study.label_smoothing:g}" if study.label_smoothing else "",
        "evaluated on images and their mirror images" if study.flip_at_test else "",
        f"the {study.average.upper()} average of the weights is what is evaluated" if study.average != "none" else "",
    )

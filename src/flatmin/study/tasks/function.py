"""Tasks that are a function of a `Trial`: how it is called, what is recorded of it, what it costs."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from rich.console import Console

from flatmin.study import config
from flatmin.study.config import Run, Training, number
from flatmin.study.tasks import data_order
from flatmin.study.tasks.outcome import EXAMPLE, Outcome, TaskError, evaluate, plain
from flatmin.study.tasks.task import Attempt, Cost
from flatmin.study.tasks.trial import Trial
from flatmin.study.training import record, robust
from flatmin.study.training.record import Result
from flatmin.study.training.robust import Robustness

#: A calibration takes this many steps, or as many as fit into these seconds, after one that warms up.
STEPS, SECONDS = 32, 2.0
#: Names that numbers of a record have already.
TAKEN = (*(f.name for f in fields(Result)), "arm", "noise", "contender", "seed", "settings", "difference")


class FunctionTask:
    """A task that is a function of a `Trial`; its subclasses say which.

    Args:
        name: of the task.
    """

    keeps_weights = False

    def __init__(self, name: str) -> None:
        self.name = name

    def call(self, trial: Trial, run: Run) -> Outcome:
        """Train."""
        raise NotImplementedError

    def source(self, run: Run) -> str:
        """What tells one version of the function and its data from another; "" if nothing does."""
        raise NotImplementedError

    def check(self, training: Training) -> None:
        """Refuse options that the task does not take.

        Raises:
            ValueError: one of them is given.
        """
        config.check_options(training)

    def prepare(self, training: Training, console: Console | None = None) -> None:
        """Nothing: the function loads what it needs."""

    def inherited(self) -> Callable[[], None]:
        """A worker finds modules where this process does."""
        return functools.partial(_find_modules, list(sys.path))

    def shipped(self, training: Training, *, data: bool) -> Callable[[], None]:
        """What a worker of any machine calls first; see `flatmin.study.tasks.task`."""
        raise NotImplementedError

    def train(self, run: Run, attempt: Attempt) -> Result:
        """Call the function.

        Raises:
            TaskError: it did not do its part.
            NotFiniteError: its result is not a finite number.
        """
        if attempt.processes.size > 1:
            raise ValueError(f"torchrun trains images only; start {self.name} as a single process")
        source = self.source(run)
        with _seeded(run.seed):
            trial = Trial(run, attempt, source)
            outcome = self.call(trial, run)
            if not isinstance(outcome, Outcome):
                raise TaskError(f"{self.name} returned {outcome!r}; write {EXAMPLE}")
            end = trial.finish(outcome)
            test: float | None = None
            others: dict[str, float | None] = dict.fromkeys(outcome.others)
            robustness: Robustness | None = None
            if run.test:
                test, others = _final(outcome)
                robustness = _changed(run, outcome, test)
            if attempt.measure is not None and outcome.net is not None and outcome.loss is not None:
                attempt.measure(outcome.net, outcome.loss, outcome.batches)  # type: ignore[arg-type]  # both or none
        return Result(
            test=test,
            validation=end["validation"],
            gradient_evaluations=end["gradient_evaluations"],
            steps=max(optimizer.steps for optimizer in trial.optimizers),
            seconds=end["seconds"],
            diverged=end["epoch"] if outcome.diverged else None,
            method=repr(trial.optimizers[0].method),
            parameters=sum(
                p.numel() for one in trial.optimizers for group in one.param_groups for p in group["params"]
            ),
            environment={**record.environment(torch.get_num_threads()), "task_source": source},
            robustness=robustness,
            metric=outcome.scored_by(),
            others=others,
        )

    def cost(self, run: Run, gradients: float, per_step: float | None) -> Cost:
        """The time until the first step, and steps times seconds per step; without evaluations after the last step.

        A function that does not ask the trial for its steps is run to its end.
        """
        times: list[float] = []

        def after_step() -> None:
            times.append(time.perf_counter())
            enough = len(times) > STEPS or (len(times) > 1 and times[-1] - times[0] > SECONDS)
            if trial.planned is not None and enough:
                raise _EnoughError

        began = time.perf_counter()
        with _seeded(run.seed):
            trial = WatchedTrial(run, after_step)
            with contextlib.suppress(_EnoughError):
                self.call(trial, run)
        if not times:
            raise TaskError("no optimizer of the trial took a step; write opt = trial.optimizer(net.parameters())")
        measured = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else times[0] - began
        steps = trial.planned or len(times)
        seconds = times[0] - began + (steps - 1) * (measured if per_step is None else per_step)
        return Cost(steps, seconds, seconds)


class WatchedTrial(Trial):
    """A trial that writes nothing and reports its optimizers' steps."""

    def __init__(self, run: Run, after_step: Callable[[], None]) -> None:
        super().__init__(run, Attempt())
        self._after_step = after_step

    def optimizer(self, *args: Any, **options: Any) -> Any:
        """See `Trial.optimizer`."""
        super().optimizer(*args, **options)
        self.optimizers[-1].after_step = self._after_step
        return self.optimizers[-1]


class _EnoughError(BaseException):
    """Ends a calibration; not an Exception, which the task might catch."""


def _final(outcome: Outcome) -> tuple[float, dict[str, float | None]]:
    """What all final runs measure."""
    if outcome.test is None:
        raise TaskError(f"Outcome lacks test in a final run; write {EXAMPLE}")
    for name in outcome.others:
        if name in TAKEN or not isinstance(name, str):
            raise TaskError(f"others must not be called {name!r}, which is taken; choose another name")
    others: dict[str, float | None] = {name: evaluate(name, value) for name, value in outcome.others.items()}
    return evaluate("test", outcome.test), others


def _changed(run: Run, outcome: Outcome, test: float) -> Robustness | None:
    """What final runs measure if they are asked to; None for nothing, and for a run that diverged."""
    found: Robustness = {}
    if outcome.diverged:
        return None
    if run.robustness:
        found |= robust.of_weights(*outcome.scored_network(), run.seed)
    if outcome.forgetting is not None:
        after, second = (plain("forgetting", value) for value in outcome.forgetting())
        found |= robust.of_forgetting(outcome.scored_by(), test, after, second)
    return found or None


def _find_modules(path: list[str]) -> None:
    sys.path[:] = path


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The generators of torch, numpy and Python are seeded inside the block, and as before after it."""
    before = data_order.random_state()
    try:
        data_order.seed_all(number(seed, "task"))
        yield
    finally:
        data_order.set_random_state(before)

"""A task of one's own: `package.module:function`, a function of a `Trial` that returns an `Outcome`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console

from flatmin.checks import import_callable
from flatmin.study.config import OF_OWN_TASKS, Run, Study, Training, number
from flatmin.study.tasks import data_order
from flatmin.study.tasks.outcome import EXAMPLE, Outcome, TaskError, evaluate
from flatmin.study.tasks.task import Cost, Measure
from flatmin.study.tasks.trial import Trial
from flatmin.study.training import record
from flatmin.study.training.checkpoints import Checkpoints
from flatmin.study.training.loop import Keep, Log, Watch
from flatmin.study.training.record import Result
from flatmin.study.training.torchrun import Processes

#: A calibration takes this many steps, or as many as fit into these seconds, after one that warms up.
STEPS, SECONDS = 32, 2.0
#: Names that numbers of a record have already.
TAKEN = (*(f.name for f in fields(Result)), "arm", "noise", "contender", "seed", "settings", "difference")

Train = Callable[[Trial], Outcome]


class Own:
    """A training function.

    Args:
        name: `package.module:function`.
    """

    keeps_weights = False

    def __init__(self, name: str) -> None:
        self.name = name

    def check(self, training: Training) -> None:
        """Import the function, and refuse options of images.

        Raises:
            ValueError: it cannot be imported, or an option is not for it.
        """
        load(self.name)
        for option in fields(Training):
            value = getattr(training, option.name)
            if option.name not in OF_OWN_TASKS and option.default is not MISSING and value != option.default:
                flag = option.name.replace("_", "-")
                words = f"{option.name} = {value} is an option of images"
                raise ValueError(f"{words}; {self.name} decides it itself, so leave out --{flag}")

    def prepare(self, training: Training, console: Console | None = None) -> None:
        """Nothing: the function loads what it needs."""

    def inherited(self) -> Callable[[], None]:
        """A worker finds modules where this process does."""
        return functools.partial(_find_modules, list(sys.path))

    def train(
        self,
        run: Run,
        log: Log,
        checkpoints: Checkpoints,
        processes: Processes,
        watch: Watch,
        keep: Keep,
        measure: Measure | None,
    ) -> Result:
        """Call the function.

        Raises:
            TaskError: it did not do its part.
            NotFiniteError: its result is not a finite number.
        """
        if processes.size > 1:
            raise ValueError(f"torchrun trains images only; start {self.name} as a single process")
        function, source = load(self.name), digest(self.name)
        with _seeded(run.seed):
            trial = Trial(run, log, checkpoints, watch, source)
            outcome = function(trial)
            if not isinstance(outcome, Outcome):
                raise TaskError(f"{self.name} returned {outcome!r}; write {EXAMPLE}")
            end = trial.finish(outcome)
            test: float | None = None
            others: dict[str, float | None] = dict.fromkeys(outcome.others)
            if run.test:
                test, others = _final(outcome)
            if measure is not None and outcome.net is not None:
                measure(outcome.net, outcome.loss, outcome.batches)  # type: ignore[arg-type]  # all three or none
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
            trial = _Watched(run, after_step)
            with contextlib.suppress(_EnoughError):
                load(self.name)(trial)
        if not times:
            raise TaskError("no optimizer of the trial took a step; write opt = trial.optimizer(net.parameters())")
        measured = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else times[0] - began
        steps = trial.planned or len(times)
        seconds = times[0] - began + (steps - 1) * (measured if per_step is None else per_step)
        return Cost(steps, seconds, seconds)

    def in_words(self, study: Study, parameters: int) -> list[tuple[str, str]]:
        """The function, and the first line of its docstring if it is here."""
        try:
            summary = (inspect.getdoc(load(self.name)) or "").partition("\n")[0]
        except ValueError:
            summary = ""
        words = f"The training function {self.name}, {parameters:,} trained parameters. {summary}".strip()
        return [("Task", words if words.endswith(".") else f"{words}.")]


class _Watched(Trial):
    """A trial that writes nothing and reports its optimizers' steps."""

    def __init__(self, run: Run, after_step: Callable[[], None]) -> None:
        super().__init__(run, lambda row: None, Checkpoints(None), lambda *_: None)
        self._after_step = after_step

    def optimizer(self, *args: Any, **options: Any) -> Any:
        """See `Trial.optimizer`."""
        super().optimizer(*args, **options)
        self.optimizers[-1].after_step = self._after_step
        return self.optimizers[-1]


class _EnoughError(BaseException):
    """Ends a calibration; not an Exception, which the task might catch."""


def _final(outcome: Outcome) -> tuple[float, dict[str, float | None]]:
    """What only final runs measure."""
    if outcome.test is None:
        raise TaskError(f"Outcome lacks test in a final run; write {EXAMPLE}")
    for name in outcome.others:
        if name in TAKEN or not isinstance(name, str):
            raise TaskError(f"others must not be called {name!r}, which is taken; choose another name")
    others: dict[str, float | None] = {name: evaluate(name, value) for name, value in outcome.others.items()}
    return evaluate("test", outcome.test), others


#: Functions that were given as such, by name: those of a notebook cannot be imported.
_given: dict[str, Train] = {}


def name_of(function: Train, jobs: int) -> str:
    """The name of a function, `module:function`; remembers it in this process.

    Args:
        function: of a `Trial`.
        jobs: worker processes, which have to import it.

    Raises:
        ValueError: they cannot.
    """
    module, name = function.__module__, function.__qualname__
    if jobs > 1 and (module == "__main__" or "." in name):
        raise ValueError(
            f"with jobs = {jobs}, worker processes must import {name}, which is defined in "
            f"{'the script or notebook' if module == '__main__' else 'a function or class'}; move it to the top of a "
            "module, mytask.py, and write from mytask import train, or write jobs=1"
        )
    _given[f"{module}:{name}"] = function
    return f"{module}:{name}"


def load(name: str) -> Train:
    """The function `package.module:function`.

    Raises:
        ValueError: it cannot be imported.
    """
    if name in _given:
        return _given[name]
    package, _, attribute = name.partition(":")
    otherwise = f"write def {attribute or 'train'}(trial): ... there"
    try:
        found: Train = import_callable("task", name, "package.module:function", "function", otherwise=otherwise)[1]
    except ValueError:
        raise
    except Exception as error:  # of the module's own code
        raise ValueError(f"task: importing {package!r} raised {type(error).__name__}: {error}") from error
    return found


def digest(name: str) -> str:
    """The start of the SHA-256 of the function's file, so that records tell which version made them; "" without one."""
    module: ModuleType | None = sys.modules.get(load(name).__module__)
    path = getattr(module, "__file__", None)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] if path and Path(path).exists() else ""


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

"""What a study will cost, before anything starts: trials, runs, gradients, and an estimate of the time."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from flatmin.registry import Range
from flatmin.study import plan, pool, settings
from flatmin.study.config import FIRST_TUNING_SEED, Study
from flatmin.study.search import rounds
from flatmin.study.tasks.runs import task_of
from flatmin.study.tasks.task import Task
from flatmin.study.training import record

#: Complete runs of a contender that are read for its speed.
RECORDS = 8


@dataclass(frozen=True)
class Cost:
    """What one contender costs.

    Args:
        contender: its name.
        searched: the ranges of its search; empty without one.
        trials: of the first round, over all conditions that have a winner of their own.
        runs: trainings in the first round, of the finalists, and in the end.
        gradients: of all of these.
        seconds: of one process for them. Flatness is not included.
        measured: whether the speed was measured just now; else it is that of complete runs.
    """

    contender: str
    searched: dict[str, Range]
    trials: int
    runs: tuple[int, int, int]
    gradients: float
    seconds: float
    measured: bool


def estimate(study: Study, out: Path, console: Console | None = None) -> list[Cost]:
    """The cost of each contender of `study`. Loads the data; trains no run and writes nothing into `out`.

    The time is steps times seconds per step, and for images a third of a gradient per image of an evaluation. The
    seconds per step are those of complete runs in `out`, or else of a few steps in this process, with one thread as in
    a study.

    Args:
        study: the protocol.
        out: the study's folder.
        console: where the progress of loading data is shown; None shows none.

    Raises:
        ValueError: as of `flatmin.study.comparison.compare`.
    """
    study = plan.canonical(study)
    if not study.tune:
        plan.resolve(study, plan.published(study))
    record.check_folder(study, out)
    task_of(study.task).prepare(study, console)
    task = task_of(study.task)
    with pool.few_threads():
        return [_cost(study, name, task, out) for name in study.methods]


def _cost(study: Study, name: str, task: Task, out: Path) -> Cost:
    conditions = len(study.noise)
    finalists = study.tune_finalists if study.tune_finalists > 1 else 0
    trials = study.tune * len([case for case in rounds.cases(study) if case.contender == name])
    runs = (
        study.tune * conditions * study.tune_seeds,
        finalists * conditions * study.tune_finalist_seeds,
        len(study.arms) * conditions * study.seeds,
    )
    run = study.run(name, settings.default(study, name), study.noise[0], FIRST_TUNING_SEED, test=False)
    gradients = settings.contender(study, name).gradients(run.settings)
    known = _recorded(out, name)
    one = task.cost(run, gradients, known)
    seconds = sum(runs[:2]) * one.seconds + runs[2] * one.final_seconds
    searched = settings.space(study, name) if study.tune else {}
    return Cost(name, searched, trials, runs, sum(runs) * one.steps * gradients, seconds, measured=known is None)


def _recorded(out: Path, name: str) -> float | None:
    """Seconds per step of complete runs in `out`, the median; None if there are none."""
    folders = itertools.chain(out.glob(f"runs/*/*/{name}/*"), out.glob(f"tune/trial-*/*/{name}/*"))
    found = (record.read(folder) for folder in folders)
    results = itertools.islice((one[1] for one in found if one), RECORDS)
    return statistics.median(speeds) if (speeds := [result.seconds / result.steps for result in results]) else None

"""The search before a study: the same number of trials for all contenders, scored on the validation split.

The settings are a fixed design, so they do not depend on the order in which trials finish, and any number of processes
can work on one search.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from flatmin.checks import at_least
from flatmin.study import files, plan, pool, progress
from flatmin.study.config import Study
from flatmin.study.search import rounds, winners
from flatmin.study.search.rounds import Round
from flatmin.study.tasks import runs
from flatmin.study.tasks.outcome import NotFiniteError, TaskError
from flatmin.study.tasks.runs import task_of
from flatmin.study.training import record
from flatmin.study.training.record import Result

#: Seconds between two checks of the trials that other processes work on.
PAUSE = 1.0

#: Failures that are not due to the settings: a full disk, too little memory, a task that does not do its part.
CIRCUMSTANCES = (OSError, MemoryError, torch.OutOfMemoryError, TaskError)


def search(
    study: Study, out: Path, jobs: int = 1, console: Console | None = None, *, command: str | None = None
) -> dict[str, Any]:
    """Do or continue the search of `study` in the folder `out`, alone or together with other processes.

    Several processes may call it at once, also on several machines that share the folder: each trial is done once, and
    the numbers are the same. It returns when all trials are finished.

    Args:
        study: the protocol: `tune` trials per contender, and perhaps `tune_finalists`.
        out: the study's folder: new, empty, or holding this same study.
        jobs: worker processes of this call, >= 1; affects no number.
        console: where progress is shown; None shows none.
        command: recorded as the command that made the study.

    Returns:
        The content of `tuning.json`: see `flatmin.study.tuning`.

    Raises:
        ValueError: no trials are requested, an unknown name, or a folder that holds something else. Nothing was done
            then.
        RunError: a run failed before its case had a complete trial, or all finalists of a case failed. Any other
            failure is a trial without score.
    """
    console = console or Console(quiet=True)
    at_least("jobs", jobs, 1)
    if study.tune < 1:
        raise ValueError(f"tune must be >= 1 for a search, got {study.tune}; write --tune 32")
    study = plan.canonical(study)
    task_of(study.task).prepare(study, console)
    record.begin_study(study, out, command)
    return run(study, out, jobs, console)


def run(study: Study, out: Path, jobs: int, console: Console) -> dict[str, Any]:
    """The search of a canonical study whose data are loaded and whose folder is its own; see `search`."""
    first = rounds.first(study)
    _work_off(first, study, out, jobs, console)
    trials = first.all(out)
    tuning = winners.choose(first, trials)
    if study.tune_finalists > 1:
        second = rounds.second(study, trials)
        _work_off(second, study, out, jobs, console)
        tuning = winners.decide(tuning, second, second.all(out))
    files.write_json(out / "tuning.json", tuning)
    return tuning


def work(stage: Round, study: Study, out: Path) -> None:
    """Do the next free trial of a round, if there is one. Complete runs are not repeated.

    Raises:
        RuntimeError: the trial failed, and its case has no complete trial, so the settings may not be the cause.
    """
    trials = stage.trials(out)
    with trials.take() as trial:
        if trial is None:
            return
        wanted = stage.runs(study, trial)
        missing = {name: run for name, run in wanted.items() if not record.holds(out / name, run)}
        try:
            for name, run in missing.items():
                runs.perform(run, out / name)
        except CIRCUMSTANCES:
            raise
        except Exception as error:
            # What is not finite is due to the settings. Of other errors that is sure only if another trial of the
            # case is complete; in the second round one is.
            others = (one for one in rounds.first(study).all(out) if one.case == trial.case)
            if not isinstance(error, NotFiniteError) and not any(one.score is not None for one in others):
                raise RuntimeError(f"{trial.case} failed at {trial.settings}") from error
            trials.tell(trial, None, error=f"{type(error).__name__}: {error}")
            return
        found = [result for name in wanted if (result := _result(out / name))]
        diverged = sum(result.diverged is not None for result in found)
        trials.tell(trial, winners.score(found), metric=found[0].metric, diverged=diverged)


def _work_off(stage: Round, study: Study, out: Path, jobs: int, console: Console) -> None:
    """Do the trials of a round until all are finished; take over those of processes that died."""
    trials, said = stage.trials(out), False
    unfinished = [trial for trial in trials.all() if trial.score is None and trial.error is None]
    folders = [out / name for trial in unfinished for name in stage.runs(study, trial)]
    progress.say_damage([file for folder in folders if (file := record.damaged(folder))], console)
    while left := trials.open():
        if free := trials.free():
            tasks = pool.run_all(work, [(stage, study, out)] * free, jobs, task_of(study.task).inherited())
            for _ in progress.track(tasks, free, stage.total - left + free, stage.name, console, unit="trials"):
                pass
        else:
            if not said:
                console.print(f"{stage.name}: waiting for {left} that other processes work on", highlight=False)
            said = True
            time.sleep(PAUSE)


def _result(run: Path) -> Result | None:
    found = record.read(run)
    return found[1] if found else None

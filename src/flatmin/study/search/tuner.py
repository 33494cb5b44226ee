"""The search before a study: the same number of trials for all contenders, scored on the validation split.

The settings are a fixed design, so they do not depend on the order in which trials finish, and any number of processes
can work on one search.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from flatmin.study import files, plan, progress
from flatmin.study.config import Run, Study
from flatmin.study.launchers.launcher import Failure, Job, Launch, Launcher
from flatmin.study.launchers.local import Local
from flatmin.study.pool import RunError
from flatmin.study.search import rounds, winners
from flatmin.study.search.rounds import Round
from flatmin.study.tasks.runs import task_of
from flatmin.study.training import record
from flatmin.study.training.record import Result

if TYPE_CHECKING:
    from flatmin.study.search.trials import Trial

#: Seconds between two checks of the trials that other processes work on.
PAUSE = 1.0


def search(
    study: Study,
    out: Path,
    jobs: int = 1,
    console: Console | None = None,
    *,
    launcher: Launcher | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Do or continue the search of `study` in the folder `out`, alone or together with other processes.

    Several processes may call it at once, also on several machines that share the folder: each trial is done once, and
    the numbers are the same. It returns when all trials are finished.

    Args:
        study: the protocol: `tune` trials per contender, and perhaps `tune_finalists`.
        out: the study's folder: new, empty, or holding this same study.
        jobs: worker processes of this call, >= 1; affects no number.
        console: where progress is shown; None shows none.
        launcher: what executes the runs instead; affects no number either.
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
    launcher = launcher or Local(jobs)
    if study.tune < 1:
        raise ValueError(f"tune must be >= 1 for a search, got {study.tune}; write --tune 32")
    study = plan.canonical(study)
    task_of(study.task).prepare(study, console)
    record.begin_study(study, out, command)
    with launcher.start(study) as launch:
        return run(study, out, launch, console)


def run(study: Study, out: Path, launch: Launch, console: Console) -> dict[str, Any]:
    """The search of a canonical study whose data are loaded and whose folder is its own; see `search`."""
    first = rounds.first(study)
    _work_off(first, study, out, launch, console)
    trials = first.all(out)
    tuning = winners.choose(first, trials)
    if study.tune_finalists > 1:
        second = rounds.second(study, trials)
        _work_off(second, study, out, launch, console)
        tuning = winners.decide(tuning, second, second.all(out))
    files.write_json(out / "tuning.json", tuning)
    return tuning


def _work_off(stage: Round, study: Study, out: Path, launch: Launch, console: Console) -> None:
    """Do the trials of a round until all are finished; take over those of processes that died."""
    trials, said = stage.trials(out), False
    unfinished = [trial for trial in trials.all() if trial.score is None and trial.error is None]
    folders = [out / name for trial in unfinished for name in stage.runs(study, trial)]
    progress.say_damage([file for folder in folders if (file := record.damaged(folder))], console)
    while left := trials.open():
        if free := trials.free():
            done = _do_free(stage, study, out, launch, len(folders))
            for _ in progress.track(done, free, stage.total - left + free, stage.name, console, unit="trials"):
                pass
        else:
            if not said:
                console.print(f"{stage.name}: waiting for {left} that other processes work on", highlight=False)
            said = True
            time.sleep(PAUSE)


@dataclass
class _Taken:
    """A trial that this process holds.

    Args:
        trial: its point.
        names: the folders of all its runs, below the study's.
        left: those of its runs that are neither complete nor begun.
        lock: no other process takes the trial while this is open.
        begun: folders of runs under way.
        failures: of its runs, by folder.
    """

    trial: Trial
    names: list[str]
    left: dict[str, Run]
    lock: contextlib.ExitStack
    begun: set[Path] = field(default_factory=set)
    failures: dict[Path, Failure] = field(default_factory=dict)


def _do_free(stage: Round, study: Study, out: Path, launch: Launch, most: int) -> Iterator[Trial]:
    """Do the free trials of a round, at most `most` runs; yield each when it is finished.

    Complete runs are not repeated. The first run that fails ends its trial.

    Raises:
        RunError: a run failed, and perhaps not because of its settings.
    """
    trials = stage.trials(out)
    finished: list[Trial] = []
    under_way: dict[Path, _Taken] = {}
    locks = contextlib.ExitStack()

    def jobs() -> Iterator[Job]:
        while (taken := take()) is not None:
            if not taken.left:
                tell(taken)
            while taken.left:
                name = next(iter(taken.left))
                job = Job(taken.left.pop(name), out / name)
                taken.begun.add(job.folder)
                under_way[job.folder] = taken
                yield job

    def take() -> _Taken | None:
        lock = locks.enter_context(contextlib.ExitStack())
        trial = lock.enter_context(trials.take())
        if trial is None:
            return None
        wanted = stage.runs(study, trial)
        left = {name: run for name, run in wanted.items() if not record.holds(out / name, run)}
        return _Taken(trial, [*wanted], left, lock)

    def tell(taken: _Taken) -> None:
        if taken.failures:
            first = min(taken.failures, key=[out / name for name in taken.names].index)
            trials.tell(taken.trial, None, error=taken.failures[first].error)
        else:
            found = [result for name in taken.names if (result := _result(out / name))]
            diverged = sum(result.diverged is not None for result in found)
            trials.tell(taken.trial, winners.score(found), metric=found[0].metric, diverged=diverged)
        taken.lock.close()
        finished.append(taken.trial)

    with locks, contextlib.closing(launch(jobs(), most)) as done:
        for job, failure in done:
            taken = under_way.pop(job.folder)
            taken.begun.remove(job.folder)
            if failure is not None:
                _check_cause(failure, taken.trial, job, study, out)
                taken.failures[job.folder] = failure
                taken.left.clear()
            if not taken.left and not taken.begun:
                tell(taken)
            yield from finished
            finished.clear()
        yield from finished


def _check_cause(failure: Failure, trial: Trial, job: Job, study: Study, out: Path) -> None:
    """Check that a run failed because of its settings.

    That is sure of numbers that are not finite. Of other errors it is only if another trial of the case is complete; in
    the second round one is.

    Raises:
        RunError: it may have failed for another reason.
    """
    if failure.cause == "circumstances":
        raise RunError(f"while at {job.folder}:\n{failure.traceback}")
    others = (one for one in rounds.first(study).all(out) if one.case == trial.case)
    if failure.cause == "unknown" and not any(one.score is not None for one in others):
        raise RunError(f"{trial.case} failed at {trial.settings}, in {job.folder}:\n{failure.traceback}")


def _result(run: Path) -> Result | None:
    found = record.read(run)
    return found[1] if found else None

"""A study from start to end: resolve its runs, do the missing ones, report. After an interruption, run it again."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from flatmin.checks import at_least
from flatmin.study import files, plan, pool, progress, tuning
from flatmin.study.config import Study
from flatmin.study.minima import run_flatness
from flatmin.study.plan import Plan
from flatmin.study.report import write
from flatmin.study.report.summary import Summary
from flatmin.study.search import tuner
from flatmin.study.tasks.runs import perform, task_of
from flatmin.study.training import record


def compare(
    study: Study, out: Path, jobs: int = 1, *, command: str | None = None, console: Console | None = None
) -> Summary:
    """Run or continue `study` in the folder `out`, then report it.

    Args:
        study: the protocol.
        out: the study's folder: new, empty, or holding this same study.
        jobs: worker processes, >= 1; affects no number but the seconds.
        command: recorded as the command that made the study.
        console: where progress is shown; None shows none.

    Returns:
        The study's numbers, as in `results.json`.

    Raises:
        ValueError: an unknown name, a contender without tuned settings, or a folder that is in use or holds something
            else. Nothing was done then.
        RunError: a run failed; the complete ones are kept.
    """
    console = console or Console(quiet=True)
    at_least("jobs", jobs, 1)
    study = plan.canonical(study)
    planned = None
    if not study.tune:
        planned = plan.resolve(study, plan.published(study))
    record.check_folder(study, out)
    task_of(study.task).prepare(study, console)
    with files.exclusive(out):
        record.begin_study(study, out, command)
        if planned is None:
            planned = plan.resolve(study, tuning.winners(tuner.run(study, out, jobs, console), study.noise))
        complete(planned, out, jobs, console)
        return write.refresh(out)


def complete(planned: Plan, out: Path, jobs: int, console: Console) -> None:
    """Do the final runs that `out` does not hold yet, and measure their flatness if the study asks for it.

    Raises:
        ValueError: `out` holds a complete run under one of these names with another config.
        RunError: a run failed.
    """
    count = planned.study.flatness
    holds, do = (run_flatness.holds, run_flatness.train_and_measure) if count else (record.holds, perform)
    damaged = run_flatness.damaged if count else record.damaged
    more = (count,) if count else ()
    names = [name for name, run in planned.runs.items() if not holds(out / name, run)]
    missing = [(planned.runs[name], out / name, *more) for name in names]
    progress.say_damage([file for name in names if (file := damaged(out / name))], console)
    tasks = pool.run_all(do, missing, jobs, task_of(planned.study.task).inherited())
    for _ in progress.track(tasks, len(missing), len(planned.runs), "training", console):
        pass

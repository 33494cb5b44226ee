"""A study from start to end: resolve its runs, do the missing ones, report. After an interruption, run it again."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from rich.console import Console

from flatmin.study import files, plan, progress, tuning
from flatmin.study.config import Study
from flatmin.study.launchers import launcher as launchers
from flatmin.study.launchers.launcher import Job, Launch, Launcher
from flatmin.study.launchers.local import Local
from flatmin.study.minima import run_flatness
from flatmin.study.plan import Plan
from flatmin.study.report import write
from flatmin.study.report.summary import Summary
from flatmin.study.search import tuner
from flatmin.study.tasks.runs import task_of
from flatmin.study.training import record


def compare(
    study: Study,
    out: Path,
    jobs: int = 1,
    *,
    launcher: Launcher | None = None,
    command: str | None = None,
    console: Console | None = None,
) -> Summary:
    """Run or continue `study` in the folder `out`, then report it.

    Args:
        study: the protocol.
        out: the study's folder: new, empty, or holding this same study.
        jobs: worker processes of this machine, >= 1; affects no number but the seconds.
        launcher: what executes the runs instead; affects no number either.
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
    launcher = launcher or Local(jobs)
    study = plan.canonical(study)
    planned = None
    if not study.tune:
        planned = plan.resolve(study, plan.published(study))
    record.check_folder(study, out)
    task_of(study.task).prepare(study, console)
    with files.exclusive(out):
        record.begin_study(study, out, command)
        with launcher.start(study) as launch:
            if planned is None:
                planned = plan.resolve(study, tuning.winners(tuner.run(study, out, launch, console), study.noise))
            complete(planned, out, launch, console)
        return write.refresh(out)


def complete(planned: Plan, out: Path, launch: Launch, console: Console) -> None:
    """Do the final runs that `out` does not hold yet, and measure their flatness if the study asks for it.

    Raises:
        ValueError: `out` holds a complete run under one of these names with another config.
        RunError: a run failed.
    """
    count = planned.study.flatness
    holds, damaged = (run_flatness.holds, run_flatness.damaged) if count else (record.holds, record.damaged)
    missing = [Job(run, out / name, count) for name, run in planned.runs.items() if not holds(out / name, run)]
    progress.say_damage([file for job in missing if (file := damaged(job.folder))], console)
    with closing(launch(missing, len(missing))) as done:
        for _ in progress.track(launchers.complete(done), len(missing), len(planned.runs), "training", console):
            pass

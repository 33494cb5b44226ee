"""Runs on processes of this machine."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from flatmin.checks import at_least
from flatmin.study import pool
from flatmin.study.config import Study
from flatmin.study.launchers.launcher import Failure, Job, Launch, attempt
from flatmin.study.tasks.runs import task_of


@dataclass(frozen=True)
class Local:
    """Processes of this machine, which write the runs' folders themselves and continue from checkpoints there.

    Args:
        jobs: number of processes, >= 1, with one torch thread each. One is this process.
    """

    jobs: int = 1

    def __post_init__(self) -> None:
        at_least("jobs", self.jobs, 1)

    @contextmanager
    def start(self, study: Study) -> Iterator[Launch]:
        """Processes start with the first jobs and end with the last."""
        begin = task_of(study.task).inherited()

        def launch(jobs: Iterable[Job], most: int) -> Generator[tuple[Job, Failure | None], None, None]:
            tasks = ((job,) for job in jobs)
            with closing(pool.run_all(attempt, tasks, min(self.jobs, most), begin)) as done:
                for (job,), failure in done:
                    yield job, failure

        yield launch

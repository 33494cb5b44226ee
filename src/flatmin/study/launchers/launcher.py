"""The interface of what executes runs. A study knows its jobs and their records, and not where they are done.

A run is a function of its config, so it can be done anywhere. What comes of a job is the content of its run's folder:
the record, or `error.txt` with the traceback of the error that ended it.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from flatmin.study.config import Run, Study
from flatmin.study.minima import run_flatness
from flatmin.study.pool import RunError
from flatmin.study.tasks import runs
from flatmin.study.tasks.outcome import NotFiniteError, TaskError

#: In a run's folder: the traceback of the error that ended its last attempt.
ERROR = "error.txt"
#: Errors that are not due to the settings: a full disk, too little memory, a task that does not do its part.
CIRCUMSTANCES = (OSError, MemoryError, torch.OutOfMemoryError, TaskError)

#: What an error is due to. Of most errors that is not known.
Cause = Literal["settings", "circumstances", "unknown"]


@dataclass(frozen=True)
class Job:
    """A run to do.

    Args:
        run: what to train.
        folder: of the run.
        flatness: number of training examples to measure the flatness of its minimum on; 0 does not measure.
    """

    run: Run
    folder: Path
    flatness: int = 0


@dataclass(frozen=True)
class Failure:
    """How a run failed.

    Args:
        error: its type and message, in one line.
        traceback: the whole text.
        cause: what it is due to.
    """

    error: str
    traceback: str
    cause: Cause


#: Does jobs, in any order, and yields each with its failure or None once its folder is written. It asks for the next
#: job when there is room for one. The second argument is an upper bound of their number.
Launch = Callable[[Iterable[Job], int], Generator[tuple[Job, Failure | None], None, None]]


class Launcher(Protocol):
    """What executes runs.

    Errors of a run are its `Failure`, and it is not tried again. Everything else, such as a worker that dies, is a
    `RunError` of `Launch`. When its iterator is closed, all jobs under way are ended.
    """

    def start(self, study: Study) -> AbstractContextManager[Launch]:
        """Be ready for the jobs of a canonical study whose data are loaded, inside the block."""
        ...


def attempt(job: Job) -> Failure | None:
    """Do a job in its folder. Completed parts are not repeated.

    Raises:
        KeyboardInterrupt: see `flatmin.study.tasks.runs.perform`.
    """
    (job.folder / ERROR).unlink(missing_ok=True)
    try:
        if job.flatness:
            run_flatness.train_and_measure(job.run, job.folder, job.flatness)
        else:
            runs.perform(job.run, job.folder)
    except Exception as error:
        text = traceback.format_exc()
        with contextlib.suppress(OSError):  # the disk may be full
            job.folder.mkdir(parents=True, exist_ok=True)
            (job.folder / ERROR).write_text(text, encoding="utf-8")
        return Failure(f"{type(error).__name__}: {error}", text, _cause(error))
    return None


def _cause(error: Exception) -> Cause:
    if isinstance(error, NotFiniteError):
        return "settings"
    return "circumstances" if isinstance(error, CIRCUMSTANCES) else "unknown"


def complete(done: Iterable[tuple[Job, Failure | None]]) -> Iterator[Job]:
    """Pass the jobs on that are done.

    Raises:
        RunError: a run failed.
    """
    for job, failure in done:
        if failure is not None:
            raise RunError(f"while at {job.folder}:\n{failure.traceback}")
        yield job

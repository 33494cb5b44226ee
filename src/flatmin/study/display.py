"""One training with its progress shown: a bar, a line per evaluation, TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from torch import Tensor

from flatmin.study import config, files, progress
from flatmin.study.config import Run
from flatmin.study.tasks.runs import perform, task_of
from flatmin.study.training import record
from flatmin.study.training.schedule import Schedule
from flatmin.study.training.snapshots import Snapshots
from flatmin.study.training.torchrun import Processes

#: Seconds between two redraws of the bar, and between two reads of the loss, which wait for the device.
REDRAW, READ_LOSS = 0.1, 1.0


def train_and_show(
    run: Run,
    out: Path,
    processes: Processes,
    console: Console,
    *,
    tensorboard: bool = False,
    weights: Snapshots | None = None,
) -> dict[str, Any]:
    """Train, or continue a training; a finished run is not repeated.

    Args:
        run: what to train.
        out: the run's folder.
        processes: those that share the training; the first one shows and writes.
        console: where progress is shown.
        tensorboard: also write the rows of metrics into `out/tensorboard`.
        weights: keeps the network's weights in `out`; None keeps none.

    Returns:
        The content of `result.json`.

    Raises:
        ValueError: the task keeps no weights; `out` holds another run, or this one without the weights, or something
            that is no run, or it belongs to a study, or is in use; or the data, the network or a package is missing.
    """
    if tensorboard:
        check_tensorboard()
    if weights is not None and not task_of(run.task).keeps_weights:
        raise ValueError(f"only images keep their weights, not {run.task}; leave out --keep-weights and --keep-path")
    record.check_run_folder(out)
    held = record.read(out)
    if held is not None and held[0] != record.complete(run):
        changed = ", ".join(config.differences(held[0], record.complete(run)))
        raise ValueError(f"{out} holds a finished run with another {changed}; choose another --out")
    if held is not None and weights is not None and not weights.kept():
        raise ValueError(
            f"{out} holds this run, finished, without the weights that are asked for; delete it to train again, "
            "or choose another --out"
        )
    if held is None and processes.first:
        progress.say_damage([file for file in [record.damaged(out)] if file], console)
    processes.any(held is None)  # no process writes before all have read
    if not processes.first:
        if held is None:
            perform(run, out, processes=processes, weights=weights)
        return {}
    with ExitStack() as stack:
        if held is None:
            task_of(run.task).prepare(run, console)
            stack.enter_context(files.exclusive(out))
        write = stack.enter_context(tensorboard_writer(out / "tensorboard")) if tensorboard else None

        def show(row: dict[str, Any]) -> None:
            fixed = ("epoch", "gradient_evaluations", "seconds", "train_accuracy")
            words = [
                "diverged" if value is None else f"{name.replace('train_', '').replace('_', ' ')} {value:.4f}"
                for name, value in row.items()
                if name not in fixed
            ]
            console.out(f"epoch {row['epoch']:g}: {', '.join(words)}", highlight=False)
            if write is not None:
                write(row)

        if held is None:
            perform(run, out, show, processes, stack.enter_context(StepDisplay(console)), weights)
        elif write is not None:
            for row in record.metrics(out):
                write(row)
    result: dict[str, Any] = files.read_json(out / "result.json")
    return result


def check_tensorboard() -> None:
    """Check that the package tensorboard is installed.

    Raises:
        ValueError: it is missing.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401  # fails if a package is missing
    except ImportError as error:
        raise ValueError(
            f"tensorboard: the package {error.name} is missing; write pip install 'flatmin[tensorboard]'"
        ) from None


@contextmanager
def tensorboard_writer(folder: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes a row of metrics into `folder`, with the gradient evaluations as the step.

    Events of earlier files in the folder are purged, so a continued run shows each row once.
    """
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder, purge_step=0) as writer:

        def write(row: dict[str, Any]) -> None:
            for name, value in row.items():
                if name != "gradient_evaluations" and value is not None:
                    writer.add_scalar(name, value, row["gradient_evaluations"])
            writer.flush()

        yield write


class StepDisplay:
    """The progress of one training: enter it before the preparations, and call it after every step.

    Args:
        console: where progress is shown.
    """

    def __init__(self, console: Console):
        self._console = console
        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn()
        pace = TextColumn("{task.fields[pace]}")
        self._bar = Progress(*columns, pace, console=console, expand=True, transient=True, refresh_per_second=4)
        self._task = self._bar.add_task("preparing", total=None, pace="")
        self._first = 0  # the first step of this attempt
        self._began = self._shown = self._loss_read = 0.0
        self._loss = ""

    def __enter__(self) -> StepDisplay:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, step: int, schedule: Schedule, seen: Sequence[Tensor]) -> None:
        """Show a step, unless one was shown a moment ago.

        Args:
            step: its number, from 1.
            schedule: of the run.
            seen: one vector per part of a batch, which begins with its loss; the parts of this step last.
        """
        now = time.monotonic()
        if not self._first:
            self._first, self._began = step, now
            self._shown = self._loss_read = now if not self._console.is_terminal else 0.0
        if now - self._shown < (REDRAW if self._console.is_terminal else progress.PAUSE):
            return
        self._shown = now
        if seen and now - self._loss_read >= READ_LOSS:
            self._loss_read = now
            self._loss = f"loss {sum(float(part[0]) for part in seen[-schedule.run.micro_batches :]):.4f}"
        known = [self._loss] if self._loss else []
        if step > self._first:
            known.append(progress.pace(step - self._first, schedule.steps - self._first, self._began, "steps"))
        epoch = f"epoch {step / schedule.per_epoch:.1f} of {schedule.steps / schedule.per_epoch:g}"
        if self._console.is_terminal:
            self._bar.update(self._task, description=epoch, total=schedule.steps, completed=step, pace=", ".join(known))
        else:
            self._console.print(f"step {step} of {schedule.steps}, {', '.join([epoch, *known])}", highlight=False)

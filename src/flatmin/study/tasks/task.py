"""What a study knows of a task. Search, launchers, records and reports speak to tasks through this interface only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from torch import Tensor, nn

from flatmin.study.config import Run, Study, Training
from flatmin.study.training.checkpoints import Checkpoints
from flatmin.study.training.loop import Keep, Log, Watch
from flatmin.study.training.record import Result
from flatmin.study.training.torchrun import Processes

#: (outputs, targets) -> the mean over the examples of a batch, or their losses (n,).
Loss = Callable[[Any, Any], Tensor]
#: A forward pass alone, in gradients.
FORWARD = 1 / 3
#: Called with a trained network, its loss, and batches (inputs, targets) to measure its flatness on.
Measure = Callable[[nn.Module, Loss, Iterable[Any]], None]


class AbsentError(Exception):
    """The data of a study are on another machine."""


@dataclass(frozen=True)
class Cost:
    """What one run costs.

    Args:
        steps: of the optimizer.
        seconds: of a run of a search.
        final_seconds: of a final run, which also reads the test split.
    """

    steps: int
    seconds: float
    final_seconds: float


def _nobody(*_: Any) -> None:
    """Told of something, it does nothing."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run: what it goes on from, who shares it, and who is told.

    Args:
        checkpoints: to continue from and to write; nothing else is written.
        processes: those that share the training.
        log: called with each row of metrics; those of an interrupted attempt come first.
        watch: called after each step; must be fast.
        keep: called with the number of steps and the network, if the task `keeps_weights`.
        measure: if it does not: called once with the trained network, unless the task hands over no loss.
    """

    checkpoints: Checkpoints = field(default_factory=lambda: Checkpoints(None))
    processes: Processes = field(default_factory=Processes)
    log: Log = _nobody
    watch: Watch = _nobody
    keep: Keep = _nobody
    measure: Measure | None = None


class Task(Protocol):
    """A task.

    A run is a function of its config (task, contender, settings, condition, seed) and of nothing else. So it can be
    computed anywhere: what comes out is its record, and who calls `train` decides where that is written.
    """

    #: Whether a network of this task can be made again from the weights in its run's folder.
    keeps_weights: bool

    def check(self, training: Training) -> None:
        """Check the names and options of a protocol, without loading data.

        Raises:
            ValueError: one of them is unknown, out of range, or not for this task; the message says what to write.
        """
        ...

    def prepare(self, training: Training, console: Console | None = None) -> None:
        """Load what all runs share, before worker processes do: with a progress bar, and early errors.

        Raises:
            ValueError: it cannot be used.
        """
        ...

    def inherited(self) -> Callable[[], None]:
        """The first call of each worker process of this machine; can be pickled."""
        ...

    def shipped(self, training: Training, *, data: bool) -> Callable[[], None]:
        """The first call of each worker process of any machine; can be pickled by `cloudpickle`.

        Modules that the protocol names are there. The call raises `AbsentError` if the data are not, unless it brings
        them.

        Args:
            training: the protocol, prepared.
            data: whether to bring the data.
        """
        ...

    def train(self, run: Run, attempt: Attempt) -> Result:
        """Train a run. The same run gives the same numbers, also after an interruption.

        Args:
            run: what to train.
            attempt: what it goes on from, and who is told.
        """
        ...

    def cost(self, run: Run, gradients: float, per_step: float | None) -> Cost:
        """What a run costs.

        Args:
            run: of a search.
            gradients: per step.
            per_step: seconds per step; None measures a few steps.
        """
        ...

    def in_words(self, study: Study, parameters: int) -> list[tuple[str, str]]:
        """What is trained, as terms and sentences.

        Args:
            study: the protocol.
            parameters: number of trained parameters.
        """
        ...

"""The flatness of a network: measured, written to `flatness.json` in its run's folder, and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from flatmin.flatness import Risk
from flatmin.study import files
from flatmin.study.config import Run
from flatmin.study.minima import measures, trained_network
from flatmin.study.minima.measures import Progress, Reading
from flatmin.study.minima.trained_network import TrainedNetwork
from flatmin.study.tasks.runs import perform, task_of
from flatmin.study.tasks.task import Loss
from flatmin.study.training import record, snapshots
from flatmin.study.training.snapshots import Snapshots

FILE = "flatness.json"
#: Why a task of one's own has no readings.
NO_LOSS = "the task hands over no loss; write Outcome(..., net=net, loss=..., batches=...)"
#: The measures of a study's final runs: name of the measure -> the reading that is shown.
STUDY = {"eigenvalues": "lambda_max", "trace": "trace", "adaptive": "adaptive"}

#: Shows the progress of one measure: its name -> a context manager that yields a `Progress`.
Show = Callable[[str], AbstractContextManager[Progress | None]]


@dataclass(frozen=True)
class Measurements:
    """Measures of one network.

    Args:
        examples: number of examples that the loss is measured on.
        split: of the examples: train, validation or test.
        parameters: number of parameters.
        loss: mean over the examples, in nats, with the labels of the training; None if it is not finite.
        readings: by name.
        unavailable: why there are no readings; empty if there are.
    """

    examples: int
    split: str
    parameters: int
    loss: float | None
    readings: dict[str, Reading] = field(default_factory=dict)
    unavailable: str = ""

    def value(self, name: str) -> float | None:
        """The value of a reading; None if it was not taken or failed."""
        return self.readings[name].value if name in self.readings else None


def surface(one: TrainedNetwork) -> Risk:
    """The loss surface of a network, in evaluation mode.

    Raises:
        ValueError: its loss is not finite, or not a function of the weights; the message begins with its name.
    """
    try:
        return Risk(one.net, one.loss, one.examples, alone=True)
    except ValueError as error:
        why = f" (its training diverged in epoch {one.diverged:g})" if one.diverged is not None else ""
        raise ValueError(f"{one.name}: {error}{why}") from None


def measure(
    risk: Risk,
    names: Sequence[str],
    *,
    split: str = "train",
    eigenvalues: int = 1,
    show: Show = lambda name: nullcontext(),
) -> Measurements:
    """Take measures of a loss surface.

    Args:
        risk: the surface.
        names: of `MEASURES`.
        split: of its examples.
        eigenvalues: number of eigenvalues, if they are measured.
        show: called with each name.

    Raises:
        ValueError: a name is unknown, or there are fewer weights than `eigenvalues`.
    """
    measures.check(names, eigenvalues)
    check_count(eigenvalues, risk)
    readings: dict[str, Reading] = {}
    for name in names:
        with show(name) as progress:
            readings |= measures.take(risk, name, eigenvalues, progress)
    return Measurements(risk.examples, split, risk.parameters, risk.value(), readings)


def check_count(eigenvalues: int, risk: Risk) -> None:
    """Check that a network has `eigenvalues` eigenvalues.

    Raises:
        ValueError: there are fewer weights.
    """
    if eigenvalues > risk.parameters:
        raise ValueError(
            f"eigenvalues must be at most the number of parameters, {risk.parameters}, got {eigenvalues}; "
            f"write --eigenvalues {risk.parameters}"
        )


def train_and_measure(run: Run, folder: Path, count: int) -> None:
    """Train `run`, keep its weights, and measure the flatness of its minimum. Completed parts are not repeated.

    Args:
        run: what to train; see `flatmin.study.tasks.runs.perform`.
        folder: of the run; also gets `flatness.json`.
        count: number of training examples to measure on, with the labels of the training.
    """
    if not task_of(run.task).keeps_weights:
        _train_and_measure_at_once(run, folder, count)
        return
    if not (record.holds(folder, run) and (read(folder) is not None or _weights_are_whole(folder))):
        for name in (FILE, "result.json"):  # a run that is trained again, perhaps only for its weights, is not finished
            (folder / name).unlink(missing_ok=True)
        perform(run, folder, weights=Snapshots(folder))
    if read(folder) is None:
        files.write_json(folder / FILE, asdict(of_run(folder, count)))


def _train_and_measure_at_once(run: Run, folder: Path, count: int) -> None:
    """Train `run` and measure its flatness while its network is there."""
    for name in (FILE, "result.json"):
        (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / FILE, asdict(Measurements(0, "train", 0, None, unavailable=NO_LOSS)))

    def take(net: nn.Module, loss: Loss, batches: Iterable[Any]) -> None:
        parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
        some = list(_first(batches, count))
        try:
            found = measure(Risk(net, loss, some, alone=True), [*STUDY])
        except (TypeError, ValueError) as error:  # an error here must not end a study after hours of training
            found = Measurements(count, "train", parameters, None, unavailable=str(error))
        files.write_json(folder / FILE, asdict(found))

    perform(run, folder, measure=take)


def _first(batches: Iterable[Any], count: int) -> Iterator[tuple[Any, Any]]:
    """The first `count` examples of batches (inputs, targets)."""
    for x, y in batches:
        if count <= 0:
            return
        yield x[:count], y[:count]
        count -= len(y)


def _weights_are_whole(folder: Path) -> bool:
    """Whether the weights of a run can be read and fit its network."""
    try:
        trained_network.of_run(folder, "train", 1)
    except ValueError:
        return False
    return True


def damaged(folder: Path) -> Path | None:
    """The first damaged file of a finished run, its weights and its measurements included; see `record.damaged`."""
    if (file := record.damaged(folder)) is not None or not (folder / "result.json").exists():
        return file
    if read(folder) is not None:  # the weights are no longer needed
        return None
    if (folder / snapshots.FILE).exists() and not _weights_are_whole(folder):
        return folder / snapshots.FILE
    return folder / FILE if (folder / FILE).exists() else None


def of_run(folder: Path, count: int) -> Measurements:
    """The measurements of a finished run that kept its weights; a diverged run has no readings."""
    one = trained_network.of_run(folder, "train", count)
    examples, parameters = len(one.examples.labels), sum(p.numel() for p in one.net.parameters())
    if one.diverged is not None:
        why = f"the training diverged in epoch {one.diverged:g}"
        return Measurements(examples, "train", parameters, None, unavailable=why)
    try:
        return measure(surface(one), [*STUDY])
    except ValueError as error:  # an error here must not end a study after hours of training
        return Measurements(examples, "train", parameters, None, unavailable=str(error))


def read(folder: Path) -> Measurements | None:
    """The measurements of the run in `folder`; None if there are none, or the file is damaged."""
    try:
        found = files.read_json(folder / FILE)
        readings = {name: Reading(**reading) for name, reading in found.pop("readings").items()}
        return Measurements(**found, readings=readings)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def holds(folder: Path, run: Run) -> bool:
    """Whether `folder` holds `run`, complete and measured.

    Raises:
        ValueError: it holds another run.
    """
    return record.holds(folder, run) and read(folder) is not None

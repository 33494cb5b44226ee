"""The trials of a search: a list shared by many processes, on one machine or on several that share the folder.

Optuna stores it in a journal: one Optuna study per case, with all trials enqueued at the start. A process that
works on a trial holds a file lock, which the system releases when the process ends, even if killed. So each trial is
done once, and another process takes over the trial of a killed one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from flatmin.registry import Range
from flatmin.study.metric import ACCURACY, Metric
from flatmin.study.tuning import Case

Settings = dict[str, float]


@dataclass(frozen=True)
class Trial:
    """One point of a search.

    Args:
        case: what is searched for.
        number: its index in the design, >= 0.
        settings: of the contender.
        score: None while it is open, and if it failed.
        diverged: number of its runs that diverged.
        error: the error of a failed trial; None if it did not fail.
        metric: of the score.
    """

    case: Case
    number: int
    settings: Settings
    score: float | None = None
    diverged: int = 0
    error: str | None = None
    metric: Metric = ACCURACY


class Trials:
    """The list in the folder `folder`, created if it is new.

    Args:
        folder: of the search.
        designs: the settings to try, by case; trial k is point k.
        spaces: the ranges of what each of them searches.

    Raises:
        ValueError: the folder holds other settings, or its journal is damaged.
    """

    def __init__(
        self, folder: Path, designs: Mapping[Case, Sequence[Settings]], spaces: Mapping[Case, Mapping[str, Range]]
    ) -> None:
        (folder / ".locks").mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = FileLock(folder / ".locks" / "journal")
        journal = folder / "journal.log"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._lock:
            try:
                _drop_half_a_line(journal)
                # Our lock in place of Optuna's, which outlives a killed process. Optuna needs only acquire and
                # release, not its class.
                storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=cast(Any, self._lock)))
            except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
                raise ValueError(
                    f"{journal} is damaged ({error}); delete it and search again: complete runs are kept"
                ) from None
            self._studies = {case: _study(storage, str(case)) for case in designs}
            self._cases = {str(case): case for case in designs}
            for case, study in self._studies.items():
                _enqueue(study, designs[case], spaces[case])

    def all(self) -> list[Trial]:
        """All trials in their current state, by number, then in the order of the cases."""
        return [self._trial(*found) for found in self._found()]

    def open(self) -> int:
        """The number of unfinished trials."""
        return sum(not found.state.is_finished() for _, found in self._found())

    def free(self) -> int:
        """The number of unfinished trials that no process works on."""
        free = 0
        with self._lock:  # so that no other process takes the locks tested here for work
            for study, found in self._found():
                if not found.state.is_finished():
                    with contextlib.suppress(Timeout), self._owner(study, found):
                        free += 1
        return free

    @contextlib.contextmanager
    def take(self) -> Iterator[Trial | None]:
        """Hold the next free trial inside the block; None if there is none. Without `tell` it becomes free again."""
        with contextlib.ExitStack() as held:
            yield self._next(held)

    def tell(
        self,
        trial: Trial,
        score: float | None,
        *,
        metric: Metric = ACCURACY,
        diverged: int = 0,
        error: str | None = None,
    ) -> None:
        """Finish a held trial: with its score, or without one if it failed."""
        study, more = self._studies[trial.case], {"metric": metric.as_json()} if metric.as_json() else {}
        with self._lock:
            study.set_user_attr(str(trial.number), {"diverged": diverged, "error": error, **more})
            study.tell(trial.number, score, TrialState.FAIL if score is None else TrialState.COMPLETE)

    def _next(self, held: contextlib.ExitStack) -> Trial | None:
        with self._lock:
            for study, found in self._found():
                if found.state.is_finished():
                    continue
                try:
                    held.enter_context(self._owner(study, found))
                except Timeout:
                    continue  # another process works on it
                if found.state == TrialState.WAITING:
                    asked = study.ask()
                    assert asked.number == found.number, "trials are handed out in order"
                return self._trial(study, found)
        return None

    def _trial(self, study: optuna.Study, found: FrozenTrial) -> Trial:
        told = dict(study.user_attrs.get(str(found.number), {})) if found.state.is_finished() else {}
        metric = Metric.from_json(told.pop("metric", {}))
        return Trial(self._cases[study.study_name], found.number, found.params, found.value, **told, metric=metric)

    def _found(self) -> list[tuple[optuna.Study, FrozenTrial]]:
        found = [(study, one) for study in self._studies.values() for one in study.get_trials(deepcopy=False)]
        return sorted(found, key=lambda pair: pair[1].number)

    def _owner(self, study: optuna.Study, trial: FrozenTrial) -> FileLock:
        return FileLock(self._folder / ".locks" / f"{study.study_name}-{trial.number:03d}", timeout=0)


def _study(storage: JournalStorage, name: str) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)  # unused: each trial has its settings
    return optuna.create_study(
        storage=storage, study_name=name, sampler=sampler, direction="maximize", load_if_exists=True
    )


def _enqueue(study: optuna.Study, design: Sequence[Settings], space: Mapping[str, Range]) -> None:
    """Enqueue the points of `design` that `study` lacks; an earlier process may have been killed in between."""
    held = [trial.params for trial in study.get_trials(deepcopy=False)]
    for number, (old, new) in enumerate(zip(held, design, strict=False)):
        if old != new:
            what = f"trial {number} of {study.study_name}"
            raise ValueError(
                f"{what} was made with settings = {old}; now asked: settings = {new}. Choose another --out."
            )
    ranges: dict[str, BaseDistribution] = {
        name: FloatDistribution(axis.low, axis.high, log=axis.log) for name, axis in space.items()
    }
    for settings in design[len(held) :]:
        own = {name: ranges.get(name) or FloatDistribution(value, value) for name, value in settings.items()}
        study.add_trial(optuna.create_trial(state=TrialState.WAITING, params=settings, distributions=own))


def _drop_half_a_line(journal: Path) -> None:
    """Remove a last line that is incomplete, left by a killed process, or no JSON. The caller holds the lock.

    Optuna ignores such a line when it reads it first, and refuses the journal once another line follows it.
    """
    if not journal.exists():
        return
    text = journal.read_bytes()
    *whole, last = text.splitlines(keepends=True) or [b""]
    try:
        if last.endswith(b"\n"):
            json.loads(last)
            return
    except ValueError:
        pass
    journal.write_bytes(b"".join(whole))

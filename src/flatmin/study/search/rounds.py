"""The rounds of a search: settings and seeds of the trials, the same for each contender and process.

The first round tries a fixed design. The second, if the study asks for it, repeats the best trials of the first on
further seeds: the best of many noisy scores is biased upwards, and scores on new seeds are not.

Each case has trials, finalists and a winner of its own: a contender in one condition, or in all of them together, if
the study wants one setting for all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flatmin.registry import Range
from flatmin.study import settings as of_contenders
from flatmin.study.config import FIRST_TUNING_SEED, Run, Study
from flatmin.study.tuning import Case

if TYPE_CHECKING:
    from flatmin.study.search.trials import Trial, Trials

Settings = dict[str, float]


@dataclass(frozen=True)
class Round:
    """One round of a search.

    Args:
        name: its label in progress bars.
        folder: of its list of trials, below that of the study.
        seeds: of each trial, in each of its conditions.
        points: the settings to try: case -> number of the trial in the first round -> settings.
        spaces: what they are from: case -> ranges.
    """

    name: str
    folder: str
    seeds: range
    points: dict[Case, dict[int, Settings]] = field(repr=False)
    spaces: dict[Case, dict[str, Range]] = field(repr=False)

    @property
    def total(self) -> int:
        """The number of its trials."""
        return sum(map(len, self.points.values()))

    def trials(self, out: Path) -> Trials:
        """Its list of trials in the study's folder `out`: the k-th trial there is the k-th point here."""
        from flatmin.study.search.trials import Trials  # Optuna is imported by searches only

        designs = {case: [*points.values()] for case, points in self.points.items()}
        return Trials(out / self.folder, designs, self.spaces)

    def all(self, out: Path) -> list[Trial]:
        """All trials in their current state, with the numbers of the first round."""
        return [dataclasses.replace(trial, number=self._number(trial)) for trial in self.trials(out).all()]

    def runs(self, study: Study, trial: Trial) -> dict[str, Run]:
        """The runs of a trial of this list: folder below the study -> run."""
        return {
            f"tune/trial-{self._number(trial):03d}/noise-{noise}/{trial.case.contender}/seed-{seed}": study.run(
                trial.case.contender, trial.settings, noise, seed, test=False
            )
            for noise in (study.noise if trial.case.noise is None else [trial.case.noise])
            for seed in self.seeds
        }

    def _number(self, trial: Trial) -> int:
        """The number that a trial of this list has in the first round."""
        return [*self.points[trial.case]][trial.number]


def first(study: Study) -> Round:
    """The first round: the design."""
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + study.tune_seeds)
    points, spaces = {}, {}
    for case in cases(study):
        spaces[case] = of_contenders.space(study, case.contender)
        first_trial = of_contenders.default(study, case.contender)
        points[case] = dict(enumerate(design(first_trial, spaces[case], study.tune)))
    return Round("tuning", "tune", seeds, points, spaces)


def cases(study: Study) -> list[Case]:
    """What the study needs a winner for."""
    noises = study.noise if study.tune_per_condition else (None,)
    return [Case(name, noise) for name in study.methods for noise in noises]


def second(study: Study, trials: Sequence[Trial]) -> Round:
    """The round of the finalists: the best trials of each case; of equal ones the earlier.

    Failed trials are no finalists, so a case with many failed trials may have fewer.

    Args:
        study: the protocol.
        trials: all of the first round, finished.
    """
    after = FIRST_TUNING_SEED + study.tune_seeds
    seeds = range(after, after + study.tune_finalist_seeds)
    points = {case: _best(study, case, trials) for case in cases(study)}
    spaces = {case: of_contenders.space(study, case.contender) for case in points}
    return Round("finalists", "tune/finalists", seeds, points, spaces)


def design(default: Settings, space: Mapping[str, Range], trials: int) -> list[Settings]:
    """The settings to try: the default first, then the first points of a fixed quasi-random sequence.

    The sequence is Halton's, scrambled with a fixed seed. Any number of its points covers the box evenly, and spaces of
    the same number of dimensions get the same points.

    Args:
        default: the first trial. Its values that are not searched are those of all trials.
        space: what is searched.
        trials: how many, >= 1.
    """
    if trials == 1:
        return [default]
    from scipy.stats import qmc

    points = qmc.Halton(len(space), scramble=True, seed=0).random(trials - 1)
    found = [{name: axis.at(u) for (name, axis), u in zip(space.items(), point, strict=True)} for point in points]
    return [default, *({**default, **point} for point in found)]


def _best(study: Study, case: Case, trials: Sequence[Trial]) -> dict[int, Settings]:
    scored = [
        (-trial.metric.sign * trial.score, trial) for trial in trials if trial.case == case and trial.score is not None
    ]
    ordered = sorted(scored, key=lambda pair: (pair[0], pair[1].number))
    return {trial.number: trial.settings for _, trial in ordered[: study.tune_finalists]}

"""The rank correlation of measures of flatness with the test error of a study's runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flatmin.study.minima.run_flatness import STUDY
from flatmin.study.report.summary import Finished, Row, Summary
from flatmin.study.stats import Interval, rank_correlation, t_interval

#: A number of a run, of which lower is better; None where a run has none.
Outcome = Callable[[Finished], "float | None"]

#: Names of the measures with their units, for axes.
WORDS = {
    "lambda_max": "λ_max of the Hessian, loss/w²",
    "trace": "trace of the Hessian, loss/w²",
    "adaptive": "adaptive sharpness, loss",
}
#: Names of the measures, for the heads of columns.
HEADS = {"lambda_max": "λ_max", "trace": "trace", "adaptive": "adaptive sharpness"}


def _error(run: Finished) -> float:
    """The outcome of every study: the test error in [0, 1]."""
    return run.error


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation.

    Args:
        value: in [-1, 1]; None for fewer than three points, or if one side is constant.
        n: number of points.
    """

    value: float | None
    n: int


@dataclass(frozen=True)
class FlatnessCorrelation:
    """The correlation of a measure with an outcome, in one arm and condition; positive means flatter is better.

    Args:
        arm: default or tuned.
        noise: the fraction of training labels replaced.
        measure: its name.
        runs: over all runs; the runs of one contender are not independent.
        contenders: over the means of the contenders.
        seeds: the correlation over the contenders within a seed, averaged over the seeds, with its interval; None if no
            seed has three contenders.
    """

    arm: str
    noise: float
    measure: str
    runs: RankCorrelation
    contenders: RankCorrelation
    seeds: Interval | None


def correlations(summary: Summary, outcome: Outcome = _error) -> list[FlatnessCorrelation]:
    """One for each measure, arm and condition; empty if nothing was measured."""
    return [
        _correlate(rows, arm, noise, name, outcome)
        for arm in summary.study.arms
        for noise in summary.study.noise
        for name in STUDY.values()
        if (rows := summary.panel(arm, noise)) and any(row.measure(name) for row in rows)
    ]


def points(row: Row, name: str, outcome: Outcome = _error) -> Iterator[tuple[int, float, float]]:
    """(seed, measure, outcome) of the runs of a row that have both."""
    for seed, run in row.runs.items():
        value, reached = run.measure(name), outcome(run)
        if value is not None and reached is not None:
            yield seed, value, reached


def mean(row: Row, name: str, outcome: Outcome = _error) -> tuple[Interval, Interval] | None:
    """Measure and outcome of a row, over the runs that have both; None if none has."""
    found = [*points(row, name, outcome)]
    return (t_interval([x for _, x, _ in found]), t_interval([y for _, _, y in found])) if found else None


def as_json(summary: Summary) -> dict[str, Any]:
    """The section `flatness` of `results.json`; empty for a study that measures no flatness."""
    if not summary.study.flatness:
        return {}
    return {"flatness": {"measures": WORDS, "correlations": [asdict(one) for one in correlations(summary)]}}


def _correlate(rows: list[Row], arm: str, noise: float, name: str, outcome: Outcome) -> FlatnessCorrelation:
    runs = [point for row in rows for point in points(row, name, outcome)]
    means = [(x.mean, y.mean) for x, y in filter(None, (mean(row, name, outcome) for row in rows))]
    everything = _correlation([(x, y) for _, x, y in runs])
    return FlatnessCorrelation(arm, noise, name, everything, _correlation(means), _within_seeds(runs))


def within_seeds(rows: Sequence[Row], one: Outcome, other: Outcome) -> Interval | None:
    """The rank correlation of two numbers over the contenders within a seed, over the seeds; None if there is none."""
    runs = [(seed, one(run), other(run)) for row in rows for seed, run in row.runs.items()]
    return _within_seeds([(seed, x, y) for seed, x, y in runs if x is not None and y is not None])


def _within_seeds(points: Sequence[tuple[int, float, float]]) -> Interval | None:
    """Of (seed, number, number)."""
    by_seed = [[(x, y) for each, x, y in points if each == seed] for seed in sorted({seed for seed, _, _ in points})]
    within = [value for some in by_seed if (value := _correlation(some).value) is not None]
    return t_interval(within) if within else None


def _correlation(points: Sequence[tuple[float, float]]) -> RankCorrelation:
    return RankCorrelation(rank_correlation([x for x, _ in points], [y for _, y in points]), len(points))

"""Time to target: gradient evaluations, steps and seconds until a target accuracy is first reached.

The target is the accuracy of the tuned baseline, so it does not depend on the other contenders. The score is AlgoPerf's
(https://arxiv.org/abs/2306.07179): with r = time / reference time on each workload,

    B = 1/3 ∫₁⁴ (fraction of workloads with r ≤ τ) dτ = mean over workloads of clip((4 − r) / 3, 0, 1)

so 1 means as fast as the reference on each workload. A workload that took four times as long, or missed, adds 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any, Literal, TypeVar

from flatmin.study.metric import ACCURACY, Metric
from flatmin.study.report.summary import Finished, Summary
from flatmin.study.training import record

Unit = Literal["gradient_evaluations", "steps", "seconds"]
Reference = Literal["baseline", "pool"]
UNITS: tuple[Unit, ...] = ("gradient_evaluations", "steps", "seconds")
#: Multiple of the reference time at which a workload adds 0.
WORST = 4.0

Workload = TypeVar("Workload")


@dataclass(frozen=True)
class Times:
    """When a target was first reached, in three units; infinity if it was missed."""

    gradient_evaluations: float = math.inf
    steps: float = math.inf
    seconds: float = math.inf


@dataclass(frozen=True)
class Reach:
    """One contender under one condition of one arm.

    Args:
        arm: default or tuned.
        noise: the fraction of training labels replaced.
        contender: its name.
        runs: by seed; at least one.
    """

    arm: str
    noise: float
    contender: str
    runs: dict[int, Times]

    @property
    def reached(self) -> int:
        """The number of runs that reached the target."""
        return sum(math.isfinite(times.steps) for times in self.runs.values())

    @property
    def median(self) -> Times:
        """Median over the runs in each unit; infinity if half of them missed."""
        return Times(*map(statistics.median, zip(*map(astuple, self.runs.values()), strict=True)))


@dataclass(frozen=True)
class TimeToTarget:
    """The times to target of all contenders.

    Args:
        arm: of the baseline that sets the targets: tuned if the study has that arm.
        baseline: the contender that sets them.
        targets: the metric on the validation split by condition (noise); accuracies are fractions in [0, 1].
        rows: as in the summary, without conditions that have no target.
        metric: of the targets.
    """

    arm: str
    baseline: str
    targets: dict[float, float]
    rows: list[Reach]
    metric: Metric = ACCURACY

    def score(self, arm: str, contender: str, unit: Unit, reference: Reference = "baseline") -> float | None:
        """AlgoPerf's score of a contender over the conditions, in [0, 1]; None if a condition is missing.

        Args:
            arm: default or tuned.
            contender: its name.
            unit: of the times.
            reference: baseline: the contender that set the targets. pool: the fastest of all arms and contenders, so
                the score depends on which contenders take part.
        """
        times = self._times(unit)
        own = times.get((arm, contender), {})
        if own.keys() != self.targets.keys():
            return None
        return score(own, times[self.arm, self.baseline] if reference == "baseline" else fastest(times.values()))

    def as_json(self) -> dict[str, Any]:
        """The content of `results.json`; null is a missed target, or a score that is not known yet."""
        names = dict.fromkeys((row.arm, row.contender) for row in self.rows)
        return {
            "arm": self.arm,
            "baseline": self.baseline,
            "targets": [
                {"noise": noise, self.metric.key("validation"): value} for noise, value in self.targets.items()
            ],
            "table": [_row_as_json(row) for row in self.rows],
            "scores": [
                {
                    "arm": arm,
                    "contender": contender,
                    "to_baseline": {unit: self.score(arm, contender, unit) for unit in UNITS},
                    "to_pool": {unit: self.score(arm, contender, unit, "pool") for unit in UNITS},
                }
                for arm, contender in names
            ],
        }

    def _times(self, unit: Unit) -> dict[tuple[str, str], dict[float, float]]:
        """Median times by arm and contender, by condition."""
        found: dict[tuple[str, str], dict[float, float]] = {}
        for row in self.rows:
            found.setdefault((row.arm, row.contender), {})[row.noise] = getattr(row.median, unit)
        return found


def time_to_target(summary: Summary) -> TimeToTarget:
    """The times at which the runs of a study reached its targets, from the runs' metrics.

    The targets are those of the baseline, in the tuned arm if the study has one.

    Raises:
        ValueError: the metrics of a run are missing or damaged.
    """
    arm, metric = "tuned" if "tuned" in summary.study.arms else "default", summary.metric
    targets = {
        row.noise: goal((record.metrics(run.folder) for run in row.runs.values()), metric)
        for row in summary.rows
        if (row.arm, row.contender) == (arm, summary.baseline)
    }
    reaches = [
        Reach(
            row.arm,
            row.noise,
            row.contender,
            {seed: _times(run, targets[row.noise], metric) for seed, run in row.runs.items()},
        )
        for row in summary.rows
        if row.noise in targets
    ]
    return TimeToTarget(arm, summary.baseline, targets, reaches, metric)


def goal(curves: Iterable[Iterable[Mapping[str, float]]], metric: Metric = ACCURACY) -> float:
    """The target: the median of the best validation results of the baseline's runs.

    For an even number of runs it is the worse of the two middle values, so more than half of the runs reach it.
    """
    median = statistics.median_low if metric.better == "higher" else statistics.median_high
    return median(metric.best(row[metric.key("validation")] for row in curve) for curve in curves)


def first(
    curve: Iterable[Mapping[str, float]], target: float, steps_per_gradient: float = 1.0, metric: Metric = ACCURACY
) -> Times:
    """When `curve`, the rows of a run's metrics, first reaches `target`."""
    for row in curve:
        if metric.reaches(row[metric.key("validation")], target):
            gradients = row["gradient_evaluations"]
            return Times(gradients, round(gradients * steps_per_gradient), row["seconds"])
    return Times()


def score(times: Mapping[Workload, float], reference: Mapping[Workload, float]) -> float:
    """AlgoPerf's score, in [0, 1].

    Args:
        times: by workload, each > 0; infinity for a miss. At least one.
        reference: the reference times. Where the reference misses, a finite time gets the full share.

    Raises:
        ValueError: no workload, or not the same ones.

    Examples:
        >>> score({"a": 100.0, "b": 250.0, "c": math.inf}, {"a": 100.0, "b": 100.0, "c": 100.0})
        0.5
    """
    if not times or times.keys() != reference.keys():
        raise ValueError(f"times and reference must have the same workloads, got {[*times]} and {[*reference]}")
    return statistics.fmean(_share(time, reference[workload]) for workload, time in times.items())


def fastest(pool: Iterable[Mapping[Workload, float]]) -> dict[Workload, float]:
    """The shortest time of the pool on each workload."""
    best: dict[Workload, float] = {}
    for times in pool:
        for workload, time in times.items():
            best[workload] = min(time, best.get(workload, math.inf))
    return best


def _share(time: float, reference: float) -> float:
    if math.isinf(time):
        return 0.0
    return min(max((WORST - time / reference) / (WORST - 1), 0.0), 1.0)


def _times(run: Finished, target: float, metric: Metric) -> Times:
    return first(record.metrics(run.folder), target, run.result.steps / run.result.gradient_evaluations, metric)


def _row_as_json(row: Reach) -> dict[str, Any]:
    return {
        "arm": row.arm,
        "noise": row.noise,
        "contender": row.contender,
        "reached": row.reached,
        "n": len(row.runs),
        **_finite(row.median),
        "runs": [{"seed": seed, **_finite(times)} for seed, times in row.runs.items()],
    }


def _finite(times: Times) -> dict[str, float | None]:
    return {unit: value if math.isfinite(value) else None for unit, value in asdict(times).items()}

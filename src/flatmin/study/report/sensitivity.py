"""Sensitivity to hyper-parameters: the score against each, over the trials of the search and the final runs."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from flatmin.registry import Range
from flatmin.study import settings
from flatmin.study import tuning as tuning_file
from flatmin.study.config import Study
from flatmin.study.metric import ACCURACY, Metric
from flatmin.study.report.summary import Summary
from flatmin.study.tuning import Case

#: A score is near the best if it is at least this share of it.
NEAR = 0.99


class Point(NamedTuple):
    """The score of one value of a hyper-parameter.

    Args:
        value: of the hyper-parameter.
        score: the metric on the validation split after the last step: mean over seeds, and over conditions if they are
            scored together.
        diverged: whether one of its runs diverged.
        source: trial: a trial of the search. default, tuned: the final runs of that arm, on other seeds.
    """

    value: float
    score: float
    diverged: bool
    source: Literal["trial", "default", "tuned"]


@dataclass(frozen=True)
class Sensitivity:
    """The score of one contender against one setting.

    Args:
        contender: its name.
        name: of the setting: lr, wd, or one of the method's or the average's.
        range: of the search.
        points: sorted by value. With several settings the others vary too, so the upper edge of the points is the score
            with the others tuned.
        near_best: the share of `range` in which trials score within 1 % of the best one, in [0, 1]; None without a
            search. Each trial represents the values that are nearer to it than to any other trial.
        noise: the condition that is scored; None if the score is the mean over all conditions.
        metric: of the scores.
    """

    contender: str
    name: str
    range: Range
    points: list[Point]
    near_best: float | None
    noise: float | None = None
    metric: Metric = ACCURACY


def sensitivity(
    study: Study, tuning: Mapping[str, Any] | None = None, summary: Summary | None = None
) -> list[Sensitivity]:
    """The score of each contender against each of its searched settings; by condition, if the search was.

    In a search with finalists, the trials are those of the first round, which all use the same seeds.

    Args:
        study: the protocol.
        tuning: the content of `tuning.json`, if there was a search.
        summary: of the final runs, if there are any.
    """
    searched = tuning_file.cases(tuning) if tuning else {}
    metric = tuning_file.metric(tuning or {})
    together = not tuning or any(case.noise is None for case in searched)
    cases = [Case(name, noise) for name in settings.known(study) for noise in ([None] if together else study.noise)]
    return [
        _against(study, case, name, axis, searched.get(case, {"trials": []})["trials"], summary, metric)
        for case in cases
        for name, axis in settings.space(study, case.contender).items()
    ]


def near_best(points: Sequence[Point], axis: Range, metric: Metric = ACCURACY) -> float | None:
    """See `Sensitivity`; None without points, else > 0."""
    if not points:
        return None
    low, high = axis.place(axis.low), axis.place(axis.high)
    ordered = sorted(points)
    places = [axis.place(point.value) for point in ordered]
    borders = [low, *((a + b) / 2 for a, b in itertools.pairwise(places)), high]
    best = metric.best(point.score for point in points)
    near = (k for k, point in enumerate(ordered) if metric.is_near(point.score, best, NEAR))
    return sum(borders[k + 1] - borders[k] for k in near) / (high - low)


def _against(
    study: Study,
    case: Case,
    name: str,
    axis: Range,
    trials: Sequence[Mapping[str, Any]],
    summary: Summary | None,
    metric: Metric,
) -> Sensitivity:
    contender = settings.contender(study, case.contender)

    def value(chosen: Mapping[str, float]) -> float:
        return chosen[name] if name in chosen else contender.default_of(name)

    found = [
        Point(value(trial["settings"]), trial["score"], trial["diverged"] > 0, "trial")
        for trial in trials
        if trial["score"] is not None
    ]
    share = near_best(found, axis, metric)
    for arm in ("default", "tuned"):
        rows = [row for row in summary.rows if (row.arm, row.contender) == (arm, case.contender)] if summary else []
        rows = [row for row in rows if case.noise in (None, row.noise)]
        if rows:
            results = [run.result for row in rows for run in row.runs.values()]
            score = statistics.fmean(result.validation for result in results)
            diverged = any(result.diverged is not None for result in results)
            found.append(Point(value(rows[0].settings), score, diverged, arm))
    return Sensitivity(case.contender, name, axis, sorted(found), share, case.noise, metric)

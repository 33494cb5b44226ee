"""What all plots of a study share: how a contender looks, what is drawn of it, and which range shows it best."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flatmin.study.metric import ACCURACY, Metric
from flatmin.study.report.sensitivity import Point, Sensitivity
from flatmin.study.report.summary import Row, Summary, condition
from flatmin.study.stats import Interval
from flatmin.study.training import record

#: Okabe and Ito's palette without its yellow, which is too pale for lines; after seven, the same again, dashed.
COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
DASHES = ("solid", "dash", "dot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "star")

#: What a search ranges over, in words; none has a unit.
AXES = {
    "lr": "learning rate",
    "wd": "weight decay",
    "rho": "radius rho",
    "sigma": "noise scale sigma",
    "lam": "smoothing lam",
    "ema_decay": "decay of the average",
    "swa_start": "start of the average",
}


@dataclass(frozen=True)
class Style:
    """How a contender looks in every plot: indices into the palette, a dash and a symbol."""

    colour: int
    dash: str
    symbol: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A look for each contender; no two alike among the first 21."""
    found = {}
    for i, name in enumerate(names):
        again, colour = divmod(i, len(COLOURS))
        # The second round shifts the symbols, so that equal colours have unequal symbols.
        found[name] = Style(colour, DASHES[again % len(DASHES)], SYMBOLS[(colour + again) % len(SYMBOLS)])
    return found


def has_curves(summary: Summary) -> bool:
    """Whether a run was evaluated more than once; those on images always may be."""
    if summary.metric == ACCURACY:
        return True
    return any(len(record.metrics(run.folder)) > 1 for row in summary.rows for run in row.runs.values())


def curve(run: list[dict[str, float]], metric: Metric) -> tuple[list[float], list[float]]:
    """Gradient evaluations and the metric on the validation split as it is shown, from the lines of one run."""
    key = metric.key("validation")
    return [line["gradient_evaluations"] for line in run], [metric.scale * line[key] for line in run]


def mean_curve(runs: list[list[dict[str, float]]], metric: Metric) -> tuple[list[float], list[float]]:
    """The same, mean over runs; a diverged run stays where it ended."""
    gradients, _ = curve(max(runs, key=len), metric)
    padded = [[*y, *[y[-1]] * (len(gradients) - len(y))] for _, y in (curve(run, metric) for run in runs)]
    return gradients, [statistics.fmean(values) for values in zip(*padded, strict=True)]


def metrics(row: Row) -> list[list[dict[str, float]]]:
    """The logged lines of each run, by seed."""
    return [record.metrics(run.folder) for run in row.runs.values()]


def late(rows: Iterable[tuple[Row, list[float]]]) -> tuple[float, float] | None:
    """The range of learning curves: the rise from guessing, and falling back to it, would hide what matters."""
    kept = [(row, means[len(means) // 5 :]) for row, means in rows if not row.diverged]
    return _padded([value for _, means in kept for value in means], kept[0][0].metric) if kept else None


def test_range(rows: Sequence[Row]) -> tuple[float, float] | None:
    """From the lowest to the highest test result and interval, as they are shown, where nothing diverged."""
    found: list[float] = []
    for row in rows:
        if not row.diverged:
            metric = row.metric
            found += metric.clipped(metric.scale * row.test.mean, metric.scale * (row.test.half_width or 0))
            found += [metric.scale * run.test for run in row.runs.values()]
    return _padded(found, rows[0].metric) if rows else None


def bars(interval: Interval, metric: Metric) -> tuple[float, float]:
    """How far the interval of a test result or an error reaches below and above its mean, as they are shown."""
    mean = metric.scale * interval.mean
    low, high = metric.clipped(mean, metric.scale * (interval.half_width or 0))
    return mean - low, high - mean


def seen(value: float, limits: tuple[float, float] | None, metric: Metric = ACCURACY) -> float:
    """`value`, or the worse edge of the plot if it lies beyond: what diverged is out of scale but not out of sight."""
    if limits is None:
        return value
    margin = 0.02 * (limits[1] - limits[0])
    return max(value, limits[0] + margin) if metric.better == "higher" else min(value, limits[1] - margin)


def apart(rows: Sequence[Row]) -> dict[str, float]:
    """How far to move each contender along the axis of gradient evaluations, so that equal costs do not overlap."""
    costs = [row.gradient_evaluations for row in rows]
    step = 0.035 * ((max(costs) - min(costs)) or max(costs))
    found: dict[str, float] = {}
    for _, group in itertools.groupby(sorted(rows, key=_cost), key=_cost):
        names = [row.contender for row in group]
        found |= {name: step * (i - (len(names) - 1) / 2) for i, name in enumerate(names)}
    return found


def by_setting(found: Iterable[Sensitivity]) -> dict[tuple[str, float | None], dict[str, list[Point]]]:
    """The trials of a search: setting and condition (None for all together) -> contender -> points."""
    sorted_out: dict[tuple[str, float | None], dict[str, list[Point]]] = {}
    for one in found:
        if trials := [point for point in one.points if point.source == "trial"]:
            sorted_out.setdefault((one.name, one.noise), {})[one.contender] = trials
    return sorted_out


def score_range(points: Iterable[Point], metric: Metric) -> tuple[float, float] | None:
    """The range of a search's scores, as they are shown, where nothing diverged."""
    return _padded([metric.scale * point.score for point in points if not point.diverged], metric)


def axis(summary: Summary, name: str, noise: float | None = None) -> str:
    """A setting as the title of an axis; with the condition, if its score is of one."""
    return AXES.get(name, name) + ("" if noise is None or not summary.has_conditions else f", {condition(noise)}")


def is_log(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis suits `values`: all positive, and over more than a factor of five."""
    return min(values) > 0 and max(values) > 5 * min(values)


def _cost(row: Row) -> float:
    return row.gradient_evaluations


def _padded(values: list[float], metric: Metric) -> tuple[float, float] | None:
    if not values:
        return None
    least = 0.1 if metric.ends else 0.01 * max(map(abs, values)) or 1.0
    margin = 0.04 * (max(values) - min(values)) + least
    return min(values) - margin, max(values) + margin

"""What a study says: every method against the baseline, in a forest plot and in one sentence for each condition."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from flatmin.study.report import tables
from flatmin.study.report.axes import linear_ticks
from flatmin.study.report.summary import Row, Summary

#: better, worse: the paired 95 % interval of the difference to the baseline excludes zero. open: it does not.
#: unknown: there is no interval.
Verdict = Literal["better", "worse", "open", "unknown"]

#: Accuracies are fractions of a whole number of images, so a half-width below this is a rounding error. It is relative
#: to the mean where the metric has no scale of its own.
NO_WIDTH = 1e-9


@dataclass(frozen=True)
class Line:
    """One method in a forest plot. Differences of accuracies are in percentage points.

    Args:
        name: of the method.
        cost: gradients per step, median over the runs.
        verdict: what the interval says; open for the baseline.
        mean: the difference to the baseline, 0 for the baseline itself; None where no seed is shared.
        low: the lower end of its 95 % interval, of accuracies at least -100; None where there is no interval.
        high: the upper end, of accuracies at most 100; None where there is no interval.
        words: the difference as the tables write it.
        diverged: how many of its runs diverged.
        p: of the difference, corrected by Holm, in words.
    """

    name: str
    cost: float
    verdict: Verdict
    mean: float | None
    low: float | None
    high: float | None
    words: str
    diverged: int
    p: str = "–"

    @property
    def ends(self) -> tuple[float, float] | None:
        """The lowest and the highest value that is drawn; None if nothing is."""
        known = [value for value in (self.low, self.mean, self.high) if value is not None]
        return (min(known), max(known)) if known else None


def lines(summary: Summary, arm: str, noise: float) -> list[Line]:
    """The forest plot of one condition: the methods by their difference to the baseline, the best first.

    The baseline is among them at zero. Methods that share no seed with it come last.
    """
    found = [_line(row, summary.baseline) for row in summary.panel(arm, noise)]
    return sorted(found, key=lambda line: (line.mean is None, -summary.metric.sign * (line.mean or 0)))


def limits(panels: Iterable[Sequence[Line]]) -> tuple[float, float]:
    """The range that all forest plots of a study share, with zero in it.

    Methods with a diverged run do not count: they would hide the others. They are cut off at the edge.
    """
    values = [0.0]
    for line in (line for panel in panels for line in panel if not line.diverged):
        values += line.ends or ()
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def ticks(ends: tuple[float, float]) -> list[float]:
    """Few round numbers for the axis of a forest plot; zero is one of them."""
    return linear_ticks(*ends)


def verdict(row: Row) -> Verdict:
    """What the difference of a row to the baseline says.

    Equal differences on all seeds give an interval of no width. That is no evidence, so the verdict is unknown.
    """
    difference = row.difference
    if difference is None or difference.half_width is None:
        return "unknown"
    no_width = NO_WIDTH if row.metric.ends else NO_WIDTH * abs(row.test.mean)
    if difference.half_width <= no_width:
        return "unknown" if abs(difference.mean) > no_width else "open"
    if abs(difference.mean) <= difference.half_width:
        return "open"
    return "better" if row.metric.sign * difference.mean > 0 else "worse"


def sentence(summary: Summary, arm: str, noise: float) -> str:
    """What may be concluded under one condition, and what not."""
    baseline = summary.baseline
    rows = [row for row in summary.panel(arm, noise) if row.contender != baseline]
    if not rows:
        return f"Only {baseline} was run: there is nothing to compare it with."
    names: dict[Verdict, list[str]] = {"better": [], "worse": [], "open": [], "unknown": []}
    for line in lines(summary, arm, noise):
        if line.name != baseline:
            names[line.verdict].append(line.name)
    told = [
        f"{listed(some)} ({words} than {baseline})"
        for some, words in zip((names["better"], names["worse"]), summary.metric.comparatives, strict=True)
        if some
    ]
    if told:
        parts = [f"The paired 95 % interval excludes zero for {' and for '.join(told)}"]
    else:
        parts = ["No paired 95 % interval excludes zero"]
    if names["open"]:
        parts.append(f"{listed(names['open'])} cannot be told apart from {baseline}")
    if names["unknown"]:
        parts.append(f"there is no interval for {listed(names['unknown'])}, so no conclusion")
    return "; ".join([*parts, *_reservations(rows)]) + "."


def remarks(summary: Summary) -> list[str]:
    """What limits all of these sentences."""
    count = len(summary.study.methods) - 1
    if not count or summary.study.seeds == 1:
        return []
    found = [f"Each method is compared with {summary.baseline} only: the intervals do not rank the other methods."]
    if count > 1:
        chance = f"{0.05 * count:.2g}"
        found.append(
            f"If no method differed from {summary.baseline}, {chance} of {count} intervals would exclude zero by "
            "chance in each condition, on average. The p-values are corrected for that (Holm)."
        )
    return found


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _line(row: Row, baseline: str) -> Line:
    name, diverged = row.contender, row.diverged
    cost = statistics.median(run.result.gradient_evaluations / run.result.steps for run in row.runs.values())
    if name == baseline:
        return Line(name, cost, "open", 0.0, None, None, "baseline", diverged)
    difference = row.difference
    if difference is None:
        return Line(name, cost, "unknown", None, None, None, "no shared seed", diverged)
    metric, half = row.metric, difference.half_width
    mean = metric.scale * difference.mean
    low, high = (None, None) if half is None else metric.clipped(mean, metric.scale * half, difference=True)
    words, p = metric.written(difference, sign="+"), tables.p_value(row.p)
    return Line(name, cost, verdict(row), mean, low, high, words, diverged, p)


def _reservations(rows: Sequence[Row]) -> list[str]:
    """How many seeds and comparisons a sentence rests on."""
    counts = sorted({row.difference.n for row in rows if row.difference})
    if not counts:
        return []
    least, most = counts[0], counts[-1]
    found = [f"n = {most} paired seed{'s' * (most > 1)}" if least == most else f"n = {least} to {most} paired seeds"]
    if most > 1 and len(rows) > 1:
        kept = [row.contender for row in rows if row.p is not None and row.p < 0.05]
        differ = f"{listed(kept)} still differ{'s' * (len(kept) == 1)}" if kept else "no method differs"
        found[0] += f", not corrected for {len(rows)} comparisons; corrected (Holm, 5 %), {differ}"
    if most == 1:
        found.append("one run tells nothing about the spread")
    elif least <= 2:
        found.append("two runs tell little")
    return found

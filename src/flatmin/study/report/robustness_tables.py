"""Robustness, calibration and forgetting of a study's runs as rows of words; see `flatmin.study.training.robust`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from flatmin.study.metric import Metric
from flatmin.study.report import flatness_correlation
from flatmin.study.report.flatness_correlation import HEADS
from flatmin.study.report.flatness_tables import number
from flatmin.study.report.summary import Finished, Row, Summary
from flatmin.study.report.tables import percent
from flatmin.study.stats import Interval, paired_difference, t_interval
from flatmin.study.training import robust


@dataclass(frozen=True)
class Column:
    """One number of a run.

    Args:
        group: its group in `result.json`.
        level: its level there.
        head: what it is called in tables.
        kind: metric: a value of the study's metric. lost: a difference of it. nats, share: neither. Lower is better of
            all but the first.
    """

    group: str
    level: str
    head: str
    kind: Literal["metric", "lost", "nats", "share"] = "metric"

    def of(self, run: Finished) -> float | None:
        """The number; None where it was not measured, or is not finite."""
        return (run.result.robustness or {}).get(self.group, {}).get(self.level)

    def lost(self, run: Finished) -> float | None:
        """By how much the metric gets worse; a number that is no metric itself. Lower is better."""
        value = self.of(run)
        return run.result.metric.sign * (run.test - value) if value is not None and self.kind == "metric" else value

    def over(self, row: Row) -> Interval | None:
        """Its mean over the runs that have it."""
        values = [*self.by_seed(row).values()]
        return t_interval(values) if values else None

    def by_seed(self, row: Row) -> dict[int, float]:
        """Of the runs that have it."""
        return {seed: value for seed, run in row.runs.items() if (value := self.of(run)) is not None}

    def in_words(self, interval: Interval | None, metric: Metric, sign: str = "") -> str:
        """A mean or, with the sign "+", a difference."""
        if interval is None:
            return "–"
        if self.kind == "nats":
            return "+" * (sign == "+" and interval.mean > 0) + number(interval, 3)
        return percent(interval, sign) if self.kind == "share" else metric.written(interval, sign)

    def mean_in_words(self, mean: float, metric: Metric) -> str:
        """To a tenth of a percent, a hundredth of a nat, or four digits."""
        if self.kind == "nats":
            return f"{mean:.2f}"
        in_percent = self.kind == "share" or metric.ends is not None
        return f"{100 * mean:.1f}" if in_percent else metric.number(mean)


#: The columns of a table each; see `heading`.
WEIGHTS = (
    *(Column("rounding", str(bits), f"{bits} bits") for bits in robust.BITS),
    *(Column("weight_noise", str(scale), f"noise {100 * scale:g} %") for scale in robust.WEIGHT_NOISE),
)
IMAGES = (
    *(Column("input_noise", str(scale), f"noise {scale:g} σ") for scale in robust.INPUT_NOISE),
    *(Column("blur", str(sigma), f"blur {sigma:g} px") for sigma in robust.BLUR),
    Column("calibration", "nll", "NLL", "nats"),
    Column("calibration", "ece", "ECE, %", "share"),
)
FORGOTTEN = Column("forgetting", "lost", "forgotten", "lost")
FORGETTING = (
    Column("forgetting", "after", "first text"),
    FORGOTTEN,
    Column("forgetting", "second", "second text"),
)
PARTS = (WEIGHTS, IMAGES, FORGETTING)
COLUMNS = tuple(column for part in PARTS for column in part)
#: Those that tell how much worse a network gets, or how bad its probabilities are.
LOST = (*WEIGHTS, *IMAGES, FORGOTTEN)


def columns(summary: Summary) -> list[Column]:
    """Those of the groups that the study's runs measured."""
    groups = {group for row in summary.rows for run in row.runs.values() for group in run.result.robustness or {}}
    return [column for column in COLUMNS if column.group in groups]


def heading(part: Sequence[Column], metric: Metric) -> str:
    """The title of a table of some columns."""
    unit = f", {metric.unit}" if metric.unit else ""
    if part == FORGETTING:
        return f"Test {metric.name} after training on the second text{unit}"
    if part == WEIGHTS:
        return f"Test {metric.name} with changed weights{unit}"
    return f"Test {metric.name} with changed images{unit}, and calibration"


def panels(summary: Summary) -> Iterator[tuple[str, list[Row]]]:
    """Title and rows of every condition that was measured."""
    for arm in summary.study.arms:
        for noise in summary.study.noise:
            rows = [row for row in summary.panel(arm, noise) if any(column.over(row) for column in COLUMNS)]
            if rows:
                yield summary.title(arm, noise), rows


def tables(summary: Summary) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of every table; none for a study that did not measure it."""
    measured = columns(summary)
    for where, rows in panels(summary):
        for part in PARTS:
            if part[0] in measured:
                yield from _part(summary, rows, part, where)
        arm, noise = rows[0].arm, rows[0].noise
        if summary.study.flatness and (found := _correlations(summary, arm, noise)):
            yield f"Rank correlation of what is lost with flatness, {where}", ["lost", *HEADS.values()], found
        if FORGOTTEN in measured and (found := _with_forgetting(summary, rows)):
            yield f"Rank correlation of what is forgotten with what is lost, {where}", ["lost", "forgotten"], found


def _part(
    summary: Summary, rows: list[Row], part: Sequence[Column], where: str
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """The numbers, and their differences to the baseline."""
    metric = summary.metric
    heads = ["method", "n", "unchanged", *(column.head for column in part)]

    def cells(row: Row) -> list[str]:
        values = (column.in_words(column.over(row), metric) for column in part)
        return [str(row.test.n), metric.written(row.test), *values]

    def differences(row: Row) -> list[str]:
        unchanged = (str(row.difference.n), metric.written(row.difference, "+")) if row.difference else ("0", "–")
        values = (column.in_words(difference(summary, column, row), metric, "+") for column in part)
        return [*unchanged, *values, *([_in_percent(relative(summary, row))] if part == FORGETTING else [])]

    yield f"{heading(part, metric)}, {where}", heads, [[row.contender, *cells(row)] for row in rows]
    others = [row for row in rows if row.contender != summary.baseline]
    if len(others) < len(rows):
        yield (
            f"Difference to {summary.baseline}, {where}",
            [*heads, *["forgotten, %"] * (part == FORGETTING)],
            [[row.contender, *differences(row)] for row in others],
        )


def _correlations(summary: Summary, arm: str, noise: float) -> list[list[str]]:
    """A row for each column that has a correlation, over the contenders within a seed."""
    rows = []
    for column in LOST:
        by_measure = {
            one.measure: one.seeds
            for one in flatness_correlation.correlations(summary, column.lost)
            if (one.arm, one.noise) == (arm, noise)
        }
        found = [by_measure.get(name) for name in HEADS]
        if any(found):
            rows.append([column.head, *map(_rank, found)])
    return rows


def _with_forgetting(summary: Summary, rows: Sequence[Row]) -> list[list[str]]:
    """The correlation of what is forgotten with what each change of the weights costs, within a seed."""
    found = [(column.head, flatness_correlation.within_seeds(rows, column.lost, FORGOTTEN.lost)) for column in WEIGHTS]
    return [[head, _rank(seeds)] for head, seeds in found if seeds]


def _rank(seeds: Interval | None) -> str:
    return f"{number(seeds, 2)} (n = {seeds.n})" if seeds else "–"


def _in_percent(interval: Interval | None) -> str:
    """A relative difference."""
    if interval is None:
        return "–"
    spread = "–" if interval.half_width is None else f"{100 * interval.half_width:.1f}"
    return f"{100 * interval.mean:+.1f} ± {spread}"


def difference(summary: Summary, column: Column, row: Row) -> Interval | None:
    """To the baseline, paired by seed."""
    found = _baseline(summary, row)
    return paired_difference(column.by_seed(row), column.by_seed(found)) if found and found != row else None


def relative(summary: Summary, row: Row) -> Interval | None:
    """What is forgotten, as a fraction of what the baseline forgets with the same seed, minus 1; mean over seeds."""
    found = _baseline(summary, row)
    if found is None or found == row:
        return None
    mine, others = FORGOTTEN.by_seed(row), FORGOTTEN.by_seed(found)
    ratios = [mine[seed] / others[seed] - 1 for seed in sorted(mine.keys() & others.keys()) if others[seed] > 0]
    return t_interval(ratios) if ratios else None


def _baseline(summary: Summary, row: Row) -> Row | None:
    """The baseline under the condition of a row."""
    return next((one for one in summary.panel(row.arm, row.noise) if one.contender == summary.baseline), None)


def legend(summary: Summary) -> list[str]:
    """How to read the tables."""
    measured, lines = columns(summary), []
    weights = (
        "Changes: weights rounded to so many bits, symmetrically, with one step per output channel; Gaussian noise on "
        f"the weights, in percent of each filter's norm, mean of {robust.DRAWS} draws"
    )
    if IMAGES[0] in measured:
        lines.append(
            f"{weights}; Gaussian noise on the images, in standard deviations σ of the training images; Gaussian blur. "
            "BatchNorm's statistics are not computed again. Runs of one seed have the same draws. NLL: negative log "
            "likelihood, nats. ECE: expected calibration error, 15 equal bins of the confidence. Of both, lower is "
            "better. Intervals are not corrected for many comparisons."
        )
    elif WEIGHTS[0] in measured:
        lines.append(
            f"{weights}. BatchNorm's statistics are not computed again. Runs of one seed have the same draws. "
            "Intervals are not corrected for many comparisons."
        )
    if FORGOTTEN in measured:
        lines.append(
            "First and second text: test data of both after the training went on with the second. Forgotten: by how "
            f"much the first one is worse then; in percent: more or less than {summary.baseline} forgets with the same "
            "seed."
        )
    if summary.study.flatness:
        of_images = ", or with NLL and ECE" * (IMAGES[0] in measured)
        lines.append(
            "Rank correlations are Spearman's, over the methods within a seed, mean and 95 % interval over n seeds, of "
            f"a measure of flatness with the {summary.metric.name} that a change costs{of_images}: positive means that "
            "flatter is better. results.json also has them over all runs and over the means of the methods."
        )
    return lines


def as_json(summary: Summary) -> dict[str, Any]:
    """The section `robustness` of `results.json`; empty for a study that did not measure it."""
    measured = columns(summary)
    if not measured:
        return {}
    table = [
        {
            "arm": row.arm,
            "noise": row.noise,
            "contender": row.contender,
            "numbers": [
                {
                    "group": column.group,
                    "level": column.level,
                    "mean": _json(column.over(row)),
                    "difference": _json(difference(summary, column, row)),
                    **({"relative": _json(relative(summary, row))} if column == FORGOTTEN else {}),
                }
                for column in measured
            ],
        }
        for row in summary.rows
    ]
    correlations = [
        {"group": column.group, "level": column.level, **asdict(one)}
        for column in measured
        if column in LOST
        for one in flatness_correlation.correlations(summary, column.lost)
    ]
    found: dict[str, Any] = {"draws": robust.DRAWS, "table": table, "correlations": correlations}
    if FORGOTTEN in measured:
        found["forgotten_with"] = [
            {
                "arm": rows[0].arm,
                "noise": rows[0].noise,
                "group": column.group,
                "level": column.level,
                "seeds": _json(flatness_correlation.within_seeds(rows, column.lost, FORGOTTEN.lost)),
            }
            for _, rows in panels(summary)
            for column in WEIGHTS
            if column in measured
        ]
    return {"robustness": found}


def _json(interval: Interval | None) -> dict[str, Any] | None:
    return asdict(interval) if interval else None

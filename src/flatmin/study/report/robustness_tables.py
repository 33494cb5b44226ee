"""The robustness and the calibration of a study's runs as rows of words; see `flatmin.study.training.robust`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flatmin.study.report import flatness_correlation
from flatmin.study.report.flatness_correlation import HEADS
from flatmin.study.report.flatness_tables import number
from flatmin.study.report.summary import Finished, Row, Summary, title
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
        accuracy: whether it is one, of which higher is better; otherwise lower is.
    """

    group: str
    level: str
    head: str
    accuracy: bool = True

    def of(self, run: Finished) -> float | None:
        """The number; None where it was not measured, or is not finite."""
        return (run.result.robustness or {}).get(self.group, {}).get(self.level)

    def lost(self, run: Finished) -> float | None:
        """By how much the accuracy falls; a number that is no accuracy itself. Lower is better."""
        value = self.of(run)
        return run.test - value if value is not None and self.accuracy else value

    def over(self, row: Row) -> Interval | None:
        """Its mean over the runs that have it."""
        values = [*self.by_seed(row).values()]
        return t_interval(values) if values else None

    def by_seed(self, row: Row) -> dict[int, float]:
        """Of the runs that have it."""
        return {seed: value for seed, run in row.runs.items() if (value := self.of(run)) is not None}

    def in_words(self, interval: Interval | None, sign: str = "") -> str:
        """A mean or, with the sign "+", a difference."""
        if interval is None:
            return "–"
        if self.level == "nll":
            return "+" * (sign == "+" and interval.mean > 0) + number(interval, 3)
        return percent(interval, sign)

    def mean_in_words(self, mean: float) -> str:
        """To a tenth of a percent, or a hundredth of a nat."""
        return f"{mean:.2f}" if self.level == "nll" else f"{100 * mean:.1f}"


#: Title of a table -> its columns.
PARTS = {
    "Test accuracy with changed weights, %": (
        *(Column("rounding", str(bits), f"{bits} bits") for bits in robust.BITS),
        *(Column("weight_noise", str(scale), f"noise {100 * scale:g} %") for scale in robust.WEIGHT_NOISE),
    ),
    "Test accuracy with changed images, %, and calibration": (
        *(Column("input_noise", str(scale), f"noise {scale:g} σ") for scale in robust.INPUT_NOISE),
        *(Column("blur", str(sigma), f"blur {sigma:g} px") for sigma in robust.BLUR),
        Column("calibration", "nll", "NLL", accuracy=False),
        Column("calibration", "ece", "ECE, %", accuracy=False),
    ),
}
COLUMNS = tuple(column for columns in PARTS.values() for column in columns)


def panels(summary: Summary) -> Iterator[tuple[str, list[Row]]]:
    """Title and rows of every condition that was measured."""
    for arm in summary.study.arms:
        for noise in summary.study.noise:
            rows = [row for row in summary.panel(arm, noise) if any(column.over(row) for column in COLUMNS)]
            if rows:
                yield title(arm, noise), rows


def tables(summary: Summary) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of every table; none for a study that did not measure it."""
    for where, rows in panels(summary):
        for heading, columns in PARTS.items():
            yield from _part(summary, rows, columns, heading, where)
        if summary.study.flatness and (found := _correlations(summary, rows[0].arm, rows[0].noise)):
            yield f"Rank correlation of what is lost with flatness, {where}", ["lost", *HEADS.values()], found


def _part(
    summary: Summary, rows: list[Row], columns: Sequence[Column], heading: str, where: str
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """The numbers, and their differences to the baseline."""
    heads = ["method", "n", "unchanged", *(column.head for column in columns)]

    def cells(row: Row) -> list[str]:
        return [str(row.test.n), percent(row.test), *(column.in_words(column.over(row)) for column in columns)]

    def differences(row: Row) -> list[str]:
        unchanged = (str(row.difference.n), percent(row.difference, "+")) if row.difference else ("0", "–")
        return [*unchanged, *(column.in_words(difference(summary, column, row), "+") for column in columns)]

    yield f"{heading}, {where}", heads, [[row.contender, *cells(row)] for row in rows]
    others = [row for row in rows if row.contender != summary.baseline]
    if len(others) < len(rows):
        yield (
            f"Difference to {summary.baseline}, {where}",
            heads,
            [[row.contender, *differences(row)] for row in others],
        )


def _correlations(summary: Summary, arm: str, noise: float) -> list[list[str]]:
    """A row for each column that has a correlation, over the contenders within a seed."""
    rows = []
    for column in COLUMNS:
        by_measure = {
            one.measure: one.seeds
            for one in flatness_correlation.correlations(summary, column.lost)
            if (one.arm, one.noise) == (arm, noise)
        }
        found = [by_measure.get(name) for name in HEADS]
        cells = [f"{number(seeds, 2)} (n = {seeds.n})" if seeds else "–" for seeds in found]
        if any(cell != "–" for cell in cells):
            rows.append([column.head, *cells])
    return rows


def difference(summary: Summary, column: Column, row: Row) -> Interval | None:
    """To the baseline, paired by seed."""
    found = next((one for one in summary.panel(row.arm, row.noise) if one.contender == summary.baseline), None)
    return paired_difference(column.by_seed(row), column.by_seed(found)) if found and found != row else None


def legend(summary: Summary) -> list[str]:
    """How to read the tables."""
    lines = [
        "Changes: weights rounded to so many bits, symmetrically, with one step per output channel; Gaussian noise on "
        f"the weights, in percent of each filter's norm, mean of {robust.DRAWS} draws; Gaussian noise on the images, "
        "in standard deviations σ of the training images; Gaussian blur. BatchNorm's statistics are not computed "
        "again. Runs of one seed have the same draws. NLL: negative log likelihood, nats. ECE: expected calibration "
        "error, 15 equal bins of the confidence. Of both, lower is better. Intervals are not corrected for many "
        "comparisons."
    ]
    if summary.study.flatness:
        lines.append(
            "Rank correlations are Spearman's, over the methods within a seed, mean and 95 % interval over n seeds, of "
            "a measure of flatness with the accuracy that a change costs, or with NLL and ECE: positive means that "
            "flatter is better. results.json also has them over all runs and over the means of the methods."
        )
    return lines


def as_json(summary: Summary) -> dict[str, Any]:
    """The section `robustness` of `results.json`; empty for a study that did not measure it."""
    if not summary.study.robustness:
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
                    "mean": asdict(mean) if (mean := column.over(row)) else None,
                    "difference": asdict(paired) if (paired := difference(summary, column, row)) else None,
                }
                for column in COLUMNS
            ],
        }
        for row in summary.rows
    ]
    correlations = [
        {"group": column.group, "level": column.level, **asdict(one)}
        for column in COLUMNS
        for one in flatness_correlation.correlations(summary, column.lost)
    ]
    return {"robustness": {"draws": robust.DRAWS, "table": table, "correlations": correlations}}

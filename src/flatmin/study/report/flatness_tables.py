"""The flatness of a study's minima as rows of words, as `tables` has the accuracies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from flatmin.study.minima.measures import MEASURES
from flatmin.study.report import flatness_correlation
from flatmin.study.report.flatness_correlation import HEADS, FlatnessCorrelation, RankCorrelation
from flatmin.study.report.summary import Row, Summary
from flatmin.study.stats import Interval

#: What the columns of the tables of correlations hold.
CORRELATED = ["measure", "all runs", "means of methods", "within a seed"]


def panels(summary: Summary) -> Iterator[tuple[str, list[Row]]]:
    """Title and rows of every table; none for a study that measured nothing."""
    for arm in summary.study.arms:
        for noise in summary.study.noise:
            rows = summary.panel(arm, noise)
            if any(run.flatness and run.flatness.examples for row in rows for run in row.runs.values()):
                yield f"Flatness, {summary.title(arm, noise)}", rows


def headers(summary: Summary) -> list[str]:
    """What the columns hold."""
    return ["method", summary.metric.error_header, "n", *HEADS.values()]


def cells(row: Row) -> list[str]:
    """One row, a cell per header; the error of the runs that were measured."""
    found = [flatness_correlation.mean(row, name) for name in HEADS]
    error = next((each[1] for each in found if each), None)
    return [
        row.contender,
        row.metric.written(error) if error else "–",
        str(error.n if error else 0),
        *(number(each[0]) if each else "–" for each in found),
    ]


def number(interval: Interval, places: int | None = None) -> str:
    """`12.3 ± 0.52`, to so many decimal places or else to three digits; a dash where one value tells nothing."""
    spread = interval.half_width
    if places is None:
        return f"{_digits(interval.mean, 3)} ± {'–' if spread is None else _digits(spread, 2, -4)}"
    mean = round(interval.mean, places) + 0.0  # never -0.00
    return f"{mean:.{places}f} ± {'–' if spread is None else format(spread, f'.{places}f')}"


def correlations(summary: Summary) -> Iterator[tuple[str, list[list[str]]]]:
    """Title and rows of every table of correlations: a row for each measure, a cell for each of `CORRELATED`.

    A measure without any correlation is not among them, see `without_correlation`.
    """
    for (arm, noise), found in itertools.groupby(
        filter(_known, flatness_correlation.correlations(summary)), key=lambda one: (one.arm, one.noise)
    ):
        yield f"Rank correlation with the test error, {summary.title(arm, noise)}", [_correlated(one) for one in found]


def without_correlation(summary: Summary) -> Iterator[str]:
    """A line for each condition under which measures have no rank correlation, with the reason."""
    for (arm, noise), found in itertools.groupby(
        itertools.filterfalse(_known, flatness_correlation.correlations(summary)), key=lambda one: (one.arm, one.noise)
    ):
        few: list[str] = []
        constant: list[str] = []
        for one in found:
            (few if one.runs.n < 3 else constant).append(HEADS[one.measure])
        whys = ((few, "fewer than three runs were measured"), (constant, "all values, or all errors, are equal"))
        for names, why in whys:
            if names:
                which = f"{', '.join(names)}, {summary.title(arm, noise)}"
                yield f"No rank correlation with the test error for {which}: {why}."


def in_words(one: FlatnessCorrelation) -> str:
    """The correlations of a panel that have a value, for a picture."""
    found = [(one.runs, "runs"), (one.contenders, "methods")]
    values = [f"{_rho(each)} ({each.n} {words})" for each, words in found if each.value is not None]
    return f"ρ = {', '.join(values)}" if values else f"no rank correlation ({one.runs.n} runs)"


def legend(summary: Summary) -> list[str]:
    """How to read the tables, and what could not be measured."""
    lines = [
        f"Flatness at the weights that were tested, on {_examples(summary)} training examples with the labels as "
        "trained. λ_max and trace: of the Hessian of the loss, per squared unit of the weights. Adaptive sharpness: "
        f"the rise of the loss within ASAM's ball of radius {MEASURES['adaptive'].settings['rho']:g}. ± is the 95 % "
        "t-interval over the n seeds that were measured; the error is theirs, too.",
        "Correlations are Spearman's, of the measure with the test error: positive means that flatter is better. Runs "
        "of one method are not independent points. Within a seed: over the methods, its mean over n seeds.",
        *without_correlation(summary),
    ]
    for row in summary.rows:
        for why, count in _unavailable(row).items():
            lines.append(
                f"No flatness for {count} of {len(row.runs)} runs of {row.contender}, "
                f"{summary.title(row.arm, row.noise)}: {why}."
            )
    return lines


def _digits(value: float, digits: int, lowest: int = -3) -> str:
    """So many significant digits; with an exponent below 10^lowest and where it saves space: 0.00123, 1.23e-4."""
    if value == 0:
        return "0"
    order = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))  # 0.0996 is 0.10
    if lowest <= order < 5:
        return f"{value:.{max(0, digits - 1 - order)}f}"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def _known(one: FlatnessCorrelation) -> bool:
    """Whether any of its correlations has a value."""
    return any(value is not None for value in (one.runs.value, one.contenders.value, one.seeds))


def _correlated(one: FlatnessCorrelation) -> list[str]:
    runs, contenders = (f"{_rho(found)} (n = {found.n})" for found in (one.runs, one.contenders))
    seeds = f"{number(one.seeds, 2)} (n = {one.seeds.n})" if one.seeds else "–"
    return [HEADS[one.measure], runs, contenders, seeds]


def _rho(found: RankCorrelation) -> str:
    return "–" if found.value is None else f"{found.value:.2f}"


def _examples(summary: Summary) -> int:
    return next(run.flatness.examples for row in summary.rows for run in row.runs.values() if run.flatness)


def _unavailable(row: Row) -> dict[str, int]:
    """Why runs of a row have no measure, and how many."""
    found: dict[str, int] = {}
    for run in row.runs.values():
        if run.flatness is None:
            whys = ["not measured yet"]
        else:
            notes = [f"{HEADS[name]}: {one.note}" for name, one in run.flatness.readings.items() if one.value is None]
            whys = [run.flatness.unavailable] if run.flatness.unavailable else notes
        for why in whys:
            found[why] = found.get(why, 0) + 1
    return found

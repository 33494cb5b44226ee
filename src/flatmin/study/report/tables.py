"""The cells of the tables that the terminal, Markdown and the HTML report share; see also `flatness_tables`."""

from __future__ import annotations

from collections.abc import Iterator

from flatmin.study.metric import ACCURACY
from flatmin.study.report.summary import Row, Summary
from flatmin.study.stats import Interval

#: Further numbers that have a name for readers; shown as fractions are.
OTHERS = {"train_accuracy": "training", "memorised": "memorised"}


def panels(summary: Summary) -> Iterator[tuple[str, list[Row]]]:
    """Title and rows of every table."""
    for arm in summary.study.arms:
        for noise in summary.study.noise:
            if rows := summary.panel(arm, noise):
                yield summary.title(arm, noise), rows


def headers(summary: Summary) -> list[str]:
    """What the columns hold."""
    return [
        "method",
        summary.metric.header("test"),
        "n",
        f"Δ to {summary.baseline}",
        *["Δ, images too"] * (summary.metric == ACCURACY),
        "p, Holm",
        *(f"{OTHERS[name]}, %" if name in OTHERS else name for name in summary.others),
        "gradients",
        "s/run",
        "settings",
    ]


def cells(summary: Summary, row: Row) -> list[str]:
    """One row, a cell per header."""
    written = row.metric.written
    return [
        row.contender + " †" * bool(row.diverged),
        written(row.test),
        str(row.test.n),
        written(row.difference, sign="+") if row.difference else "–",
        *[written(row.with_images, sign="+") if row.with_images else "–"] * (row.metric == ACCURACY),
        p_value(row.p),
        *(_other(name, row.others.get(name)) for name in summary.others),
        f"{row.gradient_evaluations:g}",
        f"{row.seconds:.2f}",
        named(row.settings),
    ]


def percent(interval: Interval, sign: str = "") -> str:
    """An accuracy, or with the sign "+" a difference of accuracies, see `Metric.written`: `93.61 ± 0.52`."""
    return ACCURACY.written(interval, sign)


def p_value(p: float | None) -> str:
    """`0.031`, `< 0.001`; a dash where there is none."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def named(settings: dict[str, float]) -> str:
    """`lr 0.1, rho 0.05`."""
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def legend(summary: Summary, *, terse: bool = False) -> list[str]:
    """How to read the tables, and what is missing from them; `terse` for tables without the columns that need words."""
    study = summary.study
    budget = "steps" if study.budget == "steps" else "gradient evaluations"
    lines = [
        f"± is the 95 % t-interval over n seeds. Δ is paired by seed. All methods take equal {budget}; gradients and "
        "seconds are medians per run."
    ]
    lines += [] if terse else _of_columns(summary)
    if any("[" in row.metric.written(row.test) for row in summary.rows):
        lines.append("An interval that would leave the range of accuracies ends at 0 or 100, as in 99.50 [97.10, 100].")
    for row in summary.rows:
        if row.diverged:
            count = f"{row.diverged} of {row.test.n} runs diverged and count with what they ended at"
            lines.append(f"† {row.contender}, {summary.title(row.arm, row.noise)}: {count}.")
    if summary.missing:
        lines.append(f"{summary.missing} runs of this study are not complete; run its command again to continue it.")
    return lines


def _of_columns(summary: Summary) -> list[str]:
    """What columns mean that not every study has."""
    lines = []
    if any(row.with_images for row in summary.rows):
        lines.append(
            "Δ, images too: the same difference, with an interval for new seeds and new test images. Seeds and images "
            "are crossed random effects, the images independent: variance (MS of seeds + MS of images - MS "
            "of the rest) / (seeds x images), Satterthwaite's degrees of freedom."
        )
    if any(row.p is not None for row in summary.rows):
        lines.append(
            "p, Holm: of the paired t-test over seeds, corrected by Holm for all methods of the table. If no method "
            "differs from the baseline, one or more of them are below 0.05 with a chance of at most 5 %."
        )
    if any(row.others.get("train_accuracy") is not None for row in summary.rows):
        lines.append(
            "Training: accuracy at the end on at most 2,000 training images, with the labels as given. Memorised: the "
            "share of the wrong labels among them that the network predicts; chance is one in the number of classes."
        )
    return lines


def _other(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if name in OTHERS else f"{value:.4g}"

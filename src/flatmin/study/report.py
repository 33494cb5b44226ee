"""A study as tables: on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from flatmin.study import record
from flatmin.study.stats import Estimate
from flatmin.study.summary import Row, Summary, as_json, summarise, title

#: Columns a terminal needs before it gets the settings too; results.json and the Markdown always have them.
WIDE = 110


def refresh(out: Path) -> Summary:
    """Write `results.json` and the plots of the study in the folder `out` anew from its run folders.

    Raises:
        ValueError: `out` holds no study, or none of its runs is complete.
    """
    from flatmin.study import plots  # matplotlib is slow to import, and a long study should start at once

    summary = summarise(out)
    record.write_json(out / "results.json", as_json(summary))
    plots.accuracy(summary, out / "accuracy.png")
    plots.curves(summary, out / "curves.png")
    return summary


def show(summary: Summary, console: Console) -> None:
    """Print one table per arm and condition, and how to read them."""
    for heading, rows in _panels(summary):
        table = Table(title=heading, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for header in _headers(summary)[: None if console.width >= WIDE else -1]:
            table.add_column(header, justify="left" if header in ("method", "settings") else "right", no_wrap=True)
        best = max(row.accuracy.mean for row in rows)
        for row in rows:
            table.add_row(*_cells(row)[: len(table.columns)], style="bold" if row.accuracy.mean == best else None)
        console.print(table)
    console.print(*_legend(summary), sep="\n", highlight=False, markup=False)


def markdown(summary: Summary) -> str:
    """The same tables as Markdown."""
    lines = []
    for heading, rows in _panels(summary):
        lines += [f"### {heading}", "", _line(_headers(summary)), "|:--|--:|--:|--:|--:|--:|:--|"]
        lines += [*(_line(_cells(row)) for row in rows), ""]
    return "\n".join([*lines, *_legend(summary)])


def _panels(summary: Summary) -> Iterator[tuple[str, list[Row]]]:
    """Title and rows of every table."""
    for arm in summary.study.arms:
        for noise in summary.study.noise:
            if rows := summary.panel(arm, noise):
                yield title(arm, noise), rows


def _headers(summary: Summary) -> list[str]:
    return ["method", "test accuracy, %", "n", f"Δ to {summary.baseline}", "gradients", "s/run", "settings"]


def _cells(row: Row) -> list[str]:
    return [
        row.contender + " †" * bool(row.diverged),
        _percent(row.accuracy),
        str(row.accuracy.n),
        _percent(row.difference, sign="+") if row.difference else "–",
        f"{row.gradient_evaluations:g}",
        f"{row.seconds:.2f}",
        ", ".join(f"{name} {value:g}" for name, value in row.settings.items()),
    ]


def _percent(estimate: Estimate, sign: str = "") -> str:
    """`93.61 ± 0.52`; a dash where one value tells nothing about spread."""
    spread = "–" if estimate.half_width is None else f"{100 * estimate.half_width:.2f}"
    return f"{100 * estimate.mean:{sign}.2f} ± {spread}"


def _legend(summary: Summary) -> list[str]:
    """How to read the tables, and what is missing from them."""
    study = summary.study
    budget = "steps" if study.budget == "steps" else "gradient evaluations"
    lines = [
        f"± is the 95 % t-interval over n seeds. Δ is paired by seed. Equal {budget} for all; gradients and seconds "
        "are medians per run."
    ]
    for row in summary.rows:
        if row.diverged:
            count = f"{row.diverged} of {row.accuracy.n} runs diverged and count with what they ended at"
            lines.append(f"† {row.contender}, {title(row.arm, row.noise)}: {count}.")
    if summary.missing:
        lines.append(f"{summary.missing} runs of this study are not complete; run its command again to continue it.")
    return lines


def _line(cells: list[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

"""A study on the terminal: two screens of 80 columns for nine methods, two conditions and two arms."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from flatmin.study.report import conclusions, robustness_tables, tables
from flatmin.study.report.summary import Row, Summary, condition

#: Columns a terminal needs before it gets the settings too; results.json and the Markdown always have them.
WIDE = 110


def show(summary: Summary, console: Console) -> None:
    """Print test results, what may be concluded, and how to read both. Flatness is in the files only."""
    for arm in summary.study.arms:
        noises = [noise for noise in summary.study.noise if summary.panel(arm, noise)]
        while noises:
            # As many conditions side by side as the terminal has columns for; at least one.
            for count in range(len(noises), 0, -1):
                table = _table(summary, arm, noises[:count], console.width >= WIDE)
                if Measurement.get(console, console.options.update(max_width=1000), table).maximum <= console.width:
                    break
            console.print(f"{arm.capitalize()} settings", style="bold", highlight=False)
            console.print(table)
            noises = noises[count:]
    for arm, noise in itertools.product(summary.study.arms, summary.study.noise):
        if summary.panel(arm, noise):
            heading = summary.title(arm, noise)
            text = conclusions.sentence(summary, arm, noise)
            console.print(f"[bold]{heading[0].upper()}{heading[1:]}.[/bold] {escape(text)}", highlight=False)
    console.print(*tables.legend(summary, terse=True), sep="\n", highlight=False, markup=False)
    for heading, rows in robustness_tables.panels(summary):
        console.print(f"{_after_changes(summary)}, {heading}", style="bold", highlight=False)
        console.print(_robustness(summary, rows))
        note = f"Means. Bold: the interval of the difference to {summary.baseline} excludes 0. More in report.md."
        console.print(note, highlight=False, markup=False)


def _table(summary: Summary, arm: str, noises: Sequence[float], settings: bool) -> Table:
    """The methods under some conditions of one arm; a difference is bold where its interval excludes zero."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0, 0, 1))
    table.add_column("\nmethod", no_wrap=True)

    def heading(noise: float) -> str:
        return condition(noise).replace("label noise", "noise") if summary.has_conditions else ""

    for noise in noises:
        table.add_column(f"{heading(noise)}\n{summary.metric.header()}", justify="right", no_wrap=True)
        table.add_column(f"\nΔ to {summary.baseline}", justify="right", no_wrap=True)
    table.add_column("\ngrads", justify="right", no_wrap=True)
    table.add_column("\ns/run", justify="right", no_wrap=True)
    if settings:
        several = len(noises) > 1 and summary.study.tune_per_condition and arm == "tuned"
        table.add_column("settings,\na line per condition" if several else "\nsettings", no_wrap=True)
    panels = [{row.contender: row for row in summary.panel(arm, noise)} for noise in noises]
    for name in summary.study.methods:
        rows = [panel.get(name) for panel in panels]
        known = [row for row in rows if row]
        if not known:
            continue
        cells = list(itertools.chain(*map(_test, rows)))
        mark = " †" * any(row.diverged for row in known)
        results = [run.result for row in known for run in row.runs.values()]
        gradients = statistics.median(result.gradient_evaluations for result in results)
        last = [f"{gradients:g}", f"{statistics.median(result.seconds for result in results):.2f}"]
        chosen = [tables.named(row.settings) for row in known]
        last += ["\n".join(chosen if len(set(chosen)) > 1 else chosen[:1])] * settings
        table.add_row(escape(name) + mark, *cells, *map(escape, last))
    return table


def _after_changes(summary: Summary) -> str:
    """What the table of robustness holds."""
    measured, unit = robustness_tables.columns(summary), f", {summary.metric.unit}" if summary.metric.unit else ""
    words = f"Test {summary.metric.name} after changes{unit}"
    return f"{words}, and calibration" if robustness_tables.IMAGES[0] in measured else words


def _robustness(summary: Summary, rows: Sequence[Row]) -> Table:
    """Means only, so that twelve numbers fit into 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
    table.add_column("\nmethod", min_width=6)
    shown = robustness_tables.columns(summary)
    for column in shown:
        table.add_column(column.head.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for column in shown:
            mean, paired = column.over(row), robustness_tables.difference(summary, column, row)
            clear = paired is not None and paired.half_width is not None and abs(paired.mean) > paired.half_width
            cell = column.mean_in_words(mean.mean, row.metric) if mean else "–"
            cells.append(f"[bold]{cell}[/bold]" if clear else cell)
        table.add_row(escape(row.contender), *cells)
    return table


def _test(row: Row | None) -> tuple[str, str]:
    """The metric and its difference, without spaces around ±: two conditions fit into 80 columns."""
    if row is None:
        return "–", "–"
    test = escape(row.metric.written(row.test).replace(" ± ", "±"))
    if row.difference is None:
        return test, "–"
    difference = escape(row.metric.written(row.difference, sign="+").replace(" ± ", "±"))
    return test, f"[bold]{difference}[/bold]" if conclusions.verdict(row) in ("better", "worse") else difference

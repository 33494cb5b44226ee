"""All files of a study anew, and its tables as Markdown."""

from __future__ import annotations

from pathlib import Path

from flatmin.study import files
from flatmin.study import tuning as tuning_file
from flatmin.study.report import conclusions, drawing, flatness_correlation, flatness_tables, robustness_tables, tables
from flatmin.study.report.sensitivity import sensitivity
from flatmin.study.report.summary import Summary, as_json, summarise
from flatmin.study.report.target import time_to_target
from flatmin.study.report.terminal import show as show


def refresh(out: Path) -> Summary:
    """Write `results.json`, `report.html`, `report.md` and the plots of the study in `out` anew from its run folders.

    Raises:
        ValueError: `out` holds no study, or none of its runs is complete.
    """
    from flatmin.study.report import forest_plot, html, plots

    summary = summarise(out)
    tuning = tuning_file.read(out)
    to_target = {"time_to_target": time_to_target(summary).as_json()}
    results = as_json(summary) | to_target | flatness_correlation.as_json(summary) | robustness_tables.as_json(summary)
    files.write_json(out / "results.json", results)
    forest_plot.draw(summary, out / "forest.png")
    plots.test(summary, out / "accuracy.png")
    if drawing.has_curves(summary):
        plots.curves(summary, out / "curves.png")
    plots.cost(summary, out / "cost.png")
    if found := flatness_correlation.correlations(summary):
        plots.scatter(summary, found, out / "flatness.png")
    searched = sensitivity(summary.study, tuning, summary) if tuning else []
    if searched:
        plots.sensitivity(summary, searched, out / "sensitivity.png")
    html.write(summary, results, tuning, searched, out)
    with files.atomic(out / "report.md") as temporary:
        temporary.write_text(markdown(summary) + "\n", encoding="utf-8", errors="replace", newline="\n")
    return summary


def markdown(summary: Summary) -> str:
    """Every table of the results, the flatness and the robustness as Markdown, with what may be concluded."""
    lines = []
    for heading, rows in tables.panels(summary):
        headers = tables.headers(summary)
        lines += [f"### {heading}", "", _line(headers), "|:--|" + "--:|" * (len(headers) - 2) + ":--|"]
        lines += [*(_line(tables.cells(summary, row)) for row in rows), ""]
        lines += [conclusions.sentence(summary, rows[0].arm, rows[0].noise), ""]
    lines += [*conclusions.remarks(summary), *tables.legend(summary)]
    return "\n".join([*lines, *_flatness_as_markdown(summary), *_robustness_as_markdown(summary)])


def _flatness_as_markdown(summary: Summary) -> list[str]:
    """The same tables as lines of Markdown."""
    panels = [*flatness_tables.panels(summary)]
    if not panels:
        return []
    lines = [""]
    for heading, rows in panels:
        lines += [f"### {heading}", "", _line(flatness_tables.headers(summary)), "|:--|--:|--:|--:|--:|--:|"]
        lines += [*(_line(flatness_tables.cells(row)) for row in rows), ""]
    for heading, correlations in flatness_tables.correlations(summary):
        lines += [f"### {heading}", "", _line(flatness_tables.CORRELATED), "|:--|--:|--:|--:|"]
        lines += [*(_line(row) for row in correlations), ""]
    return [*lines, *flatness_tables.legend(summary)]


def _robustness_as_markdown(summary: Summary) -> list[str]:
    """Likewise."""
    lines = []
    for heading, headers, rows in robustness_tables.tables(summary):
        lines += ["", f"### {heading}", "", _line(headers), "|:--|" + "--:|" * (len(headers) - 1), *map(_line, rows)]
    return [*lines, "", *robustness_tables.legend(summary)] if lines else []


def _line(cells: list[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

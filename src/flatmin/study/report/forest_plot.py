"""The forest plots of a study as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatmin.study.report import conclusions, plots
from flatmin.study.report.conclusions import Line, Verdict
from flatmin.study.report.summary import Summary

#: Blue and orange differ for colour-blind readers, too; grey means no conclusion.
COLOURS: dict[Verdict, str] = {"better": "#0072B2", "worse": "#D55E00", "open": "0.45", "unknown": "0.45"}


def draw(summary: Summary, path: Path) -> None:
    """Write a PNG: a row of panels per arm, a column per condition, all with the same scale."""
    arms = [arm for arm in summary.study.arms if any(summary.panel(arm, noise) for noise in summary.study.noise)]
    panels = {(arm, noise): conclusions.lines(summary, arm, noise) for arm in arms for noise in summary.study.noise}
    limits = conclusions.limits(panels.values())
    columns, most = len(summary.study.noise), max(map(len, panels.values()))
    size = (4.0 * columns, 0.3 + (0.75 + 0.2 * most) * len(arms))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(arms), columns, squeeze=False).ravel()
    for axes, ((arm, noise), lines) in zip(grid, panels.items(), strict=True):
        axes.set_title(summary.title(arm, noise), fontsize=9)
        axes.set_visible(bool(lines))
        _panel(axes, lines, limits)
        if arm == arms[-1]:
            axes.set_xlabel(f"difference to {summary.baseline}, {summary.metric.difference_header}", fontsize=8)
    key = "method (gradients per step), 95 % interval paired by seed; filled and coloured: it excludes zero"
    figure.supxlabel(key, fontsize=7, color="0.35")
    plots.save(figure, path)


def _panel(axes: Axes, lines: Sequence[Line], limits: tuple[float, float]) -> None:
    axes.set_xlim(limits)
    axes.set_xticks(conclusions.ticks(limits))
    axes.axvline(0, color="0.4", linewidth=0.9, zorder=0)
    for y, line in enumerate(lines):
        colour, told = COLOURS[line.verdict], line.verdict in ("better", "worse")
        if line.low is not None and line.high is not None:
            axes.plot([line.low, line.high], [y, y], color=colour, linewidth=1.6)
        if line.mean is not None and limits[0] <= line.mean <= limits[1]:
            axes.plot(line.mean, y, "o", color=colour, markersize=5, markerfacecolor=colour if told else "white")
        low, high = line.ends or (0.0, 0.0)
        for cut, edge, mark in ((low < limits[0], 0, "<"), (high > limits[1], 1, ">")):
            if cut:
                axes.plot(
                    edge, y, mark, color=colour, markersize=5, transform=axes.get_yaxis_transform(), clip_on=False
                )
    axes.set_yticks(range(len(lines)), [f"{line.name} ({line.cost:.3g})" for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.grid(axis="x", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    plots.plain(axes)

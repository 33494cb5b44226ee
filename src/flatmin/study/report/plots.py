"""A study as pictures: readable in one column of a page, and without telling red from green."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatmin.study import files
from flatmin.study.report import axes as ticks
from flatmin.study.report import drawing, flatness_correlation, flatness_tables
from flatmin.study.report.drawing import COLOURS, Style
from flatmin.study.report.flatness_correlation import WORDS, FlatnessCorrelation
from flatmin.study.report.sensitivity import Sensitivity
from flatmin.study.report.summary import Row, Summary

#: How matplotlib writes what a `Style` names.
LINES = {"solid": "-", "dash": (0, (4, 1.5)), "dot": (0, (1, 1))}
MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "cross": "P",
    "star": "*",
}


def test(summary: Summary, path: Path) -> None:
    """The test results of every contender: each run a dot, the mean a line with its 95 % interval."""
    names = summary.study.methods
    figure, panels = _panels(summary, panel_height=0.75 + 0.2 * len(names))
    for (arm, noise), axes in panels.items():
        for row in summary.panel(arm, noise):
            _runs_and_interval(axes, row, names.index(row.contender))
            if row.contender == summary.baseline and not row.diverged:
                axes.axvline(row.metric.scale * row.test.mean, color="0.75", linewidth=0.8, zorder=0)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="x", color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
    _label(panels, summary, x=summary.metric.header("test"))
    key = f"dots: single runs   bars: mean and 95 % t-interval   grey line: mean of {summary.baseline}"
    figure.supxlabel(key, fontsize=7, color="0.35")
    save(figure, path)


def curves(summary: Summary, path: Path) -> None:
    """The metric on the validation split, mean over the seeds, against the gradients computed so far."""
    styles = drawing.styles(summary.study.methods)
    figure, panels = _panels(summary, panel_height=2.1)
    for (arm, noise), axes in panels.items():
        drawn = []
        for row in summary.panel(arm, noise):
            gradients, means = drawing.mean_curve(drawing.metrics(row), row.metric)
            style = styles[row.contender]
            axes.plot(gradients, means, color=COLOURS[style.colour], linestyle=LINES[style.dash], linewidth=1.2)
            drawn.append((row, means))
        _limit(axes, drawing.late(drawn))
        axes.grid(color="0.92", linewidth=0.6)
    _label(panels, summary, x="gradient evaluations", y=summary.metric.header("validation"))
    legend(figure, styles, line=True)
    save(figure, path)


def cost(summary: Summary, path: Path) -> None:
    """Test results against gradient evaluations and against seconds: single runs small, means with intervals.

    Crosses are runs that diverged.
    """
    styles = drawing.styles(summary.study.methods)
    shown = [(arm, noise) for arm in summary.study.arms for noise in summary.study.noise if summary.panel(arm, noise)]
    figure = Figure(figsize=(7.2, 0.8 + 2.2 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 2, squeeze=False, sharey="row")
    for (arm, noise), (left, right) in zip(shown, grid, strict=True):
        rows = summary.panel(arm, noise)
        apart, limits = drawing.apart(rows), drawing.test_range(rows)
        for row in rows:
            gradients = [run.result.gradient_evaluations + apart[row.contender] for run in row.runs.values()]
            seconds = [run.result.seconds for run in row.runs.values()]
            style = styles[row.contender]
            _runs_and_mean(left, row, style, gradients, row.gradient_evaluations + apart[row.contender], limits)
            _runs_and_mean(right, row, style, seconds, row.seconds, limits)
        _limit(left, limits)
        left.set_ylabel(summary.metric.header("test"), fontsize=8)
        for axes, x in ((left, "gradient evaluations per run"), (right, "training time per run, s")):
            axes.set_title(summary.title(arm, noise), fontsize=9)
            axes.set_xlabel(x, fontsize=8)
            axes.grid(color="0.92", linewidth=0.6)
            plain(axes)
    legend(figure, styles)
    save(figure, path)


def sensitivity(summary: Summary, searched: Iterable[Sensitivity], path: Path) -> None:
    """The score of every trial of the search against each hyper-parameter; crosses are trials that diverged."""
    styles, metric = drawing.styles(summary.study.methods), summary.metric
    found = drawing.by_setting(searched)
    every = (point for points in found.values() for point in itertools.chain(*points.values()))
    limits = drawing.score_range(every, metric)
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(0.4 + 3.4 * columns, 0.9 + 2.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, (setting, contenders) in zip(grid, found.items(), strict=False):
        for contender, points in contenders.items():
            style = styles[contender]
            for diverged in (False, True):
                some = [point for point in points if point.diverged == diverged]
                ys = [drawing.seen(metric.scale * point.score, limits, metric) for point in some]
                marker = "x" if diverged else MARKERS[style.symbol]
                colour = COLOURS[style.colour]
                axes.plot([point.value for point in some], ys, marker, color=colour, markersize=4, alpha=0.8)
        values = [point.value for point in itertools.chain(*contenders.values())]
        if drawing.is_log(values):
            axes.set_xlim(ticks.log_range(values))
            ticks.make_log(axes, "x")
        _limit(axes, limits)
        axes.set_xlabel(drawing.axis(summary, *setting), fontsize=8)
        axes.grid(color="0.92", linewidth=0.6)
        plain(axes)
    for axes in grid[::columns]:
        axes.set_ylabel(metric.header("validation"), fontsize=8)
    for axes in grid[len(found) :]:
        axes.set_visible(False)
    legend(figure, styles)
    save(figure, path)


def _runs_and_interval(axes: Axes, row: Row, y: int) -> None:
    metric = row.metric
    good = [metric.scale * run.test for run in row.runs.values() if run.result.diverged is None]
    mean, half = metric.scale * row.test.mean, metric.scale * (row.test.half_width or 0)
    if row.diverged:  # where it ended is so far to the left that showing it would hide everything else
        text = f"{row.diverged} of {len(row.runs)} diverged"
        axes.annotate(text, (0.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=7, color="0.35")
    else:
        axes.plot(metric.clipped(mean, half), [y, y], color="#0072B2", linewidth=4, alpha=0.35, solid_capstyle="butt")
        axes.plot([mean], [y], marker="|", color="#0072B2", markersize=9, markeredgewidth=2)
    # Equal runs go one above the other, so that all of them are seen, and stay below the next row.
    highest = max((good.count(x) - 1 for x in good), default=0)
    apart = min(0.16, 0.75 / max(1, highest))
    stacked = [y - apart * good[:i].count(x) for i, x in enumerate(good)]
    axes.plot(good, stacked, "o", color="#D55E00", markersize=3, markeredgewidth=0)


def _runs_and_mean(
    axes: Axes, row: Row, style: Style, xs: list[float], x: float, limits: tuple[float, float] | None
) -> None:
    colour, marker = COLOURS[style.colour], MARKERS[style.symbol]
    for cost, run in zip(xs, row.runs.values(), strict=True):
        shape = marker if run.result.diverged is None else "x"
        axes.plot(
            cost,
            drawing.seen(row.metric.scale * run.test, limits, row.metric),
            shape,
            color=colour,
            markersize=3,
            alpha=0.45,
        )
    bars = [[bar] for bar in drawing.bars(row.test, row.metric)]
    look: dict[str, Any] = {"fmt": marker, "color": colour, "markersize": 5, "linewidth": 1, "capsize": 2}
    axes.errorbar(x, row.metric.scale * row.test.mean, bars, **look)


def _limit(axes: Axes, limits: tuple[float, float] | None) -> None:
    if limits:
        axes.set_ylim(limits)


def legend(figure: Figure, styles: dict[str, Style], line: bool = False) -> None:
    """Who is who, below the panels: lines or symbols."""
    handles = []
    for name, style in styles.items():
        look = {"linestyle": LINES[style.dash]} if line else {"linestyle": "", "marker": MARKERS[style.symbol]}
        handles.append(Line2D([], [], label=name, color=COLOURS[style.colour], markersize=4, linewidth=1.2, **look))
    room = figure.get_figwidth() / (0.6 + 0.065 * max(map(len, styles)))  # inches of an entry, by its letters
    columns = max(1, min(5, int(room)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def _panels(summary: Summary, panel_height: float) -> tuple[Figure, dict[tuple[str, float], Axes]]:
    """A figure with a row of panels per arm and a column per condition. Sizes are in inches."""
    arms, noises = summary.study.arms, summary.study.noise
    figure = Figure(figsize=(1.2 + 3.0 * len(noises), 0.5 + panel_height * len(arms)), layout="constrained")
    grid = figure.subplots(len(arms), len(noises), squeeze=False)
    return figure, {(arm, noise): grid[i][j] for i, arm in enumerate(arms) for j, noise in enumerate(noises)}


def _label(panels: dict[tuple[str, float], Axes], summary: Summary, x: str, y: str = "") -> None:
    """Titles, and axis labels only where they are not repeated."""
    for (arm, noise), axes in panels.items():
        axes.set_title(summary.title(arm, noise), fontsize=9)
        plain(axes)
        if arm == summary.study.arms[-1]:
            axes.set_xlabel(x, fontsize=8)
        if noise == summary.study.noise[0]:
            axes.set_ylabel(y, fontsize=8)
        elif not y:
            axes.tick_params(labelleft=False)


def plain(axes: Axes) -> None:
    """Small ticks, no box."""
    axes.tick_params(labelsize=8, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, atomically; as large as all that is drawn, so that no label is cut."""
    with files.atomic(path) as temporary:
        figure.savefig(temporary, dpi=200, format="png", bbox_inches="tight", pad_inches=0.05)


def scatter(summary: Summary, found: Sequence[FlatnessCorrelation], path: Path) -> None:
    """Every measured run small, the mean of every contender with its 95 % intervals; the rank correlation above.

    Args:
        summary: the study.
        found: what to draw, a panel each; not empty.
        path: of the PNG.
    """
    styles = drawing.styles(summary.study.methods)
    rows = list(dict.fromkeys((one.arm, one.noise) for one in found))
    columns = [name for name in WORDS if any(one.measure == name for one in found)]
    size = (0.6 + 2.5 * len(columns), 1.0 + 2.5 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharey="row")
    shown = {(one.arm, one.noise, one.measure): one for one in found}
    for i, (arm, noise) in enumerate(rows):
        for j, name in enumerate(columns):
            axes, one = grid[i][j], shown.get((arm, noise, name))
            if one is None:
                axes.set_visible(False)
                continue
            for row in summary.panel(arm, noise):
                _points(axes, row, name, styles[row.contender])
            values = [x for row in summary.panel(arm, noise) for _, x, _ in flatness_correlation.points(row, name)]
            if drawing.is_log(values):
                axes.set_xlim(ticks.log_range(values))  # of the runs: an interval may reach to zero
                ticks.make_log(axes, "x")
            axes.set_title(f"{summary.title(arm, noise)}\n{flatness_tables.in_words(one)}", fontsize=7)
            axes.set_xlabel(WORDS[name], fontsize=8)
            axes.grid(color="0.92", linewidth=0.6)
            plain(axes)
        grid[i][0].set_ylabel(summary.metric.error_header, fontsize=8)
    legend(figure, styles)
    save(figure, path)


def _points(axes: Axes, row: Row, name: str, style: Style) -> None:
    """The runs of a row, and their mean with its intervals."""
    colour, marker = COLOURS[style.colour], MARKERS[style.symbol]
    for _, measure, error in flatness_correlation.points(row, name):
        axes.plot(measure, row.metric.scale * error, marker, color=colour, markersize=3, alpha=0.45)
    if mean := flatness_correlation.mean(row, name):
        x, y = mean
        right = x.half_width or 0
        left = min(right, 0.999 * x.mean) if x.mean > 0 else right  # a logarithmic axis has no place below zero
        look: dict[str, Any] = {
            "fmt": marker,
            "color": colour,
            "markersize": 5,
            "linewidth": 1,
            "capsize": 2,
            "zorder": 3,
        }
        axes.errorbar(
            x.mean, row.metric.scale * y.mean, [[bar] for bar in drawing.bars(y, row.metric)], [[left], [right]], **look
        )

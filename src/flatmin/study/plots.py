"""A study as pictures: readable in one column of a page, and without telling red from green."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatmin.study import record
from flatmin.study.summary import Row, Summary, title

#: Okabe and Ito's palette without its yellow, which is too pale for lines; after seven, the same again, dashed.
COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))


def accuracy(summary: Summary, path: Path) -> None:
    """Test accuracy of every contender: each run a dot, the mean a line with its 95 % interval."""
    names = summary.study.methods
    figure, panels = _panels(summary, panel_height=0.75 + 0.2 * len(names))
    for (arm, noise), axes in panels.items():
        for row in summary.panel(arm, noise):
            _runs_and_interval(axes, row, names.index(row.contender))
            if row.contender == summary.baseline and not row.diverged:
                axes.axvline(100 * row.accuracy.mean, color="0.75", linewidth=0.8, zorder=0)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="x", color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
    _label(panels, summary, x="test accuracy, %")
    key = f"dots: single runs   bars: mean and 95 % t-interval   grey line: mean of {summary.baseline}"
    figure.supxlabel(key, fontsize=7, color="0.35")
    _save(figure, path)


def curves(summary: Summary, path: Path) -> None:
    """Validation accuracy, mean over the seeds, against the gradients computed so far."""
    names = summary.study.methods
    styles = dict(zip(names, itertools.cycle(itertools.product(DASHES, COLOURS)), strict=False))
    figure, panels = _panels(summary, panel_height=2.1)
    for (arm, noise), axes in panels.items():
        late: list[float] = []
        for row in summary.panel(arm, noise):
            gradients, means = _mean_curve(row)
            dash, colour = styles[row.contender]
            axes.plot(gradients, means, color=colour, linestyle=dash, linewidth=1.2, label=row.contender)
            late += [] if row.diverged else means[len(means) // 5 :]
        if late:  # the rise from guessing, and falling back to it, would squeeze what matters into a corner
            margin = 0.04 * (max(late) - min(late)) + 0.1
            axes.set_ylim(min(late) - margin, max(late) + margin)
        axes.grid(color="0.92", linewidth=0.6)
    _label(panels, summary, x="gradient evaluations", y="validation accuracy, %")
    handles = {h.get_label(): h for axes in panels.values() for h in axes.get_lines()}
    shown = [handles[name] for name in names if name in handles]
    figure.legend(handles=shown, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    _save(figure, path)


def _runs_and_interval(axes: Axes, row: Row, y: int) -> None:
    good = [100 * run.accuracy for run in row.runs.values() if run.result.diverged is None]
    mean, half = 100 * row.accuracy.mean, 100 * (row.accuracy.half_width or 0)
    if row.diverged:  # where it ended is so far to the left that showing it would hide everything else
        text = f"{row.diverged} of {len(row.runs)} diverged"
        axes.annotate(text, (0.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=7, color="0.35")
    else:
        axes.plot([mean - half, mean + half], [y, y], color="#0072B2", linewidth=4, alpha=0.35, solid_capstyle="butt")
        axes.plot([mean], [y], marker="|", color="#0072B2", markersize=9, markeredgewidth=2)
    # Equal runs go one above the other, so that all of them are seen.
    stacked = [y - 0.16 * good[:i].count(x) for i, x in enumerate(good)]
    axes.plot(good, stacked, "o", color="#D55E00", markersize=3, markeredgewidth=0)


def _mean_curve(row: Row) -> tuple[list[float], list[float]]:
    """Gradient evaluations and mean validation accuracy in percent; a diverged run stays where it ended."""
    runs = [record.metrics(run.folder) for run in row.runs.values()]
    longest = max(runs, key=len)
    padded = [[*run, *[run[-1]] * (len(longest) - len(run))] for run in runs]
    accuracies = [[line["validation_accuracy"] for line in run] for run in padded]
    means = [100 * statistics.fmean(epoch) for epoch in zip(*accuracies, strict=True)]
    return [line["gradient_evaluations"] for line in longest], means


def _panels(summary: Summary, panel_height: float) -> tuple[Figure, dict[tuple[str, float], Axes]]:
    """A figure with a row of panels per arm and a column per condition. Sizes are in inches."""
    arms, noises = summary.study.arms, summary.study.noise
    figure = Figure(figsize=(1.2 + 3.0 * len(noises), 0.5 + panel_height * len(arms)), layout="constrained")
    grid = figure.subplots(len(arms), len(noises), squeeze=False)
    return figure, {(arm, noise): grid[i][j] for i, arm in enumerate(arms) for j, noise in enumerate(noises)}


def _label(panels: dict[tuple[str, float], Axes], summary: Summary, x: str, y: str = "") -> None:
    """Titles, and axis labels only where they are not repeated."""
    for (arm, noise), axes in panels.items():
        axes.set_title(title(arm, noise), fontsize=9)
        axes.tick_params(labelsize=8, length=2)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if arm == summary.study.arms[-1]:
            axes.set_xlabel(x, fontsize=8)
        if noise == summary.study.noise[0]:
            axes.set_ylabel(y, fontsize=8)
        elif not y:
            axes.tick_params(labelleft=False)


def _save(figure: Figure, path: Path) -> None:
    with record.atomic(path) as temporary:
        figure.savefig(temporary, dpi=200, format="png")

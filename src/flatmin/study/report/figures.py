"""A study as interactive plots: what plotly.js draws, as plain dictionaries.

Every trace says in `meta` whose it is, which is what the page's switches go by.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from flatmin.study.metric import Metric
from flatmin.study.report import drawing, flatness_correlation, flatness_tables, plotly
from flatmin.study.report.axes import log_layout
from flatmin.study.report.drawing import Style
from flatmin.study.report.flatness_correlation import HEADS, WORDS
from flatmin.study.report.plotly import Trace
from flatmin.study.report.sensitivity import Sensitivity
from flatmin.study.report.summary import Finished, Row, Summary
from flatmin.study.stats import Interval
from flatmin.study.training.record import Result

#: Where a run, or the median of its row, goes along the axis of costs.
Cost = Callable[[Row, Row | Result], float]


@dataclass(frozen=True)
class Figure:
    """One plot.

    Args:
        title: what it shows, in words.
        traces: plotly's.
        layout: plotly's.
        note: what the reader would miss otherwise; may be empty.
    """

    title: str
    traces: list[Trace]
    layout: dict[str, Any]
    note: str = ""


def cost(summary: Summary) -> Iterator[Figure]:
    """Test results against gradient evaluations and against seconds, one pair per arm and condition."""
    styles = drawing.styles(summary.study.methods)
    for arm, noise in _panels(summary):
        rows = summary.panel(arm, noise)
        apart = drawing.apart(rows)
        limits = drawing.test_range(rows)
        note = " ".join(_divergence(row) for row in rows if row.diverged)

        def layout(x: str, limits: tuple[float, float] | None = limits) -> dict[str, Any]:
            return plotly.layout(x, plotly.safe(summary.metric.header("test")), limits)

        for words, x, cost_of in (
            ("gradient evaluations", "gradient evaluations per run", _gradients(apart)),
            ("seconds", "training time per run, s", _seconds),
        ):
            traces = [trace for row in rows for trace in _runs_and_mean(row, styles[row.contender], cost_of, limits)]
            yield Figure(f"{summary.title(arm, noise)}, by {words}", traces, layout(x), note)


def curves(summary: Summary) -> Iterator[Figure]:
    """The metric on the validation split against gradient evaluations: every seed thin, their mean on top."""
    if not drawing.has_curves(summary):
        return
    styles, metric = drawing.styles(summary.study.methods), summary.metric
    for arm, noise in _panels(summary):
        seeds, means, drawn = [], [], []
        for row in summary.panel(arm, noise):
            style, lines = styles[row.contender], drawing.metrics(row)
            for seed, run in zip(row.runs, lines, strict=True):
                seeds.append(
                    plotly.line(
                        row.contender, f"{row.contender}, seed {seed}", style, *drawing.curve(run, metric), metric.unit
                    )
                )
                seeds[-1] |= {"opacity": 0.3, "line": seeds[-1]["line"] | {"width": 1}}
            mean = drawing.mean_curve(lines, metric)
            means.append(
                plotly.line(row.contender, f"{row.contender}, mean of {len(lines)}", style, *mean, metric.unit)
            )
            drawn.append((row, mean[1]))
        layout = plotly.layout("gradient evaluations", plotly.safe(metric.header("validation")), drawing.late(drawn))
        yield Figure(summary.title(arm, noise), [*seeds, *means], layout)


def sensitivity(summary: Summary, found: Iterable[Sensitivity]) -> Iterator[Figure]:
    """The score of every trial of the search against each hyper-parameter."""
    styles, metric = drawing.styles(summary.study.methods), summary.metric
    for (name, noise), contenders in drawing.by_setting(found).items():
        limits = drawing.score_range(itertools.chain(*contenders.values()), metric)
        traces = []
        for contender, points in contenders.items():
            style, xs = styles[contender], [point.value for point in points]
            texts = [
                f"{plotly.safe(contender)}: {plotly.safe(name)} {p.value:g}, {_shown(metric, p.score)}" for p in points
            ]
            ys = [drawing.seen(metric.scale * point.score, limits, metric) for point in points]
            marker = plotly.marker(style, 8, [point.diverged for point in points])
            traces.append(plotly.points(contender, xs, ys, texts, marker))
        layout = plotly.layout(
            plotly.safe(drawing.axis(summary, name, noise)), plotly.safe(metric.header("validation")), limits
        )
        values = [point.value for point in itertools.chain(*contenders.values())]
        if drawing.is_log(values):
            layout["xaxis"] |= log_layout(values)
        yield Figure(drawing.axis(summary, name, noise), traces, layout)


def _runs_and_mean(row: Row, style: Style, cost_of: Cost, limits: tuple[float, float] | None) -> Iterator[Trace]:
    name, results = plotly.safe(row.contender), [run.result for run in row.runs.values()]
    texts = [f"{name}, seed {seed}: {_in_words(run)}" for seed, run in row.runs.items()]
    ys = [drawing.seen(row.metric.scale * run.test, limits, row.metric) for run in row.runs.values()]
    diverged = [result.diverged is not None for result in results]
    marker = plotly.marker(style, 6, diverged) | {"opacity": [1 if bad else 0.4 for bad in diverged]}
    yield plotly.points(row.contender, [cost_of(row, result) for result in results], ys, texts, marker)
    text = f"{name}, mean of {row.test.n}: {_written(row.metric, row.test)}, "
    text += f"{row.gradient_evaluations:g} gradients, {row.seconds:.2f} s"
    mean = plotly.points(
        row.contender, [cost_of(row, row)], [row.metric.scale * row.test.mean], [text], plotly.marker(style, 11)
    )
    look = {"thickness": 1.5, "width": 4, "color": plotly.colour(style)}
    yield mean | {"error_y": plotly.bars(*drawing.bars(row.test, row.metric)) | look}


def _shown(metric: Metric, value: float) -> str:
    """A value with its unit, safe for plotly."""
    return plotly.safe(f"{metric.number(value)} {metric.unit}".strip())


def _written(metric: Metric, interval: Interval) -> str:
    """An interval with its unit, likewise."""
    return plotly.safe(f"{metric.written(interval)} {metric.unit}".strip())


def _gradients(apart: dict[str, float]) -> Cost:
    return lambda row, what: what.gradient_evaluations + apart[row.contender]


def _seconds(row: Row, what: Row | Result) -> float:
    return what.seconds


def _in_words(run: Finished) -> str:
    result = run.result
    ended = "" if result.diverged is None else f", diverged in epoch {result.diverged:g}"
    return f"{_shown(result.metric, run.test)}, {result.gradient_evaluations} gradients, {result.seconds:.2f} s{ended}"


def _divergence(row: Row) -> str:
    return (
        f"{row.contender}: {row.diverged} of {len(row.runs)} runs diverged, × at the {row.metric.worse_edge} edge; "
        f"mean {_written(row.metric, row.test)}."
    )


def _panels(summary: Summary) -> Iterator[tuple[str, float]]:
    """The arms and conditions that have a complete run."""
    for arm in summary.study.arms:
        for noise in summary.study.noise:
            if summary.panel(arm, noise):
                yield arm, noise


def flatness_scatter(summary: Summary) -> Iterator[Figure]:
    """One for each measure, arm and condition; none if nothing was measured."""
    styles = drawing.styles(summary.study.methods)
    for one in flatness_correlation.correlations(summary):
        rows, name = summary.panel(one.arm, one.noise), one.measure
        traces = [trace for row in rows for trace in _runs_against_flatness(row, name, styles[row.contender])]
        layout = plotly.layout(WORDS[name], plotly.safe(summary.metric.error_header), None)
        values = [x for row in rows for _, x, _ in flatness_correlation.points(row, name)]
        if drawing.is_log(values):
            layout["xaxis"] |= log_layout(values)
        yield Figure(
            f"{HEADS[name]}, {summary.title(one.arm, one.noise)}", traces, layout, flatness_tables.in_words(one) + "."
        )


def _runs_against_flatness(row: Row, name: str, style: Style) -> Iterator[Trace]:
    found, shown = [*flatness_correlation.points(row, name)], plotly.safe(row.contender)
    mean = flatness_correlation.mean(row, name)
    if mean is None:
        return
    metric = row.metric
    word = "error" if metric.ends else plotly.safe(metric.error_header)
    texts = [f"{shown}, seed {seed}: {word} {_shown(metric, y)}, {HEADS[name]} {x:.3g}" for seed, x, y in found]
    marker = plotly.marker(style, 6, [False] * len(found)) | {"opacity": 0.45}
    yield plotly.points(row.contender, [x for _, x, _ in found], [metric.scale * y for _, _, y in found], texts, marker)
    measure, error = mean
    text = (
        f"{shown}, mean of {error.n}: {word} {_shown(metric, error.mean)}, "
        f"{HEADS[name]} {flatness_tables.number(measure)}"
    )
    bars = {"thickness": 1.5, "width": 4, "color": plotly.colour(style)}
    yield {
        **plotly.points(row.contender, [measure.mean], [metric.scale * error.mean], [text], plotly.marker(style, 11)),
        "error_x": {"array": [measure.half_width or 0], **bars},
        "error_y": plotly.bars(*drawing.bars(error, metric)) | bars,
    }

"""A study as one HTML page, see `flatmin.study.report.standalone`."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatmin.study import tuning as tuning_file
from flatmin.study.report import (
    conclusions,
    drawing,
    experimental_setup,
    figures,
    flatness_tables,
    robustness_tables,
    standalone,
    tables,
)
from flatmin.study.report.conclusions import Line
from flatmin.study.report.figures import Figure
from flatmin.study.report.sensitivity import Sensitivity
from flatmin.study.report.summary import Summary


def write(
    summary: Summary,
    results: dict[str, Any],
    tuning: dict[str, Any] | None,
    searched: Sequence[Sensitivity],
    out: Path,
) -> None:
    """Write `report.html` into the folder `out`, atomically.

    Args:
        summary: the study.
        results: the same as `results.json` holds it.
        tuning: what `tuning.json` holds, if there was a search.
        searched: how much its settings matter; empty without one.
        out: the study's folder.
    """
    recipe = (out / "study.toml").read_text(encoding="utf-8")
    text = render(summary, results, tuning, searched, out.resolve().name, recipe)
    standalone.write(text, out / "report.html")


def render(
    summary: Summary,
    results: dict[str, Any],
    tuning: dict[str, Any] | None,
    searched: Sequence[Sensitivity],
    name: str,
    recipe: str,
) -> str:
    """The page of the study `name`; `recipe` is its study.toml."""
    everything = runs(summary, results)
    plots = [
        ("cost", f"{summary.metric.name[:1].upper()}{summary.metric.name[1:]} against cost", figures.cost(summary)),
        ("curves", "Learning curves", figures.curves(summary)),
        ("sensitivity", "Sensitivity to settings", figures.sensitivity(summary, searched)),
        ("flatness", "Flatness and test error", figures.flatness_scatter(summary)),
    ]
    sections: list[tuple[str, str, list[tuple[int, Figure]]]] = []
    shown: list[Figure] = []
    for key, heading, drawn in plots:
        found = list(enumerate(drawn, start=len(shown)))
        shown += [figure for _, figure in found]
        sections.append((key, heading, found))
    return standalone.render(
        "report.html",
        [{"traces": figure.traces, "layout": figure.layout} for figure in shown],
        forest=_forest(summary),
        headline=experimental_setup.headline(name, summary.study),
        summary=summary,
        results=results,
        tuning=tuning,
        cases=tuning_file.cases(tuning) if tuning else {},
        searched=searched,
        title=summary.title,
        metric=summary.metric,
        conditions=summary.has_conditions,
        named=tables.named,
        protocol=experimental_setup.in_words(summary),
        panels=[(heading, [tables.cells(summary, row) for row in rows]) for heading, rows in tables.panels(summary)],
        headers=tables.headers(summary),
        legend=tables.legend(summary),
        flatness=_flatness(summary),
        robustness={"tables": [*robustness_tables.tables(summary)], "legend": robustness_tables.legend(summary)},
        runs=everything,
        states=_counts(everything),
        recipe=recipe,
        target=(drawing.has_curves(summary) and results.get("time_to_target")) or {"targets": []},
        commands=experimental_setup.commands(summary, results),
        styles=drawing.styles(summary.study.methods),
        sections=sections,
    )


def _forest(summary: Summary) -> dict[str, Any]:
    """The forest plots; places are in percent of their width."""
    panels = {(rows[0].arm, rows[0].noise): heading for heading, rows in tables.panels(summary)}
    lines = {key: conclusions.lines(summary, *key) for key in panels}
    low, high = limits = conclusions.limits(lines.values())

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    def placed(line: Line) -> dict[str, Any]:
        outside = line.mean is not None and not low <= line.mean <= high
        return {
            **dataclasses.asdict(line),
            "mean": None if outside else place(line.mean),
            "low": place(line.low),
            "high": place(line.high),
            "cut_low": line.ends is not None and line.ends[0] < low,
            "cut_high": line.ends is not None and line.ends[1] > high,
        }

    return {
        "zero": place(0.0),
        "ticks": [(f"{tick:g}", place(tick)) for tick in conclusions.ticks(limits)],
        "remarks": conclusions.remarks(summary),
        "panels": [
            {
                "heading": heading,
                "sentence": conclusions.sentence(summary, *key),
                "lines": [placed(line) for line in lines[key]],
            }
            for key, heading in panels.items()
        ],
    }


def _flatness(summary: Summary) -> dict[str, Any] | None:
    """The tables of flatness; None if nothing was measured."""
    panels = [
        (heading, [flatness_tables.cells(row) for row in rows]) for heading, rows in flatness_tables.panels(summary)
    ]
    if not panels:
        return None
    return {
        "headers": flatness_tables.headers(summary),
        "panels": panels,
        "correlated": flatness_tables.CORRELATED,
        "correlations": [*flatness_tables.correlations(summary)],
        "legend": flatness_tables.legend(summary),
    }


def runs(summary: Summary, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Every final run that the study asks for; those that are not complete have only a name."""
    study = summary.study
    found = {_key(run): run for run in results["runs"]}
    names = ("arm", "noise", "contender", "seed")
    wanted = itertools.product(study.arms, study.noise, study.methods, range(study.seeds))
    everything = [found.get(key, dict(zip(names, key, strict=True))) for key in wanted]
    return [{**run, "state": _state(run)} for run in everything]


def _key(run: dict[str, Any]) -> tuple[Any, ...]:
    return run["arm"], run["noise"], run["contender"], run["seed"]


def _counts(runs: list[dict[str, Any]]) -> str:
    """`34 complete, 1 diverged`."""
    kinds = Counter(run["state"].partition(" in ")[0] for run in runs)
    return ", ".join(f"{kinds[kind]} {kind}" for kind in ("complete", "diverged", "not complete") if kinds[kind])


def _state(run: dict[str, Any]) -> str:
    """What became of a run, in words."""
    if "diverged" not in run:
        return "not complete"
    return "complete" if run["diverged"] is None else f"diverged in epoch {run['diverged']:g}"

"""A study as one HTML page that needs nothing but a browser: no server, no network.

The page is a template (`page/`) that Jinja fills and escapes. A content security policy forbids it every load and every
script but its own two, so that a name that slipped through could do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from flatmin.study import drawing, figures, protocol, record, tables
from flatmin.study.drawing import COLOURS
from flatmin.study.figures import Figure
from flatmin.study.sensitivity import Sensitivity
from flatmin.study.summary import Summary, title


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
    with record.atomic(out / "report.html") as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="\n")


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
    scripts = [_script(_plotly()), _script(_file("report.js"))]
    plots = [
        ("cost", "Accuracy against cost", figures.cost(summary)),
        ("curves", "Learning curves", figures.curves(summary)),
        ("sensitivity", "Sensitivity to settings", figures.sensitivity(summary, searched)),
    ]
    sections: list[tuple[str, str, list[tuple[int, Figure]]]] = []
    shown: list[Figure] = []
    for key, heading, drawn in plots:
        found = list(enumerate(drawn, start=len(shown)))
        shown += [figure for _, figure in found]
        sections.append((key, heading, found))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # no browser reads NaN
    return environment.from_string(_file("report.html")).render(
        headline=protocol.headline(name, summary.study),
        summary=summary,
        results=results,
        tuning=tuning,
        searched=searched,
        title=title,
        named=tables.named,
        protocol=protocol.in_words(summary),
        panels=[(heading, [tables.cells(row) for row in rows]) for heading, rows in tables.panels(summary)],
        headers=tables.headers(summary),
        legend=tables.legend(summary),
        runs=everything,
        states=_counts(everything),
        recipe=recipe,
        target=results.get("time_to_target") or {"targets": []},
        commands=protocol.commands(summary, results),
        styles=drawing.styles(summary.study.methods),
        colours=COLOURS,
        sections=sections,
        data=[{"traces": figure.traces, "layout": figure.layout} for figure in shown],
        css=Markup(_file("report.css")),
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
    )


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
    if "test_accuracy" not in run:
        return "not complete"
    return "complete" if run["diverged"] is None else f"diverged in epoch {run['diverged']:g}"


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _file(name: str) -> str:
    return (resources.files("flatmin.study") / "page" / name).read_text(encoding="utf-8")


def _script(text: str) -> Markup:
    """`text` as the inside of a script element; nothing in it may look like that element's end."""
    text = re.sub(r"</(?=script)|<(?=!--)", lambda start: "<\\" + start[0][1:], text, flags=re.IGNORECASE)
    return Markup(text.replace("\r\n", "\n"))  # as the browser reads it, so that its hash is right


def _hash(script: str) -> str:
    """How a content security policy names one script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

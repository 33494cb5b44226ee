"""What interactive plots are made of: points, lines and axes as plotly.js wants them.

Colours are names of CSS variables, so that they follow the page's light or dark scheme. Plotly reads HTML in what it
shows, so names are escaped here.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from flatmin.study.report.drawing import Style

Trace = dict[str, Any]


def points(contender: str, xs: list[float], ys: list[float], texts: list[str], marker: dict[str, Any]) -> Trace:
    """Points of a contender, each with its text."""
    shared = {"type": "scatter", "mode": "markers", "hovertemplate": "%{text}<extra></extra>"}
    return {**shared, "meta": contender, "name": safe(contender), "x": xs, "y": ys, "text": texts, "marker": marker}


def line(contender: str, name: str, style: Style, xs: list[float], ys: list[float], unit: str) -> Trace:
    """A learning curve of a contender."""
    look = {"color": colour(style), "dash": style.dash, "width": 2}
    number = "%{y:.2f} %" if unit == "%" else f"%{{y:.4g}} {safe(unit)}".strip()
    hover = f"%{{fullData.name}}: {number} after %{{x}} gradients<extra></extra>"
    shared = {"type": "scatter", "mode": "lines", "hovertemplate": hover}
    return {**shared, "meta": contender, "name": safe(name), "x": xs, "y": ys, "line": look}


def marker(style: Style, size: int, diverged: Sequence[bool] = (False,)) -> dict[str, Any]:
    """The contender's symbol for each point; a cross, and a larger one, for what diverged."""
    symbols = ["x-thin-open" if bad else style.symbol for bad in diverged]
    sizes = [max(size, 10) if bad else size for bad in diverged]
    strokes = [2 if bad else 0 for bad in diverged]
    return {"symbol": symbols, "size": sizes, "color": colour(style), "line": {"width": strokes}, "opacity": 1}


def bars(below: float, above: float) -> dict[str, Any]:
    """Error bars of one point, of unequal lengths."""
    return {"type": "data", "symmetric": False, "arrayminus": [below], "array": [above]}


def colour(style: Style) -> str:
    """The CSS variable of a contender's colour."""
    return f"var(--c{style.colour})"


def layout(x: str, y: str, limits: tuple[float, float] | None) -> dict[str, Any]:
    """Named axes, and the range of y."""
    yaxis = {"title": {"text": y}} | ({"range": limits} if limits else {})
    return {"xaxis": {"title": {"text": x}}, "yaxis": yaxis}


def safe(text: str) -> str:
    """`text` with nothing in it that Plotly would take for markup."""
    return html.escape(text, quote=False)

"""Measured numbers as Markdown: those of one method, and those of one condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flatmin.study.report.summary import title
from flatmin.study.report.tables import named, p_value, percent
from markdown_table import table
from overview import page_of
from results import Row, Study
from results import study as load

#: The studies that may have a method, a protocol each; the one to prefer first.
OF_A_METHOD = (
    ("family_searched", "digits_searched", "digits_tilted"),
    ("fashion_mnist_searched",),
    ("family", "digits"),
    ("family_grads", "digits_grads"),
)
#: So many contenders a table of one condition shows at first, and the plain optimizers.
MOST_ROWS = 12


def of_method(name: str, folder: Path, link: Callable[[str], str]) -> str:
    """What was measured of a method: a table of every protocol under which it was.

    Args:
        name: of the registry entry.
        folder: of the results.
        link: from a path under `docs/` to what leads there from the page.
    """
    found = [found for names in OF_A_METHOD if (found := _first(names, name, folder))]
    if not found:
        return f"`{name}` has not been measured yet."
    parts, shown = [], None
    for study, rows in found:
        if [_numbers(row) for row in rows] == shown:
            parts.append(f"At equal {study.budget} it does the same: `results/{study.file}`.")
            continue
        shown = [_numbers(row) for row in rows]
        several = len({row.contender for row in rows}) > 1
        columns = {"optimizer": ":--"} if several else {}
        columns |= {"arm": ":--", "label noise": "--:", **_columns(study, rows)}
        cells = [[*[row.contender] * several, row.arm, f"{100 * row.noise:g} %", *_cells(row, rows)] for row in rows]
        about = f"[What this study shows, and what it does not]({link(study.page)})"
        parts += [f"{study.decay}, equal {study.budget}:", table(columns, cells), *_diverged(rows)]
        parts.append(small(f"{study.source()} {about}."))
    parts.append(
        "Test accuracy: mean and 95 % interval over n seeds. Δ is paired by seed. p is Holm's, over all methods of the "
        "study. Default is the published radius at the usual learning rate, tuned the winner of a search on validation "
        "data."
    )
    return "\n\n".join(parts)


def of_condition(
    study: str, arm: str, noise: float, folder: Path, link: Callable[[str], str], most: int | None = MOST_ROWS
) -> str:
    """The contenders of a study under one condition, the best first.

    Args:
        study: a key of `results.STUDIES`.
        arm: "default" or "tuned".
        noise: the fraction of training labels replaced.
        folder: of the results.
        link: from a path under `docs/` to what leads there from the page.
        most: so many are shown, and the plain optimizers; None for all.

    Raises:
        ValueError: there are no such numbers.
    """
    found = load(study, folder)
    rows = [row for row in found.rows if (row.arm, row.noise) == (arm, noise)] if found else []
    if found is None or not rows:
        raise ValueError(f"{study} has no rows of {title(arm, noise)} in {folder}")
    best = sorted(rows, key=lambda row: row.accuracy.mean, reverse=True)
    shown = [row for i, row in enumerate(best) if most is None or i < most or row.method == "plain"]
    cells = [[f"[{row.contender}]({link(page_of(row.method))})", *_cells(row, shown)] for row in shown]
    left_out = [f"The best of {len(rows)} and the plain optimizers; the others are in the file."]
    note = small(f"{found.decay}, equal {found.budget}, {found.source()}")
    parts = [table({"method": ":--", **_columns(found, shown)}, cells), *_diverged(shown)]
    return "\n\n".join([*parts, *(left_out if len(shown) < len(rows) else []), note])


def _first(studies: Sequence[str], method: str, folder: Path) -> tuple[Study, list[Row]] | None:
    """The first of some studies that has the method, and its rows; clean labels first, default settings first."""
    for name in studies:
        found = load(name, folder)
        rows = [row for row in found.rows if row.method == method] if found else []
        if found and rows:
            return found, sorted(rows, key=lambda row: (row.noise, row.arm))
    return None


def _columns(study: Study, rows: Sequence[Row]) -> dict[str, str]:
    """The headers of `_cells`; p and the memorised labels where the study has them."""
    columns = {"test accuracy, %": "--:", "n": "--:", f"Δ to {study.baseline}": "--:", "gradients": "--:"}
    columns |= {"p": "--:"} if _have(rows, "p") else {}
    columns |= {"memorised, %": "--:"} if _have(rows, "memorised") else {}
    return columns | {"settings": ":--"}


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    """The numbers of a row in a table of `rows`."""
    p = [p_value(row.p)] if _have(rows, "p") else []
    memorised = ["–" if row.memorised is None else f"{100 * row.memorised:.1f}"] if _have(rows, "memorised") else []
    return [*_numbers(row), *p, *memorised, named(row.settings)]


def _have(rows: Sequence[Row], number: str) -> bool:
    return any(getattr(row, number) is not None for row in rows)


def _numbers(row: Row) -> list[str]:
    """Accuracy, n, difference and gradient evaluations."""
    return [
        percent(row.accuracy) + " †" * bool(row.diverged),
        str(row.accuracy.n),
        percent(row.difference, sign="+") if row.difference else "–",
        f"{row.gradient_evaluations:g}",
    ]


def _diverged(rows: Sequence[Row]) -> list[str]:
    """A line on the runs that diverged, if any did."""
    counts = [f"{row.contender}, {title(row.arm, row.noise)}: {row.diverged}" for row in rows if row.diverged]
    return [f"† Runs that diverged, and count with what they ended at. {'; '.join(counts)}."] if counts else []


def small(text: str) -> str:
    """In small print; see docs/extra.css."""
    return f"{text}\n{{ .source }}"

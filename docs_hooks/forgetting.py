"""What a study of text measured, as Markdown: bits per character, rounding, what is forgotten, rank correlations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flatmin.study.metric import Metric
from flatmin.study.report.flatness_correlation import HEADS
from flatmin.study.report.flatness_tables import number
from flatmin.study.report.tables import named, p_value
from flatmin.study.stats import Interval
from markdown_table import table
from measured import small
from results import study as load

#: Group and level -> what is correlated, in words.
LOST = {
    ("forgetting", "lost"): "forgotten",
    ("rounding", "4"): "lost at 4 bits",
    ("rounding", "3"): "lost at 3 bits",
    ("weight_noise", "0.1"): "lost at 10 % noise",
}


def of_text(study: str, folder: Path) -> str:
    """All contenders of a study of text under its only condition, in the order of the study.

    Args:
        study: a key of `results.FILES`.
        folder: of the results.

    Raises:
        ValueError: there are no such numbers.
    """
    found = load(study, folder)
    if found is None or "robustness" not in found.content:
        raise ValueError(f"{study} has no forgetting in {folder}")
    content, metric = found.content, Metric(**found.content["metric"])
    rows, measured = content["table"], content["robustness"]
    numbers = {
        row["contender"]: {(one["group"], one["level"]): one for one in row["numbers"]} for row in measured["table"]
    }

    def written(one: dict[str, Any] | None, sign: str = "") -> str:
        return metric.written(Interval(**one), sign) if one else "–"

    def cell(name: str, group: str, level: str, what: str = "mean") -> str:
        return written(numbers[name][group, level][what], "+" if what == "difference" else "")

    def relative(name: str) -> str:
        one = numbers[name]["forgetting", "lost"]["relative"]
        return f"{100 * one['mean']:+.1f} ± {100 * one['half_width']:.1f}" if one else "–"

    first = [
        [
            row["contender"],
            written(row["test"]),
            written(row["difference"], "+"),
            p_value(row["p_holm"]),
            *(cell(row["contender"], "rounding", bits) for bits in ("8", "4", "3")),
            f"{row['gradient_evaluations']:g}",
            named(row["settings"]),
        ]
        for row in rows
    ]
    second = [
        [
            name,
            cell(name, "forgetting", "after"),
            cell(name, "forgetting", "lost"),
            cell(name, "forgetting", "lost", "difference"),
            relative(name),
            cell(name, "forgetting", "second"),
        ]
        for name in numbers
    ]
    baseline, n = found.baseline, rows[0]["test"]["n"]
    columns = dict.fromkeys(("test", f"Δ to {baseline}", "p, Holm", "8 bits", "4 bits", "3 bits", "gradients"), "--:")
    columns = {"method": ":--", **columns, "settings": ":--"}
    after = {"method": ":--"}
    after |= dict.fromkeys(("first text", "forgotten", f"Δ to {baseline}", "in %", "second text"), "--:")
    return "\n\n".join(
        [
            f"{metric.name[:1].upper()}{metric.name[1:]}, mean and 95 % interval over {n} seeds; lower is better:",
            table(columns, first),
            "After the training on the second text:",
            table(after, second),
            "Rank correlation over the methods within a seed, mean and 95 % interval over the seeds. Positive means "
            "that flatter weights lose less:",
            table({"": ":--", **dict.fromkeys(HEADS.values(), "--:")}, _correlations(measured)),
            small(f"Equal {found.budget}, {found.source()}"),
        ]
    )


def _correlations(measured: dict[str, Any]) -> list[list[str]]:
    """A row for each of `LOST`, a cell for each measure of flatness."""
    found = {(one["group"], one["level"], one["measure"]): one["seeds"] for one in measured["correlations"]}

    def cell(key: tuple[str, str], measure: str) -> str:
        seeds = found.get((*key, measure))
        return number(Interval(**seeds), 2) if seeds else "–"

    return [[words, *(cell(key, measure) for measure in HEADS)] for key, words in LOST.items()]

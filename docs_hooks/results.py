"""The published studies: what `flatmin compare` wrote, one JSON file of `results/` each."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatmin.study.contender import Contender
from flatmin.study.stats import Interval

#: A study -> its file, and the page that says what it shows and what it does not.
STUDIES = {
    "digits": ("digits", "digits-fixed-decay.md"),
    "digits_searched": ("digits_searched", "digits.md"),
    "digits_searched_grads": ("digits_searched_grads", "digits.md"),
    "digits_layernorm": ("digits_layernorm", "digits-layernorm.md"),
    "digits_tilted": ("digits_tilted", "own-method.md"),
    "digits_grads": ("digits_grads", "digits-fixed-decay.md"),
    "family": ("digits_family", "family-fixed-decay.md"),
    "family_grads": ("digits_family_grads", "family-fixed-decay.md"),
    "family_searched": ("digits_family_searched", "family.md"),
    "fashion_mnist": ("fashion_mnist", "results.md"),
    "fashion_mnist_searched": ("fashion_mnist_searched", "results.md"),
    "text_forgetting": ("text_forgetting", "text.md"),
}


@dataclass(frozen=True)
class Row:
    """One contender under one condition of one arm; see `flatmin.study.report.summary.Row`."""

    arm: str
    noise: float
    contender: str
    settings: dict[str, float]
    accuracy: Interval
    difference: Interval | None
    #: p of the difference, after Holm, over the study's contenders; None for the baseline and in the first studies.
    p: float | None
    #: Fraction of the wrong training labels that are predicted in the end, where there are any.
    memorised: float | None
    gradient_evaluations: float
    diverged: int

    @property
    def method(self) -> str:
        """Its registry entry."""
        return Contender.parse(self.contender).method


@dataclass(frozen=True)
class Study:
    """One file.

    Args:
        file: its name, without folder.
        page: what it shows and what it does not, a path under `docs/`.
        content: what is in it.
    """

    file: str
    page: str
    content: dict[str, Any]

    @property
    def rows(self) -> list[Row]:
        """In the order of the study."""
        return [
            Row(
                row["arm"],
                row["noise"],
                row["contender"],
                row["settings"],
                Interval(**row["test_accuracy"]),
                Interval(**row["difference"]) if row["difference"] else None,
                row.get("p_holm"),
                row.get("memorised"),
                row["gradient_evaluations"],
                row["diverged"],
            )
            for row in self.content["table"]
        ]

    @property
    def baseline(self) -> str:
        """The contender that differences refer to."""
        return str(self.content["baseline"])

    @property
    def budget(self) -> str:
        """What all contenders have the same number of."""
        return "steps" if self.content["study"]["budget"] == "steps" else "gradient evaluations"

    @property
    def decay(self) -> str:
        """How weight decay was set; the first studies did not search it."""
        return "Everything searched" if any("wd" in row.settings for row in self.rows) else "Weight decay 5e-4"

    def source(self) -> str:
        """Where the numbers come from, in a sentence: data, command, commit, date, file."""
        study = self.content["study"]
        # Where this machine kept the data is of no use to a reader; the recipe says what they are.
        command = re.sub(r" --(data|then) \S*/\S*", "", self.content["command"])
        commits = {environment["commit"] or "unknown" for environment in self.content["environments"]}
        torch = {environment["torch"] for environment in self.content["environments"]}
        return (
            f"{_what(study)}, {study['epochs']} epochs, batch {study['batch_size']}: "
            f"`{command}`, commit {', '.join(f'`{_short(c)}`' for c in sorted(commits))}, "
            f"torch {', '.join(sorted(torch))}, {self.content['date'][:10]}; every run is in `results/{self.file}`."
        )


def study(name: str, folder: Path) -> Study | None:
    """A study, if it is there.

    Args:
        name: a key of `STUDIES`.
        folder: where they are.

    Raises:
        ValueError: there is no such study.
    """
    if name not in STUDIES:
        raise ValueError(f"the study must be one of {', '.join(STUDIES)}, got {name!r}")
    file, page = STUDIES[name]
    path = folder / f"{file}.json"
    return Study(path.name, page, json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _what(study: dict[str, Any]) -> str:
    """Data and network."""
    data = Path(study["data"]).name
    if study.get("task") != "text":
        return f"{data}, {study['model']}"
    then = f", then {Path(study['then']).name}" if study["then"] else ""
    return f"{data}{then}, transformer of {study['depth']} blocks of width {study['width']}, context {study['context']}"


def _short(commit: str) -> str:
    """Ten digits, and `-dirty` if it is."""
    digits, dash, dirty = commit.partition("-")
    return digits[:10] + dash + dirty

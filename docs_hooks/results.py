"""The published studies: what `flatmin compare` wrote, one JSON file of `results/` each."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatmin.study.contender import Contender
from flatmin.study.stats import Interval

#: A study -> its file.
FILES = {
    "digits": "digits",
    "digits_searched": "digits_searched",
    "digits_searched_grads": "digits_searched_grads",
    "digits_layernorm": "digits_layernorm",
    "digits_tilted": "digits_tilted",
    "digits_grads": "digits_grads",
    "family": "digits_family",
    "family_grads": "digits_family_grads",
    "fashion_mnist": "fashion_mnist",
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
        content: what is in it.
    """

    file: str
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

    def source(self) -> str:
        """Where the numbers come from, in a sentence: data, command, commit, date, file."""
        study = self.content["study"]
        # Where this machine kept the data is of no use to a reader; the recipe says what they are.
        command = re.sub(r" --data \S*/\S*", "", self.content["command"])
        commits = {environment["commit"] or "unknown" for environment in self.content["environments"]}
        torch = {environment["torch"] for environment in self.content["environments"]}
        return (
            f"{Path(study['data']).name}, {study['model']}, {study['epochs']} epochs, batch {study['batch_size']}: "
            f"`{command}`, commit {', '.join(f'`{_short(c)}`' for c in sorted(commits))}, "
            f"torch {', '.join(sorted(torch))}, {self.content['date'][:10]}; every run is in `results/{self.file}`."
        )


def study(name: str, folder: Path) -> Study | None:
    """A study, if it is there.

    Args:
        name: a key of `FILES`.
        folder: where they are.

    Raises:
        ValueError: there is no such study.
    """
    if name not in FILES:
        raise ValueError(f"the study must be one of {', '.join(FILES)}, got {name!r}")
    path = folder / f"{FILES[name]}.json"
    return Study(path.name, json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _short(commit: str) -> str:
    """Ten digits, and `-dirty` if it is."""
    digits, dash, dirty = commit.partition("-")
    return digits[:10] + dash + dirty

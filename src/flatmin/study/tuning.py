"""The file `tuning.json`: the trials of a search and its winners.

A search with one winner for all conditions has `contenders`; one with a winner for each has `conditions`, a list with
`noise` and `contenders`. `contenders` has by name `winner` (settings), `score`, `trials`, and `finalists` if there was
a second round. `metric` says what the scores are; without it they are accuracies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flatmin.study import files
from flatmin.study.metric import Metric

Settings = dict[str, float]


class Case(NamedTuple):
    """What one winner is for.

    Args:
        contender: its name.
        noise: the condition that scores it; None for all of the study's.
    """

    contender: str
    noise: float | None = None

    def __str__(self) -> str:
        return self.contender if self.noise is None else f"{self.contender} noise-{self.noise}"


def content(cases: Mapping[Case, Mapping[str, Any]]) -> dict[str, Any]:
    """What the file holds of the cases: `contenders` or `conditions`."""
    by_noise: dict[float | None, dict[str, Any]] = {}
    for case, found in cases.items():
        by_noise.setdefault(case.noise, {})[case.contender] = found
    if None in by_noise:
        return {"contenders": by_noise[None]}
    return {"conditions": [{"noise": noise, "contenders": found} for noise, found in by_noise.items()]}


def cases(tuning: Mapping[str, Any]) -> dict[Case, dict[str, Any]]:
    """The entries of the file by case, in its order.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: it has another content.
    """
    groups = tuning.get("conditions", [{"noise": None, **tuning}])
    return {
        Case(name, None if group["noise"] is None else float(group["noise"])): found
        for group in groups
        for name, found in group["contenders"].items()
    }


def metric(tuning: Mapping[str, Any]) -> Metric:
    """What the scores of the file are."""
    return Metric.from_json(tuning.get("metric", {}))


def winners(tuning: Mapping[str, Any], noises: Iterable[float]) -> dict[float, dict[str, Settings]]:
    """The winning settings by condition and contender. A condition that was not searched has none."""
    found = cases(tuning)
    return {
        noise: {case.contender: one["winner"] for case, one in found.items() if case.noise in (None, noise)}
        for noise in noises
    }


def read_winners(path: Path, noises: Iterable[float]) -> dict[float, dict[str, Settings]]:
    """`winners` of the `tuning.json` of a study.

    Raises:
        ValueError: there is no such file, or it has another content; the message names it.
    """
    try:
        return winners(files.read_json(path), noises)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"tuned_by must be the tuning.json of a study, got {path} ({type(error).__name__}: {error})"
        ) from None


def read(out: Path) -> dict[str, Any] | None:
    """The search of the study in `out`, from its `tuning.json`; None if there is none.

    Raises:
        ValueError: the file is damaged; the message says how to get it again.
    """
    path = out / "tuning.json"
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = files.read_json(path)
        for one in cases(found).values():
            one["winner"], one["trials"]
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot read {path} ({error}); flatmin tune with the same protocol writes it anew") from None

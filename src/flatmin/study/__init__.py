"""Comparisons of optimizers on real data: paired runs, equal budgets, confidence intervals, every run kept.

For a training function of your own: `Trial`, `Outcome`, `compare`; for a base optimizer of your own: `Base`, `Setting`.
In the code, start with `config` (what a run and a study are), `tasks.task` (what a study knows of a task),
`training.loop` (one training on images) and `comparison` (a whole study).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flatmin.registry import Range as Range
    from flatmin.study.bases import Base as Base
    from flatmin.study.bases import Setting as Setting
    from flatmin.study.own_study import compare as compare
    from flatmin.study.tasks.outcome import Outcome as Outcome
    from flatmin.study.tasks.trial import Trial as Trial

#: Imported when they are asked for: every module of this package imports this file first.
_HOME = {
    "Range": "flatmin.registry",
    "Base": "flatmin.study.bases",
    "Setting": "flatmin.study.bases",
    "compare": "flatmin.study.own_study",
    "Outcome": "flatmin.study.tasks.outcome",
    "Trial": "flatmin.study.tasks.trial",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

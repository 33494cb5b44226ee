"""Studies of a training function from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from flatmin.study import comparison, config
from flatmin.study.config import Study
from flatmin.study.report.summary import Summary
from flatmin.study.tasks import own
from flatmin.study.tasks.outcome import Outcome
from flatmin.study.tasks.trial import Trial


def compare(
    task: Callable[[Trial], Outcome] | str,
    methods: Sequence[str],
    *,
    out: str | Path,
    jobs: int = 1,
    console: Console | None = None,
    **options: Any,
) -> Summary:
    """Compare optimizers on a training function, or continue that in the folder `out`: `flatmin compare` from Python.

    Args:
        task: the function, or its name as in `--task`.
        methods: the contenders, as in `--methods`.
        out: the study's folder: new, empty, or holding this same study. The report is `report.html` in it.
        jobs: worker processes, >= 1. With several, the function must be at the top of a module that can be imported,
            and a script must call `compare` under `if __name__ == "__main__":`.
        console: where progress is shown; None shows it on the terminal.
        **options: of the protocol, as those of `flatmin compare`: `base="adamw"`, `tune=16`, `seeds=5`,
            `arms=("tuned",)`, `budget="grads"`, `flatness=200`, ...

    Returns:
        The numbers, as in `results.json`.

    Raises:
        ValueError: the function cannot be imported, an unknown name, or a folder that holds something else. Nothing was
            done then.
        RunError: a run failed; the complete ones are kept, and the same call goes on.
    """
    name = task if isinstance(task, str) else own.name_of(task, jobs)
    protocol: dict[str, Any] = {**config.defaults(name), "methods": tuple(methods), **options}
    tuples = ("arms", "noise", "search", "fix")
    protocol |= {key: tuple(protocol[key]) for key in tuples if key in protocol}
    return comparison.compare(Study(**protocol), Path(out), jobs, console=console or Console())

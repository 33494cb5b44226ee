"""Studies of a training function from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from flatmin.study import comparison, config
from flatmin.study.config import Study
from flatmin.study.launchers.launcher import Launcher
from flatmin.study.launchers.local import Local
from flatmin.study.launchers.on_ray import OnRay
from flatmin.study.report.summary import Summary
from flatmin.study.tasks import own
from flatmin.study.tasks.outcome import Outcome
from flatmin.study.tasks.trial import Trial


def compare(
    task: Callable[[Trial], Outcome] | str,
    methods: Sequence[str],
    *,
    out: str | Path,
    jobs: int | None = None,
    ray: bool | str = False,
    cpus_per_run: float = 1.0,
    gpus_per_run: float = 0.0,
    console: Console | None = None,
    **options: Any,
) -> Summary:
    """Compare optimizers on a training function, or continue that in the folder `out`: `flatmin compare` from Python.

    Args:
        task: the function, or its name as in `--task`.
        methods: the contenders, as in `--methods`.
        out: the study's folder: new, empty, or holding this same study. The report is `report.html` in it.
        jobs: worker processes, >= 1; one by default. With several, the function must be at the top of a module that can
            be imported, and a script must call `compare` under `if __name__ == "__main__":`.
        ray: True executes the runs on a Ray cluster of this machine, of `jobs` cores or all; a text is the address of a
            cluster. The function may then be of a script or notebook, too.
        cpus_per_run: cores that a run reserves there, > 0.
        gpus_per_run: GPUs that a run reserves there, >= 0, such as 0.25. At 0 runs see none.
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
    launcher: Launcher = Local(1 if jobs is None else jobs)
    if ray:
        launcher = OnRay("" if ray is True else ray, jobs, cpus_per_run, gpus_per_run)
    name = task if isinstance(task, str) else own.name_of(task, 1 if ray else jobs or 1)
    protocol: dict[str, Any] = {**config.defaults(name), "methods": tuple(methods), **options}
    tuples = ("arms", "noise", "search", "fix")
    protocol |= {key: tuple(protocol[key]) for key in tuples if key in protocol}
    return comparison.compare(Study(**protocol), Path(out), launcher=launcher, console=console or Console())

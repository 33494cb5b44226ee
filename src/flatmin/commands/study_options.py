"""Options shared by the commands that take a whole protocol."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from flatmin.study import config
from flatmin.study.config import Study, Training

if TYPE_CHECKING:
    from flatmin.study.launchers.launcher import Launcher


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Where:
    """Where the runs of a study are executed; affects no number but the seconds.

    Args:
        jobs: worker processes of this machine with one thread each. Default: one per core.
        ray: execute the runs on a Ray cluster instead: the one at ADDRESS (auto, HOST:6379, ray://HOST:10001), or
            without one a cluster of --jobs cores of this machine, which only this machine can reach.
        cpus_per_run: cores that a run reserves on that cluster, > 0; torch uses one thread in any case.
        gpus_per_run: GPUs that a run reserves there, >= 0, such as 0.25; at 0 runs see none.
    """

    jobs: int = field(default_factory=cores)
    ray: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[ADDRESS]")] = None
    cpus_per_run: float = 1.0
    gpus_per_run: float = 0.0

    def launcher(self) -> Launcher:
        """What executes the runs.

        Raises:
            ValueError: a number is out of range, or Ray is wanted and is not installed.
        """
        from flatmin.study.launchers.local import Local
        from flatmin.study.launchers.on_ray import OnRay

        if self.ray is None:
            if (self.cpus_per_run, self.gpus_per_run) != (1.0, 0.0):
                raise ValueError("--cpus-per-run and --gpus-per-run are for a Ray cluster; write --ray, too")
            return Local(self.jobs)
        if len(self.ray) > 1:
            raise ValueError(f"--ray takes one address, got {' '.join(self.ray)}")
        return OnRay("".join(self.ray), self.jobs, self.cpus_per_run, self.gpus_per_run)


def defaults(command: type[Any], argv: Sequence[str]) -> Any:
    """`command` with the protocol of the recipe in `argv`, or with the default protocol of its task.

    Args:
        command: a dataclass. It takes a recipe if it has the fields `recipe` and `study`, and a task then and if it
            has the field `training`.
        argv: the arguments after the command's name.

    Returns:
        The command, or None if it takes neither.

    Raises:
        ValueError: the recipe cannot be read or is invalid.
    """
    names = {field.name for field in dataclasses.fields(command)}
    if not names & {"recipe", "training"}:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--task", default=config.IMAGES)
    try:
        found = parser.parse_known_args([*argv])[0]
    except argparse.ArgumentError:
        return command()  # the full parser reports this error with more detail
    if found.recipe and "recipe" in names:
        return command(study=config.load(Study, found.recipe), recipe=found.recipe)
    made = command()
    if "recipe" in names:
        return dataclasses.replace(made, study=dataclasses.replace(made.study, **config.defaults(found.task)))
    shared = {field.name for field in dataclasses.fields(Training)}
    more = {name: value for name, value in config.defaults(found.task).items() if name in shared}
    return dataclasses.replace(made, training=dataclasses.replace(made.training, **more))

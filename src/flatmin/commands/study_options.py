"""Options shared by the commands that take a whole protocol."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatmin.study import config
from flatmin.study.config import Study, Training


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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

"""From a run to its folder: the task is found by its name, trained, and its record written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flatmin.checks import known_name
from flatmin.study import config, files
from flatmin.study.config import IMAGES, TEXT, Run
from flatmin.study.tasks.characters import Characters
from flatmin.study.tasks.images import Images
from flatmin.study.tasks.own import Own
from flatmin.study.tasks.task import Attempt, Measure, Task
from flatmin.study.training.checkpoints import Checkpoints
from flatmin.study.training.loop import Log, Watch
from flatmin.study.training.snapshots import Snapshots
from flatmin.study.training.torchrun import Processes


def task_of(name: str) -> Task:
    """The task of this name: images, text, or `package.module:function`.

    Raises:
        ValueError: there is no such task.
    """
    if ":" in name:
        return Own(name)
    try:
        known_name("task", name, [IMAGES, TEXT])
    except ValueError as error:
        raise ValueError(f"{error}; write --task package.module:function for a training function of your own") from None
    return Images() if name == IMAGES else Characters(TEXT)


def perform(
    run: Run,
    folder: Path,
    show: Log = lambda row: None,
    processes: Processes | None = None,
    watch: Watch = lambda step, schedule, seen: None,
    weights: Snapshots | None = None,
    measure: Measure | None = None,
) -> None:
    """Train `run` and write its folder. An interrupted attempt is continued from its checkpoint.

    Args:
        run: what to train.
        folder: of the run.
        show: called with each row of metrics.
        processes: those that share the training; the first one writes.
        watch: called after each step; must be fast.
        weights: keeps the network's weights; None keeps none.
        measure: see `Attempt`.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM was received. A checkpoint was written.
        OSError: the folder cannot be written.
    """
    processes, weights, task = processes or Processes(), weights or Snapshots(None), task_of(run.task)
    checkpoints = Checkpoints(folder, write=processes.first)
    if not processes.first:
        task.train(run, Attempt(checkpoints, processes, keep=weights.keep, measure=measure))
        weights.finish()
        return
    folder.mkdir(parents=True, exist_ok=True)
    with files.atomic(folder / "config.toml") as path:
        config.save(run, path)
    metrics = folder / "metrics.jsonl"
    with files.naming(metrics):
        if metrics.is_file():
            metrics.unlink()  # a worker whose parent was just killed may still write into it
        file = metrics.open("w", encoding="utf-8")

    def log(row: dict[str, Any]) -> None:
        with files.naming(metrics):
            print(json.dumps(row, allow_nan=False), file=file, flush=True)
        show(row)

    try:
        result = task.train(run, Attempt(checkpoints, processes, log, watch, weights.keep, measure))
    finally:
        with files.naming(metrics):
            file.close()
    weights.finish()
    files.write_json(folder / "result.json", result.as_json())
    checkpoints.clear()

"""The folders of runs and of studies. All files are written atomically, so a killed process leaves no partial file.

A run folder has `config.toml` (the run), `metrics.jsonl` (a line per evaluation) and `result.json`. The last is written
at the end: a folder without it is not finished, and the run is repeated. So is a run of which one of the three files is
damaged. A run that failed leaves `error.txt`, see `flatmin.study.launchers`.

A study folder has `study.toml` (the protocol) and `env.json` (who began it). Nothing is written into any other folder.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from flatmin import __version__
from flatmin.study import config, files, pool
from flatmin.study.config import Run, Study
from flatmin.study.contender import Contender
from flatmin.study.metric import ACCURACY, Metric
from flatmin.study.training.robust import Robustness


@dataclass(frozen=True)
class Result:
    """The result of a run. Accuracies are fractions in [0, 1].

    Args:
        test: the metric on the test split after the last step; None for tuning runs.
        validation: the same on the validation split.
        gradient_evaluations: forward-backward passes, in units of whole batches; see `Counters`.
        steps: number of updates of the weights.
        seconds: of training, without evaluation.
        diverged: the epoch after which the training loss was not finite; None if it always was finite. Training ends
            there, and the metrics are those of the network at that point.
        method: the method with its hyper-parameters.
        parameters: number of trained parameters.
        environment: see `environment`.
        test_images: number of test images; 0 where they were not read or this was not recorded.
        test_correct: which test images are classified correctly: a bit per image, the first image in the highest bit of
            the first byte, in base64; see `which`.
        robustness: group -> level -> number, on the test split: accuracies after changes, and the calibration; see
            `flatmin.study.training.robust`. None where it was not measured.
        metric: what test and validation measure.
        others: further numbers that are shown, by name; None where one was not measured.
    """

    test: float | None
    validation: float
    gradient_evaluations: float
    steps: int
    seconds: float
    diverged: float | None
    method: str
    parameters: int
    environment: dict[str, Any] = field(default_factory=dict)
    test_images: int = 0
    test_correct: str = ""
    robustness: Robustness | None = None
    metric: Metric = ACCURACY
    others: dict[str, float | None] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The content of `result.json`: the fields by name, test and validation by `Metric.key`, others beside them."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        test, validation, metric, others = (found.pop(name) for name in ("test", "validation", "metric", "others"))
        measured = {metric.key("test"): test, metric.key("validation"): validation}
        return {**measured, **({"metric": metric.as_json()} if metric.as_json() else {}), **found, **others}

    @staticmethod
    def from_json(found: dict[str, Any]) -> Result:
        """The same backwards.

        Raises:
            KeyError, TypeError: something else.
        """
        own = dict(found)
        metric = Metric.from_json(own.pop("metric", {}))
        names = [f.name for f in dataclasses.fields(Result) if f.name in own]
        fixed = {name: own.pop(name) for name in names if name not in ("test", "validation")}
        test, validation = own.pop(metric.key("test")), own.pop(metric.key("validation"))
        if not isinstance(validation, int | float):
            raise TypeError(f"{metric.key('validation')} is {validation!r}")
        return Result(test, validation, **fixed, metric=metric, others=own)


#: Fields that a whole `config.toml` and a whole `study.toml` have. An older version may have written fewer others.
_OF_A_RUN = ("contender", "settings", "noise", "seed")
_OF_A_STUDY = ("methods", "arms", "noise", "seeds")
#: Numbers that every line of `metrics.jsonl` has.
_OF_A_LINE = ("epoch", "gradient_evaluations", "seconds")


def read(folder: Path) -> tuple[Run, Result] | None:
    """The run and the result in `folder`; None if it is missing, unfinished or damaged."""
    try:
        found = _run(folder), _result(folder)
        metrics(folder)
        return found
    except ValueError:
        return None


def which(result: Result) -> list[bool]:
    """Which test images a final run classifies correctly, in the order of the split; empty if it was not recorded."""
    bits: list[bool] = (
        np.unpackbits(np.frombuffer(base64.b64decode(result.test_correct), dtype=np.uint8)).astype(bool).tolist()
    )
    return bits[: result.test_images]


def damaged(folder: Path) -> Path | None:
    """The first damaged or missing file of a finished run; None for a whole run and for one that is not finished."""
    readers: dict[str, Callable[[Path], object]] = {
        "config.toml": _run,
        "result.json": _result,
        "metrics.jsonl": metrics,
    }
    for name, reading in readers.items():
        try:
            if (folder / "result.json").exists():
                reading(folder)
        except ValueError:
            return folder / name
    return None


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl` of a finished run, at least one.

    Raises:
        ValueError: the file is missing or damaged; or it does not end with the numbers of the result, so it was cut.
    """
    path, end = folder / "metrics.jsonl", _result(folder)
    numbers = (*_OF_A_LINE, end.metric.key("validation"))
    try:
        rows: list[dict[str, float]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            if not all(isinstance(row[name], int | float) for name in numbers):
                raise ValueError("a line lacks its numbers")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"cannot read {path} ({error}); delete {folder} and run the study again") from None
    if not rows or rows[-1]["gradient_evaluations"] != end.gradient_evaluations:
        raise ValueError(f"{path} lacks its last line; delete {folder} and run the study again")
    return rows


def _run(folder: Path) -> Run:
    run = config.load(Run, folder / "config.toml", _OF_A_RUN)
    if "lr" not in run.settings:
        raise ValueError(f"{folder / 'config.toml'} is damaged: its settings lack lr")
    return complete(run)


def complete(run: Run) -> Run:
    """`run` with the default settings of base and average written out, which older versions did not do."""
    try:
        default = Contender.parse(run.contender, run.average).default()
    except ValueError:  # a method that this installation does not have
        return run
    return dataclasses.replace(run, settings={**default, **run.settings})


def _result(folder: Path) -> Result:
    path = folder / "result.json"
    try:
        return Result.from_json(files.read_json(path))
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None


def read_study(out: Path) -> Study:
    """The protocol in `study.toml` of the study's folder `out`.

    Raises:
        ValueError: the file is missing or damaged; the message names it.
    """
    path = out / "study.toml"
    study = config.load(Study, path, _OF_A_STUDY)
    if (study.tune or study.tuned_by) and "tune_per_condition" not in path.read_text(encoding="utf-8"):
        # By an older version, which fixed the weight decay and had one winner for all conditions.
        study = dataclasses.replace(study, tune_per_condition=False, fix=("wd",))
    return study


def head(out: Path) -> dict[str, Any]:
    """Who began the study in `out`: its command, date and environment, from `env.json`.

    Raises:
        ValueError: the file is missing or damaged; the message says how to get it again.
    """
    path = out / "env.json"
    try:
        found = files.read_json(path)
        return {"command": found["command"], "date": found["date"], **found}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"cannot read {path} ({error}); the command that made the study, given again, writes it anew"
        ) from None


def holds(folder: Path, run: Run) -> bool:
    """Whether `folder` holds `run`, complete.

    Raises:
        ValueError: it holds another run.
    """
    found = read(folder)
    if found is not None and found[0] != (run := complete(run)):
        raise ValueError(f"{_mismatch(folder, found[0], run)} Choose another --out.")
    return found is not None


def begin_study(study: Study, out: Path, command: str | None) -> None:
    """Make `out` the folder of `study`, unless it is already.

    Several processes may call this at once. `env.json` describes who began the study; continuing does not change it.

    Raises:
        ValueError: see `check_folder`.
    """
    check_folder(study, out)
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".begin.lock"):
        check_folder(study, out)  # again, now under the lock
        if not (out / "study.toml").exists():  # first: it marks the folder as this study's
            with files.atomic(out / "study.toml") as path:
                config.save(study, path)
        try:
            head(out)
        except ValueError:
            files.write_json(out / "env.json", {"command": command, **environment(pool.THREADS)})


def check_folder(study: Study, out: Path) -> None:
    """Check that `out` is new, empty, or holds this study.

    Raises:
        ValueError: `out` holds another study or something else; the message says how to continue.
    """
    if (out / "study.toml").exists():
        held = read_study(out)
        if held != study:
            flags = " ".join(_flag(name, old) for name, (old, _) in config.differences(held, study).items())
            raise ValueError(f"{_mismatch(out, held, study)} Continue that one with {flags}, or choose another --out.")
    elif _holds_something(out):
        raise ValueError(f"{out} exists and is not a study: it has no study.toml. Choose another --out.")


def _holds_something(out: Path) -> bool:
    """Whether `out` is a file, or a folder with files that are not hidden."""
    return out.exists() and (not out.is_dir() or any(not path.name.startswith(".") for path in out.iterdir()))


def check_run_folder(out: Path) -> None:
    """Check that `out` is new, empty, or holds a run, and belongs to no study.

    Raises:
        ValueError: it is a study, is inside one, or holds something else.
    """
    for folder in (out, *out.absolute().parents):
        if (folder / "study.toml").exists():
            raise ValueError(f"{out} belongs to the study {folder}; choose another --out")
    if not (out / "config.toml").exists() and _holds_something(out):
        raise ValueError(f"{out} exists and is not a run: it has no config.toml. Choose another --out.")


def _mismatch(folder: Path, held: Run | Study, wanted: Run | Study) -> str:
    """The differences between the config in `folder` and the requested one, as a sentence."""
    pairs = config.differences(held, wanted).items()
    old = ", ".join(f"{name} = {_plain(pair[0])}" for name, pair in pairs)
    new = ", ".join(f"{name} = {_plain(pair[1])}" for name, pair in pairs)
    return f"{folder} was made with {old}; now asked: {new}."


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _flag(name: str, value: object) -> str:
    words = name.replace("_", "-")
    return f"--{'no-' * (not value)}{words}" if isinstance(value, bool) else f"--{words} {_plain(value)}".rstrip()


def environment(threads: int) -> dict[str, Any]:
    """The machine, the versions, the number of `threads` and the date."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {**_machine(), "threads_per_run": threads, "date": now}


@functools.cache
def _machine() -> dict[str, Any]:
    return {
        "flatmin": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": importlib.metadata.version("numpy"),
        "scikit-learn": importlib.metadata.version("scikit-learn"),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
    }


def _commit() -> str | None:
    """The git commit of this source tree, `-dirty` if it was changed since; None if it is not a checkout."""
    root = Path(__file__).parents[4]
    if not (root / ".git").exists():
        return None  # installed: a repository further up is not this one
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    """The name of the processor; on Linux from /proc/cpuinfo, which `platform` does not read."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()

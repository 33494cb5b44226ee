"""A study from start to end: plan the runs, do those that are missing, report. Interrupt it anywhere, run it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from flatmin.study import config, plan, pool, progress, record, report, tune
from flatmin.study.config import Run, Study
from flatmin.study.record import Result
from flatmin.study.summary import Summary
from flatmin.study.train import perform


def compare(
    study: Study, out: Path, jobs: int = 1, *, command: str | None = None, console: Console | None = None
) -> Summary:
    """Run or continue `study` in the folder `out`, then report it.

    Args:
        study: the protocol.
        out: the study's folder: new, empty, or holding this same study.
        jobs: processes that work on it, >= 1; changes no number but the seconds.
        command: what to record as the command that made the study.
        console: where to show progress; nowhere without one.

    Returns:
        The study's numbers, as `results.json` now holds them too.

    Raises:
        ValueError: an unknown name, a contender without tuned settings, or a folder that is in use or holds something
            else. Nothing was done then.
        RunError: a run failed; the complete ones are kept.
    """
    console = console or Console(quiet=True)
    if jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {jobs}")
    study = plan.canonical(study)
    settings = None if study.tune else plan.settings(study)
    _check_folder(study, out)
    with record.exclusive(out):
        _check_folder(study, out)  # again: another process may have been here in between
        _write_head(study, out, command)
        if settings is None:
            tuning = tune.choose(study, complete(tune.runs(study), out, jobs, "tuning", console))
            record.write_json(out / "tuning.json", tuning)
            settings = plan.settings(study, {name: found["winner"] for name, found in tuning["contenders"].items()})
        complete(plan.runs(study, settings), out, jobs, "training", console)
        return report.refresh(out)


def complete(runs: Mapping[str, Run], out: Path, jobs: int, label: str, console: Console) -> dict[str, Result]:
    """Do those of `runs` that `out` does not hold yet; the results of all of them, by folder.

    Raises:
        ValueError: `out` holds a complete run under one of these names with another config.
        RunError: a run failed.
    """
    missing = []
    for name, run in runs.items():
        found = record.read(out / name)
        if found is None:
            missing.append((run, out / name))
        elif found[0] != run:
            raise ValueError(f"{_mismatch(out / name, found[0], run)} Choose another --out.")
    for _ in progress.track(pool.run_all(perform, missing, jobs), len(missing), len(runs), label, console):
        pass
    return {name: found[1] for name in runs if (found := record.read(out / name))}


def _check_folder(study: Study, out: Path) -> None:
    """Raise a ValueError unless `out` is new, empty, or holds this very study."""
    if (out / "study.toml").exists():
        held = config.load(Study, out / "study.toml")
        if held != study:
            flags = " ".join(_flag(name, old) for name, (old, _) in config.differences(held, study).items())
            raise ValueError(f"{_mismatch(out, held, study)} Continue that one with {flags}, or choose another --out.")
    elif out.exists() and (not out.is_dir() or any(not path.name.startswith(".") for path in out.iterdir())):
        raise ValueError(f"{out} exists and is not a study: it has no study.toml. Choose another --out.")


def _write_head(study: Study, out: Path, command: str | None) -> None:
    """What is written before the first run. It says who began the study; continuing it does not change that."""
    if not (out / "study.toml").exists():  # first, as it is what makes the folder ours
        with record.atomic(out / "study.toml") as path:
            config.save(study, path)
    if not (out / "env.json").exists():
        record.write_json(out / "env.json", {"command": command, **record.environment(pool.THREADS)})


def _mismatch(folder: Path, held: Run | Study, wanted: Run | Study) -> str:
    pairs = config.differences(held, wanted).items()
    old = ", ".join(f"{name} = {_plain(pair[0])}" for name, pair in pairs)
    new = ", ".join(f"{name} = {_plain(pair[1])}" for name, pair in pairs)
    return f"{folder} was made with {old}; now asked: {new}."


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _flag(name: str, value: object) -> str:
    return f"--{name.replace('_', '-')} {_plain(value)}"

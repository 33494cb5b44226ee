"""The search before a study: the same number of trials for everybody, scored on the validation split.

Settings are a fixed design, not drawn as the search goes: so they do not depend on who finishes first, and any number
of processes can work on one search.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from flatmin.study import folder, plan, pool, progress, record, train
from flatmin.study.config import FIRST_TUNING_SEED, Run, Study
from flatmin.study.contender import Contender
from flatmin.study.record import Result
from flatmin.study.stats import t_interval

if TYPE_CHECKING:
    from flatmin.study.trials import Trial, Trials

#: Seconds between two looks at the trials that other processes work on.
PAUSE = 1.0

#: Failures that say nothing about the settings: a full disk, too little memory.
CIRCUMSTANCES = (OSError, MemoryError, torch.OutOfMemoryError)


def search(
    study: Study, out: Path, jobs: int = 1, console: Console | None = None, *, command: str | None = None
) -> dict[str, Any]:
    """Do or continue the search of `study` in the folder `out`, alone or together with other processes.

    Call it in as many processes, on as many machines that share the folder, as there are to help: each trial is done
    once, and the numbers are the same. It returns when all trials are finished, whoever did them.

    Args:
        study: the protocol; `study.tune` trials per contender.
        out: the study's folder: new, empty, or holding this same study.
        jobs: processes that this call starts, >= 1; changes no number.
        console: where to show progress; nowhere without one.
        command: what to record as the command that made the study.

    Returns:
        What `tuning.json` now holds: see `choose`.

    Raises:
        ValueError: no trials are asked for, an unknown name, or a folder that holds something else. Nothing was done
            then.
        RunError: a run failed before its contender had any complete trial. A later failure is a trial without score.
    """
    console = console or Console(quiet=True)
    if jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {jobs}")
    if study.tune < 1:
        raise ValueError(f"tune must be >= 1 for a search, got {study.tune}; write --tune 32")
    study = plan.canonical(study)
    plan.prepare(study, console)
    folder.begin(study, out, command)
    _work_off(study, out, jobs, console)
    tuning = choose(study, _trials(study, out).all())
    record.write_json(out / "tuning.json", tuning)
    return tuning


def design(contender: Contender, trials: int) -> list[dict[str, float]]:
    """The settings to try: the default first, then the first points of a fixed quasi-random sequence.

    The sequence is Halton's, scrambled with a fixed seed: its points fill the box evenly however many are taken, and
    contenders that search equally many hyper-parameters get the same ones.
    """
    from scipy.stats import qmc

    space = contender.space()
    points = qmc.Halton(len(space), scramble=True, seed=0).random(max(0, trials - 1))
    found = [{name: axis.at(u) for (name, axis), u in zip(space.items(), point, strict=True)} for point in points]
    return [contender.default(), *found][:trials]


def runs(study: Study, contender: str, number: int, settings: dict[str, float]) -> dict[str, Run]:
    """The runs of one trial: folder below the study -> run."""
    return {
        f"tune/trial-{number:03d}/noise-{noise}/{contender}/seed-{seed}": study.run(
            contender, settings, noise, seed, test=False
        )
        for noise in study.noise
        for seed in _seeds(study)
    }


def score(results: Iterable[Result]) -> float:
    """Mean final validation accuracy of a trial's runs; a diverged one counts with what it ended at."""
    return t_interval([result.validation_accuracy for result in results]).mean


def choose(study: Study, trials: Iterable[Trial]) -> dict[str, Any]:
    """Pick one winner per contender: what `tuning.json` holds.

    The earlier trial wins a tie, so the default setting is only left for something better. A failed trial stays in
    the record with no score and its error, and cannot win.

    Args:
        study: the protocol.
        trials: all of them, finished, by number.
    """
    found: dict[str, list[Trial]] = {name: [] for name in study.methods}
    for trial in trials:
        found[trial.contender].append(trial)
    return {
        "score": "mean final validation accuracy over conditions and seeds",
        "seeds": [*_seeds(study)],
        "contenders": {name: _choose(own) for name, own in found.items()},
    }


def winners(tuning: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The settings that won, by contender; `tuning` is what `search` returned."""
    return {name: found["winner"] for name, found in tuning["contenders"].items()}


def _choose(trials: list[Trial]) -> dict[str, Any]:
    scores = [trial.score for trial in trials if trial.score is not None]
    winner = next(trial for trial in trials if trial.score == max(scores))
    return {"winner": winner.settings, "score": winner.score, "trials": [_as_json(trial) for trial in trials]}


def _as_json(trial: Trial) -> dict[str, Any]:
    found = {"trial": trial.number, "settings": trial.settings, "score": trial.score, "diverged": trial.diverged}
    return found if trial.error is None else {**found, "error": trial.error}


def _work_off(study: Study, out: Path, jobs: int, console: Console) -> None:
    """Return when no trial is open. Waits for other processes, and takes up what they leave behind."""
    trials = _trials(study, out)
    total, said = study.tune * len(study.methods), False
    while left := trials.open():
        if free := trials.free():
            tasks = pool.run_all(work, [(study, out)] * free, jobs)
            for _ in progress.track(tasks, free, total - left + free, "tuning", console, unit="trials"):
                pass
        else:
            if not said:
                console.print(f"tuning: waiting for {left} that other processes work on", highlight=False)
            said = True
            time.sleep(PAUSE)


def work(study: Study, out: Path) -> None:
    """Do one trial, whichever is next; none if there is none to be had. Its complete runs are not repeated.

    Raises:
        RuntimeError: it failed, and its contender has no complete trial that would show that settings are to blame.
    """
    trials = _trials(study, out)
    with trials.take() as trial:
        if trial is None:
            return
        wanted = runs(study, trial.contender, trial.number, trial.settings)
        missing = {name: run for name, run in wanted.items() if not folder.holds(out / name, run)}
        try:
            for name, run in missing.items():
                train.perform(run, out / name)
        except CIRCUMSTANCES:
            raise
        except Exception as error:
            if not any(one.score is not None for one in trials.all() if one.contender == trial.contender):
                raise RuntimeError(f"{trial.contender} failed at {trial.settings}") from error
            trials.tell(trial, None, error=f"{type(error).__name__}: {error}")
            return
        found = [result for name in wanted if (result := _result(out / name))]
        trials.tell(trial, score(found), diverged=sum(result.diverged is not None for result in found))


def _result(run: Path) -> Result | None:
    found = record.read(run)
    return found[1] if found else None


def _trials(study: Study, out: Path) -> Trials:
    from flatmin.study.trials import Trials  # only a search needs Optuna

    contenders = {name: Contender.parse(name) for name in study.methods}
    designs = {name: design(contender, study.tune) for name, contender in contenders.items()}
    return Trials(out / "tune", designs, {name: contender.space() for name, contender in contenders.items()})


def _seeds(study: Study) -> range:
    return range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + study.tune_seeds)

"""The search before a study: the same number of trials for everybody, scored on the validation split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flatmin.study.config import FIRST_TUNING_SEED, Run, Study
from flatmin.study.contender import Contender
from flatmin.study.record import Result
from flatmin.study.stats import t_interval


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


def runs(study: Study) -> dict[str, Run]:
    """Every run of the search: folder below the study -> run. The contenders advance together."""
    designs = {name: design(Contender.parse(name), study.tune) for name in study.methods}
    return {
        _folder(trial, noise, name, seed): study.run(name, designs[name][trial], noise, seed, test=False)
        for trial in range(study.tune)
        for seed in _seeds(study)
        for noise in study.noise
        for name in study.methods
    }


def choose(study: Study, results: Mapping[str, Result]) -> dict[str, Any]:
    """Score every trial and pick one winner per contender: what `tuning.json` holds.

    A score is the mean final validation accuracy over conditions and tuning seeds; a diverged run counts with what
    it ended at. The earlier trial wins a tie, so the default setting is only left for something better.

    Args:
        study: the protocol.
        results: those of `runs(study)`, by folder.
    """
    return {
        "score": "mean final validation accuracy over conditions and seeds",
        "seeds": [*_seeds(study)],
        "contenders": {name: _choose(study, name, results) for name in study.methods},
    }


def _choose(study: Study, name: str, results: Mapping[str, Result]) -> dict[str, Any]:
    trials = []
    scores = []
    for trial, settings in enumerate(design(Contender.parse(name), study.tune)):
        runs = [results[_folder(trial, noise, name, seed)] for noise in study.noise for seed in _seeds(study)]
        scores.append(t_interval([run.validation_accuracy for run in runs]).mean)
        diverged = sum(run.diverged is not None for run in runs)
        trials.append({"trial": trial, "settings": settings, "score": scores[-1], "diverged": diverged})
    return {"winner": trials[scores.index(max(scores))]["settings"], "score": max(scores), "trials": trials}


def _seeds(study: Study) -> range:
    return range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + study.tune_seeds)


def _folder(trial: int, noise: float, contender: str, seed: int) -> str:
    return f"tune/trial-{trial:03d}/noise-{noise}/{contender}/seed-{seed}"

"""The winners of a search, from its finished trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flatmin.study import tuning as tuning_file
from flatmin.study.metric import ACCURACY, Metric
from flatmin.study.pool import RunError
from flatmin.study.search.rounds import Round
from flatmin.study.stats import t_interval
from flatmin.study.training.record import Result
from flatmin.study.tuning import Case

if TYPE_CHECKING:
    from flatmin.study.search.trials import Trial


def score(results: Iterable[Result]) -> float:
    """Mean final validation metric of a trial's runs; a diverged run counts with its last value."""
    return t_interval([result.validation for result in results]).mean


def choose(first: Round, trials: Sequence[Trial]) -> dict[str, Any]:
    """Choose the best trial of each case; the result is the content of `tuning.json`.

    The earlier trial wins a tie, so another setting must be better than the default to win. A failed trial is recorded
    with its error and no score, and cannot win.

    Args:
        first: the first round.
        trials: all of its trials, finished.

    Raises:
        RunError: all trials of a case failed; or they are not all scored by the same metric.
    """
    metric, cases = _metric(trials), {}
    for case in first.points:
        entries = [_as_json(trial) for trial in trials if trial.case == case]
        cases[case] = {**_winner(case, entries, metric), "trials": entries}
    over = "conditions and seeds" if any(case.noise is None for case in cases) else "seeds, in each condition alone"
    return {
        "score": f"mean final validation {metric.name} over {over}",
        **({"metric": metric.as_json()} if metric.as_json() else {}),
        "seeds": [*first.seeds],
        **tuning_file.content(cases),
    }


def decide(tuning: Mapping[str, Any], second: Round, finalists: Sequence[Trial]) -> dict[str, Any]:
    """`tuning` with the winners among the finalists: those with the best mean over the seeds of both rounds.

    Ties and failures are as in `choose`. `finalist_seeds` are the seeds of the second round. Each case gets
    `finalists`, in the order of the first round: `further_score` is over the new seeds, `score` over all seeds.

    Args:
        tuning: the result of `choose` for the first round.
        second: the round of the finalists.
        finalists: all of its trials, finished, with the numbers of the first round.

    Raises:
        RunError: all finalists of a case failed.
    """
    before, further = len(tuning["seeds"]), len(second.seeds)
    metric, cases = tuning_file.metric(tuning), {}
    for case, found in tuning_file.cases(tuning).items():
        entries = [{**_as_json(trial), "further_score": trial.score} for trial in finalists if trial.case == case]
        for entry in entries:
            if entry["score"] is not None:
                earlier = found["trials"][entry["trial"]]["score"]
                entry["score"] = (before * earlier + further * entry["score"]) / (before + further)
        cases[case] = {**found, **_winner(case, entries, metric), "finalists": entries}
    return {**tuning, "finalist_seeds": [*second.seeds], **tuning_file.content(cases)}


def _winner(case: Case, entries: Sequence[Mapping[str, Any]], metric: Metric) -> dict[str, Any]:
    scored = [entry for entry in entries if entry["score"] is not None]
    if not scored:
        finalists = "further_score" in entries[0]
        what, folder = ("finalists", "tune/finalists") if finalists else ("trials", "tune/journal.log")
        raise RunError(
            f"all {what} of {case} failed, the {'best' if finalists else 'first'} one with {entries[0]['error']}; "
            f"delete {folder} in the study's folder to try them again"
        )
    best = min(scored, key=lambda entry: (-metric.sign * entry["score"], entry["trial"]))
    return {"winner": best["settings"], "score": best["score"]}


def _metric(trials: Sequence[Trial]) -> Metric:
    """What the trials are scored by."""
    found = {trial.metric for trial in trials if trial.score is not None}
    if len(found) > 1:
        names = ", ".join(sorted(f"{each.name} ({each.better} is better)" for each in found))
        raise RunError(f"the trials are scored by {names}; let the task return one of them, and search in a new --out")
    return next(iter(found), ACCURACY)


def _as_json(trial: Trial) -> dict[str, Any]:
    found = {"trial": trial.number, "settings": trial.settings, "score": trial.score, "diverged": trial.diverged}
    return found if trial.error is None else {**found, "error": trial.error}

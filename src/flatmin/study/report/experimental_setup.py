"""The protocol of a study in words, and the commands that repeat it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from flatmin.study import settings
from flatmin.study.config import FIRST_TUNING_SEED, IMAGES, TEXT, Study
from flatmin.study.minima.measures import MEASURES
from flatmin.study.minima.run_flatness import STUDY
from flatmin.study.report.summary import Summary
from flatmin.study.tasks.runs import task_of
from flatmin.study.training import robust


def headline(name: str, study: Study) -> str:
    """The title of a report."""
    contenders = f"{len(study.methods)} optimizers" if len(study.methods) > 1 else study.methods[0]
    seeds = f"{study.seeds} paired seeds" if study.seeds > 1 else "1 seed"
    what = Path(study.data).name if study.task == TEXT else study.data if study.task == IMAGES else study.task
    return f"{name}: {contenders} on {what}, n = {seeds}"


def in_words(summary: Summary) -> list[tuple[str, str]]:
    """What was done, as terms and sentences."""
    study = summary.study
    parameters = next(iter(summary.rows[0].runs.values())).result.parameters
    found = [
        *task_of(study.task).in_words(study, parameters),
        ("Budget", _budget(study)),
        ("Seeds", _seeds(study)),
        ("Selection", _selection(study, summary.metric.name)),
        *([("Flatness", _flatness(summary))] if study.flatness else []),
        *([("Robustness", _robustness(study))] if study.robustness else []),
        (
            "Differences",
            f"To {summary.baseline}, paired by seed. Intervals are not corrected for many comparisons; "
            "p-values are (Holm).",
        ),
    ]
    return found


def commands(summary: Summary, results: dict[str, Any]) -> str:
    """What to type to get the study again."""
    environment = results["environments"][0]
    commit = environment.get("commit")
    lines = []
    if commit:
        lines.append(f"git checkout {shlex.quote(commit.removesuffix('-dirty'))}")
        if commit.endswith("-dirty"):
            lines[-1] += "  # it had changes that were not committed"
    else:
        lines.append(f"# flatmin {environment.get('flatmin')}, installed, not from a checkout")
    lines.append(summary.head.get("command") or "flatmin compare --recipe study.toml --out runs/again")
    return "\n".join(lines)


def _budget(study: Study) -> str:
    if study.budget == "steps":
        return "All methods take the same number of steps. A method with two gradients per step costs twice as much."
    return "All methods compute the same number of gradients. A method with two per step takes half the steps."


def _seeds(study: Study) -> str:
    if study.seeds == 1:
        return "n = 1 run per method and condition, with seed 0. One run says nothing about the spread."
    return (
        f"n = {study.seeds} paired runs per method and condition, with seeds 0 to {study.seeds - 1}. Runs of one "
        "seed share initial weights, order of the data, augmentation and label noise."
        + " Two runs tell little."
        * (study.seeds == 2)
    )


def _selection(study: Study, metric: str) -> str:
    words = ["The test split is read once, after the last step. No epoch is selected."]
    if "default" in study.arms:
        words.append("Default settings are the published ones.")
    if "tuned" in study.arms and study.tune:
        each, over = (" and condition", "in it") if study.tune_per_condition else ("", "over all conditions")
        words.append(
            f"Tuned settings are the best of {study.tune} trials per method{each} by mean final validation {metric} "
            f"{over}, with {_from(FIRST_TUNING_SEED, study.tune_seeds)}, which no final run uses."
        )
        words.append(f"Searched: {', '.join(_searched(study))}.")
        if study.tune_finalists > 1:
            further = _from(FIRST_TUNING_SEED + study.tune_seeds, study.tune_finalist_seeds)
            words.append(
                f"The best {study.tune_finalists} trials of every method were repeated with {further}; "
                "the best mean over all of these seeds won."
            )
    elif "tuned" in study.arms and study.tuned_by:
        words.append(f"Tuned settings are the winners in {study.tuned_by}, of a search scored on validation data.")
    elif "tuned" in study.arms:
        words.append("Tuned settings come from an earlier search, scored on validation data; this study selects none.")
    if study.fix:
        words.append(f"Fixed for all methods: {', '.join(map(_fixed, study.fixed.items()))}.")
    return " ".join(words)


def _searched(study: Study) -> list[str]:
    """All that some contender searches."""
    return [*{setting: None for name in settings.known(study) for setting in settings.space(study, name)}]


def _fixed(setting: tuple[str, float | None]) -> str:
    name, value = setting
    return f"{name} at its default" if value is None else f"{name} {value:g}"


def _flatness(summary: Summary) -> str:
    study = summary.study
    runs = [run for row in summary.rows for run in row.runs.values()]
    if not any(run.flatness and run.flatness.examples for run in runs):
        return next((f"Not measured: {run.flatness.unavailable}." for run in runs if run.flatness), "Not measured yet.")
    settings = "; ".join(
        f"{name}: " + ", ".join(f"{key} {value}" for key, value in MEASURES[name].settings.items()) for name in STUDY
    )
    return (
        f"Measured after the last step at the weights that are tested, in evaluation mode, on {study.flatness:,} "
        "training examples (or all, if there are fewer), with the labels and the loss as trained, without augmentation "
        f"and weight decay. Settings: {settings}."
    )


def _robustness(study: Study) -> str:
    images = "; noise on images is in standard deviations of the training images, one draw; a blur is in pixels"
    return (
        "Measured after the last step at the weights that are tested, on the test split. Rounding is symmetric, with "
        "one step per output channel. Noise on weights is Gaussian, in percent of the norm of each filter, the mean "
        f"over {robust.DRAWS} draws{images * (study.task == IMAGES)}. Runs of one seed have the same draws. "
        "BatchNorm's statistics are not computed again."
    )


def _from(first: int, count: int) -> str:
    """`seed 1000` or `2 seeds from 1000 on`."""
    return f"seed {first}" if count == 1 else f"{count} seeds from {first} on"

"""From a protocol to its final runs: names are looked up, settings are chosen. Writes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flatmin.checks import known_name
from flatmin.study import config, tuning
from flatmin.study import settings as of_contenders
from flatmin.study.config import IMAGES, Run, Study, Training
from flatmin.study.contender import Contender
from flatmin.study.tasks.runs import task_of

#: Settings of the contenders: by condition and contender, and by arm, condition and contender.
Tuned = Mapping[float, Mapping[str, dict[str, float]]]
Settings = Mapping[str, Tuned]


@dataclass(frozen=True)
class Plan:
    """The final runs of a study.

    Args:
        study: the protocol, each contender under its shortest name.
        runs: by folder below that of the study. Seeds are outermost, so an interrupted study is already a comparison,
            of fewer seeds.
    """

    study: Study
    runs: Mapping[str, Run]


def canonical(study: Study) -> Study:
    """The same study with every name looked up and each contender under its shortest name: `plain@sgd` is `sgd`.

    Contenders then name their base, so `base` has no effect any more.

    Raises:
        ValueError: an unknown name, the same contender twice, or a fixed setting that no contender has.
    """
    task_of(study.task).check(study)
    Contender.parse("plain", base=study.base)  # an unknown base is an error even if no contender is on it
    names = tuple(str(Contender.parse(name, base=study.base)) for name in study.methods)
    study = dataclasses.replace(study, methods=names, base="sgd")
    of_contenders.check(study)
    return study


def published(study: Study) -> Tuned | None:
    """The winners of the search in `tuned_by`; None for those of the registry.

    Raises:
        ValueError: `tuned_by` is no such file.
    """
    return tuning.read_winners(Path(study.tuned_by), study.noise) if study.tuned_by else None


def resolve(study: Study, tuned: Tuned | None = None) -> Plan:
    """The final runs of a canonical study.

    Args:
        study: the protocol.
        tuned: the settings of the tuned arm, by condition and contender; None takes the published ones.

    Raises:
        ValueError: the study has a tuned arm and a contender has no tuned settings.
    """
    return Plan(study, runs(study, settings(study, tuned)))


def settings(study: Study, tuned: Tuned | None = None) -> Settings:
    """The settings of each arm; see `resolve`. What is fixed is the same in all arms."""
    if tuned is None:
        images = study.task == IMAGES  # the published settings are of images
        published = {name: Contender.parse(name).tuned() if images else {} for name in study.methods}
        tuned = dict.fromkeys(study.noise, published)
    untuned = {name: None for noise in study.noise for name in study.methods if not tuned.get(noise, {}).get(name)}
    if "tuned" in study.arms and untuned:
        raise ValueError(
            f"no tuned settings are known for {', '.join(untuned)}; search for them with --tune 16, "
            "or leave the tuned arm out with --arms default"
        )
    default = {name: of_contenders.default(study, name) for name in study.methods}
    return {
        "default": dict.fromkeys(study.noise, default),
        "tuned": {
            noise: {
                name: of_contenders.complete(study, name, tuned[noise][name])
                for name in study.methods
                if name in tuned[noise]
            }
            for noise in study.noise
        },
    }


def runs(study: Study, settings: Settings) -> dict[str, Run]:
    """The final runs at given settings, by folder below that of the study; seeds are outermost."""
    return {
        config.run_folder(arm, noise, name, seed): study.run(name, settings[arm][noise][name], noise, seed, test=True)
        for seed in range(study.seeds)
        for arm in study.arms
        for noise in study.noise
        for name in study.methods
    }


def single(training: Training, contender: str, settings: dict[str, float], noise: float, seed: int) -> Run:
    """One run, with every name looked up.

    Args:
        training: what all runs share, whatever their contender.
        contender: METHOD+AVERAGE@BASE. Without a base it is that of the task: SGD, or AdamW for text.
        settings: values that differ from the contender's default settings.
        noise: the fraction of training labels that are replaced, in [0, 1].
        seed: of all random numbers, >= 0.

    Raises:
        ValueError: an unknown name, or a value out of range.
    """
    base = str(config.defaults(training.task).get("base", "sgd"))
    found = Contender.parse(contender, training.average, base)
    for name in settings:
        known_name("settings", name, found.names())
    task_of(training.task).check(training)
    found.check_decay(training.decay_vectors)
    try:
        found.check(settings)
    except ValueError as error:
        raise ValueError(f"settings: {error}") from None
    shared = {f.name: getattr(training, f.name) for f in dataclasses.fields(Training)}
    return Run(str(Contender.parse(contender, base=base)), {**found.default(), **settings}, noise, seed, **shared)

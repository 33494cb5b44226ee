"""The settings of a study's contenders: which are searched, where a search starts, which are fixed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from flatmin.checks import at_least, known_name
from flatmin.registry import Range
from flatmin.study.config import Study
from flatmin.study.contender import Contender

Settings = dict[str, float]


def contender(study: Study, name: str) -> Contender:
    """The contender of this name; with the study's average, if it names none."""
    return Contender.parse(name, study.average)


def known(study: Study) -> dict[str, Contender]:
    """The contenders, by name, without those whose method this installation does not have."""
    found = {}
    for name in study.methods:
        with contextlib.suppress(ValueError):
            found[name] = contender(study, name)
    return found


def space(study: Study, name: str) -> dict[str, Range]:
    """What the search of a contender ranges over: its settings without the fixed ones."""
    ranges = contender(study, name).space(study.search)
    return {setting: axis for setting, axis in ranges.items() if setting not in study.fixed}


def fixed(study: Study, name: str) -> Settings:
    """The values of a contender's fixed settings."""
    one = contender(study, name)
    return {
        setting: one.default_of(setting) if value is None else value
        for setting, value in study.fixed.items()
        if setting in one.names()
    }


def default(study: Study, name: str) -> Settings:
    """The settings of a contender in the default arm, which are the first trial of its search."""
    return complete(study, name, {})


def complete(study: Study, name: str, settings: Mapping[str, float]) -> Settings:
    """`settings` of a contender, with the values that they lack, and with what the study fixes."""
    return {**contender(study, name).default(), **settings, **fixed(study, name)}


def check(study: Study) -> None:
    """Check that the settings that a study fixes or searches exist.

    Raises:
        ValueError: no contender has one of them, a value is out of range, or a search has nothing left to search.
    """
    known = {setting: None for name in study.methods for setting in contender(study, name).names()}
    for field, names in (("fix", study.fixed), ("search", study.search)):
        for setting in names:
            known_name(field, setting, known)
    for name in study.methods:
        one, values = contender(study, name), fixed(study, name)
        one.check_decay(study.decay_vectors)
        for setting, value in values.items():
            at_least(f"fix: {setting}", value, 0)
        try:
            one.check(values)
        except ValueError as error:
            raise ValueError(f"fix: {error}") from None
        if study.tune > 1 and not space(study, name):
            raise ValueError(f"fix leaves nothing to search for {name}; leave out --tune {study.tune}")


def bases_in_words(study: Study) -> str:
    """The default settings of the contenders' bases, without the learning rate."""
    bases = {contender.base: contender.base_entry for contender in known(study).values()}
    return "; ".join(
        f"{name} " + ", ".join(f"{key} {one.default:g}" for key, one in bases[name].settings.items() if key != "lr")
        for name in bases
    )

"""What a run is and what a study is: frozen dataclasses, TOML in and TOML out.

A `Run` is one training. A `Study` is a protocol: which contenders, under which conditions, on how many seeds. Neither
says where results go or how many processes work on them, so both mean the same thing on every machine.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

Arm = Literal["default", "tuned"]
Budget = Literal["steps", "grads"]

#: Tuning runs use seeds from here on, so no final run repeats what a tuning run has seen.
FIRST_TUNING_SEED = 1000


@dataclass(frozen=True)
class Run:
    """One training, complete: the same `Run` on the same machine and versions gives the same numbers.

    Args:
        contender: `METHOD` or `METHOD@BASE`, see `flatmin.study.contender`.
        settings: `lr`, and hyper-parameters of the method; what is absent keeps the method's default.
        noise: fraction of the training labels replaced at random, in [0, 1].
        seed: of the initial weights, the data order, the label noise and the method's own draws, >= 0.
        epochs: passes over the training set, >= 1.
        batch_size: examples per batch, >= 2 (BatchNorm needs two).
        budget: `steps` trains for `epochs`; `grads` allows as many gradients as one-gradient training for `epochs`.
        data: name of the data set, see `flatmin.study.data`.
        model: name of the network, see `flatmin.study.models`.
        test: evaluate on the test split at the end; False in tuning runs, which must not see it.
    """

    contender: str = "sgd"
    settings: dict[str, float] = field(default_factory=lambda: {"lr": 0.1})
    noise: float = 0.0
    seed: int = 0
    epochs: int = 25
    batch_size: int = 64
    budget: Budget = "steps"
    data: str = "digits"
    model: str = "small-cnn"
    test: bool = True


@dataclass(frozen=True)
class Study:
    """The protocol of a comparison.

    Args:
        methods: the contenders, each METHOD or METHOD@BASE; METHOD is one of `flatmin methods`, BASE is sgd (SGD,
            momentum 0.9, weight decay 5e-4; the default) or adamw (weight decay 0.01). `sgd` and `adamw` alone are
            those bases without a method. Differences are to sgd, or to the first contender if sgd is not among them.
        arms: default: every contender at its published radius and the usual learning rate of its base, 0.1 for SGD and
            a hundredth of that for AdamW. tuned: at the settings found by a search, this study's own (--tune) or else
            the registry's.
        noise: label noise of each condition: the fraction, in [0, 1], of training labels that are replaced by a label
            drawn uniformly from all classes (so 9 in 10 of them become wrong). Validation and test labels stay clean.
        seeds: paired runs per contender and condition, >= 1, with seeds 0, 1, ... Runs of one seed share initial
            weights, data order and label noise, whatever the method.
        epochs: passes over the training set, >= 1. The learning rate falls to 0 along a cosine.
        batch_size: examples per batch, >= 2 and at most the training set; an incomplete last batch is dropped.
        budget: steps: everybody takes the same number of steps. grads: a method that needs k gradients per step takes
            one step in k, so that everybody computes the same number of gradients.
        tune: trials per contender of a search on the validation split before the final runs, over the learning rate
            and the method's own ranges; the same number for everybody; the first trial is the default setting.
            Without a search (0) the tuned arm takes the registry's values.
        tune_seeds: seeds per trial and condition of that search, >= 1; they differ from the seeds of the final runs.
        data: the data set: digits, 1,797 real 8x8 images bundled with scikit-learn, split 60/20/20, stratified.
        model: the network: small-cnn, two convolutions with BatchNorm.
    """

    methods: tuple[str, ...] = ("sgd", "adamw", "ugd", "pugd", "unit-sam", "sam", "asam", "s-sgd", "channel-sgd")
    arms: tuple[Arm, ...] = ("default", "tuned")
    noise: tuple[float, ...] = (0.0, 0.4)
    seeds: int = 5
    epochs: int = 25
    batch_size: int = 64
    budget: Budget = "steps"
    tune: int = 0
    tune_seeds: int = 1
    data: str = "digits"
    model: str = "small-cnn"

    def __post_init__(self) -> None:
        for name in ("methods", "arms", "noise"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} must name at least one, got none")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must not name anything twice, got {' '.join(map(str, values))}")
        for noise in self.noise:
            _in_range("noise", noise, 0, 1)
        _in_range("seeds", self.seeds, 1, FIRST_TUNING_SEED)
        _in_range("epochs", self.epochs, 1)
        _in_range("batch_size", self.batch_size, 2)
        _in_range("tune", self.tune, 0)
        _in_range("tune_seeds", self.tune_seeds, 1)
        for arm in self.arms:
            one_of("arms", arm, ("default", "tuned"))
        one_of("budget", self.budget, ("steps", "grads"))
        if self.tune and "tuned" not in self.arms:
            raise ValueError(
                f"tune = {self.tune} searches for the tuned arm, but arms = {' '.join(self.arms)}; add tuned"
            )

    def run(self, contender: str, settings: dict[str, float], noise: float, seed: int, *, test: bool) -> Run:
        """One run of this protocol."""
        shared = (self.epochs, self.batch_size, self.budget, self.data, self.model)
        return Run(contender, settings, noise, seed, *shared, test=test)


Config = TypeVar("Config", Run, Study)


def save(config: Run | Study, path: Path) -> None:
    """Write `config` as TOML, every field spelled out."""
    path.write_text(tomli_w.dumps(dataclasses.asdict(config)), encoding="utf-8")


def load(cls: type[Config], path: Path) -> Config:
    """Read a `Run` or `Study` from TOML; absent fields keep their defaults.

    Raises:
        ValueError: the file is missing, is not TOML, or has an unknown field or a value of the wrong type.
    """
    try:
        return _from_dict(cls, tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def differences(old: Run | Study, new: Run | Study) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs differ: name -> (old value, new value)."""
    pairs = {f.name: (getattr(old, f.name), getattr(new, f.name)) for f in dataclasses.fields(old)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def one_of(what: str, name: str, known: Iterable[str]) -> None:
    """Raise a ValueError that lists the nearest of `known` unless `name` is among them."""
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"{what}: unknown name {name!r}; {hint}")


def _in_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    if not low <= value <= high:
        wanted = f"in [{low:g}, {high:g}]" if high < float("inf") else f">= {low:g}"
        raise ValueError(f"{name} must be {wanted}, got {value}")


def _from_dict(cls: type[Config], values: dict[str, Any]) -> Config:
    fields = dataclasses.asdict(cls())
    for name in values:
        one_of("field", name, fields)
    return cls(**{name: _like(fields[name], value, name) for name, value in values.items()})


def _like(example: Any, value: Any, name: str) -> Any:
    """`value` with the type of `example`; lists become tuples and whole numbers pass as floats."""
    if isinstance(example, tuple) and isinstance(value, list):
        return tuple(_like(example[0], item, name) for item in value)
    if isinstance(example, dict) and isinstance(value, dict):
        return {key: _like(0.0, item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(example, float) and type(value) is int:
        return float(value)
    if type(value) is not type(example):
        raise ValueError(f"{name} must be a {_TOML_NAMES[type(example)]}, got {value!r}")
    return value


_TOML_NAMES = {str: "string", int: "whole number", float: "number", bool: "boolean", tuple: "list", dict: "table"}

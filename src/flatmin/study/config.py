"""What a run is and what a study is: frozen dataclasses, which `flatmin.study.toml` writes and reads.

A `Run` is one training. A `Study` is a protocol: which contenders, under which conditions, on how many seeds. Neither
says where results go or how many processes compute them, so both mean the same on every machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from flatmin.checks import at_least, between, known_name
from flatmin.study import toml
from flatmin.study.toml import Config

Arm = Literal["default", "tuned"]
Budget = Literal["steps", "grads"]
Schedule = Literal["cosine", "linear", "step", "constant"]
Average = Literal["none", "ema", "swa"]
Precision = Literal["float32", "bfloat16"]
Augment = Literal["none", "flip", "crop-flip", "crop-flip-cutout", "translate-flip"]

#: The tasks that are built in.
IMAGES, TEXT = "images", "text"
#: The options of `Training` that all tasks take. A training function of the user's own decides the others itself.
OF_ALL = ("task", "budget", "average", "robustness")
#: Those that only `text` takes, and those that it shares with images.
OF_TEXT = ("context", "width", "depth", "then", "then_steps", "then_lr")
SHARED = ("data", "epochs", "batch_size", "schedule", "warmup", "clip", "decay_vectors", "precision", "evaluations")

#: The first seed of tuning runs. Final runs use smaller ones, so no final run repeats a tuning run.
FIRST_TUNING_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class Training:
    """The options that all trainings of a study share, whatever their optimizer.

    Args:
        task: images or text, which the options below describe, or package.module:function, a training function of your
            own, see `flatmin.study.Trial`. Such a function takes budget, average and robustness, and decides the rest.
        data: digits (1,797 real 8x8 images bundled with scikit-learn, split 60/20/20), the id of a data set on the
            Hugging Face hub, or a folder: Parquet files as on the hub, or one folder of images per class. Where the
            data have no test split, a fifth (20 %) of the training images is held out as one, the same for every
            seed. A tenth of the rest is the validation split. For text: a file in UTF-8, whose first 90 % are for
            training, the next 5 % for validation, the last 5 % for the test.
        subset: train on this many examples. The subset is class-balanced and the same for every seed. 0 trains on all
            examples.
        image_size: resize the shorter side to this many pixels and crop the centre. 0 keeps the images, which must
            then all have one size. At most 4096.
        augment: none, flip, crop-flip (random crops of the image padded by an eighth), crop-flip-cutout (crop-flip,
            then a square of half the image's width is erased) or translate-flip (random crops of the image reflected
            at its edges by a sixteenth; every image is mirrored in every other epoch).
        model: the network: small-cnn, small-cnn-layernorm, small-cnn-plain, fast-cifar-s, fast-cifar-m, fast-cifar-l,
            resnet20, resnet18, preact-resnet18, wrn-28-10, small-vit, or package.module:factory, which is called with
            num_classes.
        pretrained: call that factory with pretrained=True.
        epochs: passes over the training set, >= 1.
        batch_size: examples per step, >= 2, at most the training set. An incomplete last batch is dropped. An example
            of text is a window of `context` characters.
        micro_batches: parts in which a batch is computed, >= 1. Saves memory; changes only what BatchNorm computes.
        budget: steps: all methods take the same number of steps. grads: all methods compute the same number of
            gradients; one that needs k gradients per step takes 1/k of the steps.
        schedule: of the learning rate: cosine (to 0), linear (to 0), step (to a tenth at half and at three quarters)
            or constant.
        warmup: the fraction of the steps, in [0, 1), in which the learning rate rises from 0.
        label_smoothing: the probability mass that the loss spreads over all classes, in [0, 1).
        clip: clip the norm of the direction at this value, > 0; 0 does not clip.
        decay_vectors: apply the weight decay to biases and the scales of normalisation layers, too. False applies it
            to parameters of two or more dimensions only.
        average: none, ema (exponential moving average of the weights, `ema_decay` 0.999 per step) or swa (their mean
            after `swa_start`, three quarters of the steps). The average is what is evaluated. A contender that names
            its own, such as sgd+ema, keeps it.
        precision: float32, or bfloat16 for forward and backward passes, those of evaluations included; weights are
            float32 in both.
        compile: compile the network with torch.compile.
        evaluations: number of evaluations on the validation split, evenly spaced in gradient evaluations; 0 evaluates
            after every epoch.
        flip_at_test: evaluate on the sum of the logits of each image and of its mirror image. Doubles the cost of an
            evaluation.
        robustness: measure the test metric of final runs after rounding the weights and under noise on weights, after
            the last step: 18 more evaluations. Of images also under noise on images and blur, and the calibration: 23.
        context: of text: the characters that a prediction may see, >= 2.
        width: of text: the width of the transformer, a multiple of 32, with a head of attention for each 32.
        depth: of text: its blocks, >= 1.
        then: of text: another file. After the last step of a final run, training goes on with it, with plain AdamW,
            and what is forgotten of the first is measured.
        then_steps: number of those steps, >= 1, the same for all methods.
        then_lr: their learning rate, > 0, constant and the same for all methods.
    """

    task: str = IMAGES
    data: str = "digits"
    subset: int = 0
    image_size: int = 0
    augment: Augment = "none"
    model: str = "small-cnn"
    pretrained: bool = False
    epochs: int = 25
    batch_size: int = 64
    micro_batches: int = 1
    budget: Budget = "steps"
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    label_smoothing: float = 0.0
    clip: float = 0.0
    decay_vectors: bool = True
    average: Average = "none"
    precision: Precision = "float32"
    compile: bool = False
    evaluations: int = 0
    flip_at_test: bool = False
    robustness: bool = False
    context: int = 64
    width: int = 64
    depth: int = 4
    then: str = ""
    then_steps: int = 300
    then_lr: float = 1e-3

    def check(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: a value is out of range; the message names it.
        """
        for name, low in (
            ("subset", 0),
            ("image_size", 0),
            ("epochs", 1),
            ("batch_size", 2),
            ("clip", 0),
            ("evaluations", 0),
            ("context", 2),
            ("depth", 1),
            ("then_steps", 1),
        ):
            at_least(name, getattr(self, name), low)
        at_least("then_lr", self.then_lr, 0, strictly=True)
        if self.width < 32 or self.width % 32:
            raise ValueError(f"width must be a multiple of 32, got {self.width}; write --width 64")
        between("micro_batches", self.micro_batches, 1, self.batch_size // 2)
        between("warmup", self.warmup, 0, 1, "[)")
        between("label_smoothing", self.label_smoothing, 0, 1, "[)")
        for name, choices in (
            ("augment", get_args(Augment)),
            ("budget", get_args(Budget)),
            ("schedule", get_args(Schedule)),
            ("average", get_args(Average)),
            ("precision", get_args(Precision)),
        ):
            known_name(name, getattr(self, name), choices)


@dataclass(frozen=True)
class Run(Training):
    """One training, fully specified: the same `Run` gives the same numbers on the same machine and versions.

    Args:
        contender: `METHOD+AVERAGE@BASE`, see `flatmin.study.contender`.
        settings: `lr`, `wd` (weight decay), and those of method and average. Absent ones keep their defaults.
        noise: fraction of the training labels replaced at random, in [0, 1].
        seed: of initial weights, data order, augmentation, label noise and the method's own draws, >= 0.
        test: evaluate on the test split at the end. False in tuning runs, which must not use it.
    """

    contender: str = "sgd"
    settings: dict[str, float] = field(default_factory=lambda: {"lr": 0.1})
    noise: float = 0.0
    seed: int = 0
    test: bool = True

    def __post_init__(self) -> None:
        self.check()
        at_least("lr", self.settings.get("lr", 0.0), 0)
        between("noise", self.noise, 0, 1)
        at_least("seed", self.seed, 0)


@dataclass(frozen=True)
class Study(Training):
    """The protocol of a comparison.

    Args:
        methods: the contenders, each METHOD, METHOD+AVERAGE, METHOD@BASE or METHOD+AVERAGE@BASE. METHOD is one of
            `flatmin methods`, or package.module:Class, a method of another package. METHOD~ESTIMATOR runs it on
            estimated gradients: forward, multi-tangent, zeroth or hybrid-zeroth. AVERAGE is ema or swa, of the
            weights. BASE is sgd (with momentum 0.9; the default), nesterov (SGD with Nesterov's momentum and decoupled
            weight decay), adamw, or package.module:name, see `base`. A base in place of METHOD, or plain@BASE, is that
            base without a method. Differences are to sgd, or to the first contender if sgd is not among them.
        base: BASE of the contenders that name none. package.module:name is a class of optimizers, a function of
            (groups, lr=..., wd=...) that returns one, or a `flatmin.study.Base`, which has the ranges of a search.
        arms: default: every contender at its published radius and at the usual learning rate and weight decay of its
            base: 0.1 and 5e-4 for SGD, 0.1 and 5e-3 for nesterov, 0.001 and 0.01 for AdamW. tuned: at the settings
            found by a search, this study's own (--tune) or else the registry's.
        noise: label noise of each condition: the fraction, in [0, 1], of training labels that are replaced by a label
            drawn uniformly from all classes (so 9 in 10 of them become wrong). Validation and test labels stay clean.
        seeds: paired runs per contender and condition, >= 1, with seeds 0, 1, ... Runs of one seed share initial
            weights, data order, augmentation and label noise, whatever the method.
        tune: trials per contender of a search on the validation split before the final runs, over learning rate (lr),
            weight decay (wd) and the ranges of method and average; the same number for all contenders; the first trial
            is the default setting. 0: no search; the tuned arm takes the registry's values, or those of `tuned_by`.
        tune_per_condition: a winner for each condition, scored on it alone. Otherwise one winner for all conditions,
            scored on their mean.
        search: settings to search besides: momentum.
        fix: settings that are not searched. wd=5e-4 fixes one for all contenders that have it, in all arms; wd alone
            keeps it at each contender's default.
        tuned_by: the tuning.json of another study; its winners are the settings of the tuned arm.
        tune_seeds: seeds per trial and condition of that search, >= 1; they differ from the seeds of the final runs.
        tune_finalists: after that search, repeat the best this many trials of every contender on further seeds, in
            [1, tune]; the best mean over all of its seeds wins. 1 repeats none: the best trial wins.
        tune_finalist_seeds: those further seeds per finalist and condition, >= 1; no other run uses them.
        flatness: measure the flatness of the final runs' minima on this many training examples, a class-balanced
            subset, at most all of them. Runs then keep their weights. 0 does not measure.
    """

    methods: tuple[str, ...] = ("sgd", "adamw", "ugd", "pugd", "unit-sam", "sam", "asam", "s-sgd", "channel-sgd")
    arms: tuple[Arm, ...] = ("default", "tuned")
    noise: tuple[float, ...] = (0.0, 0.4)
    seeds: int = 5
    tune: int = 0
    tune_per_condition: bool = True
    search: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()
    tuned_by: str = ""
    tune_seeds: int = 1
    tune_finalists: int = 1
    tune_finalist_seeds: int = 4
    flatness: int = 0
    base: str = "sgd"

    def __post_init__(self) -> None:
        for name in ("methods", "arms", "noise"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} must name at least one, got none")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must not name anything twice, got {' '.join(map(str, values))}")
        for noise in self.noise:
            between("noise", noise, 0, 1)
        if both := [name for name in self.search if name in self.fixed]:
            raise ValueError(f"{both[0]} cannot be both searched and fixed; leave it out of --search or of --fix")
        self.check()
        between("seeds", self.seeds, 1, FIRST_TUNING_SEED)
        at_least("tune", self.tune, 0)
        at_least("tune_seeds", self.tune_seeds, 1)
        at_least("tune_finalists", self.tune_finalists, 1)
        at_least("tune_finalist_seeds", self.tune_finalist_seeds, 1)
        at_least("flatness", self.flatness, 0)
        for arm in self.arms:
            known_name("arms", arm, get_args(Arm))
        if self.tune and self.tuned_by:
            raise ValueError(f"tune = {self.tune} and tuned_by = {self.tuned_by} are two sources; leave one out")
        if self.tune and "tuned" not in self.arms:
            raise ValueError(
                f"tune = {self.tune} searches for the tuned arm, but arms = {' '.join(self.arms)}; add tuned"
            )
        if self.tune_finalists > max(1, self.tune):
            raise ValueError(
                f"tune_finalists = {self.tune_finalists} are the best of more trials, but tune = {self.tune}; "
                f"write --tune {4 * self.tune_finalists}, or --tune-finalists 1"
            )

    @property
    def fixed(self) -> dict[str, float | None]:
        """The settings that are not searched: name -> value, None for each contender's default.

        Raises:
            ValueError: an element of `fix` is neither name=value nor a name, or a name is there twice.
        """
        found: dict[str, float | None] = {}
        for text in self.fix:
            name, equals, value = text.partition("=")
            try:
                number = float(value) if equals else None
            except ValueError:
                raise ValueError(
                    f"fix must be name=value with a number, or a name, got {text!r}; write wd=5e-4"
                ) from None
            if name in found:
                raise ValueError(f"fix must not name anything twice, got {' '.join(self.fix)}")
            found[name] = number
        return found

    def run(self, contender: str, settings: dict[str, float], noise: float, seed: int, *, test: bool) -> Run:
        """One run of this protocol."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(Training)}
        return Run(**shared, contender=contender, settings=settings, noise=noise, seed=seed, test=test)


def options_of(task: str) -> tuple[str, ...]:
    """The names of the options of `Training` that a task takes."""
    if task == IMAGES:
        return tuple(f.name for f in dataclasses.fields(Training) if f.name not in OF_TEXT)
    return (*OF_ALL, *SHARED, *OF_TEXT) if task == TEXT else OF_ALL


def check_options(training: Training) -> None:
    """Refuse options that the task does not take.

    Raises:
        ValueError: one of them is not at its default.
    """
    taken = options_of(training.task)
    for f in dataclasses.fields(Training):
        value = getattr(training, f.name)
        if f.name not in taken and value != f.default:
            kind, flag = TEXT if f.name in OF_TEXT else IMAGES, f.name.replace("_", "-")
            own = f" and not of {training.task};"
            if ":" in training.task:
                own = f"; {training.task} decides it itself, so"
            raise ValueError(f"{f.name} = {value} is an option of {kind}{own} leave out --{flag}")


def defaults(task: str) -> dict[str, Any]:
    """The fields of a `Study` whose default depends on the task.

    Only images have label noise unless told. A transformer is trained with AdamW, in smaller batches than images.
    """
    if task == IMAGES:
        return {}
    found: dict[str, Any] = {"task": task, "noise": (0.0,)}
    if task == TEXT:
        methods = ("adamw", "sam", "pugd", "msam", "adamw+ema")
        found |= {"data": "", "methods": methods, "base": "adamw"}
        found |= {"epochs": 2, "batch_size": 16, "warmup": 0.05}
    return found


def load(cls: type[Config], path: Path, needed: Sequence[str] = ()) -> Config:
    """Read a `Run` or a `Study`; see `flatmin.study.toml.load`. Absent fields have the defaults of their task."""

    def complete(values: dict[str, Any]) -> dict[str, Any]:
        more = defaults(str(values.get("task", IMAGES))) if cls is Study else {}
        return {**more, **values}

    return toml.load(cls, path, needed, complete)


def save(config: Run | Study, path: Path) -> None:
    """Write a `Run` or a `Study` as TOML, with every field that its task takes."""
    taken = options_of(config.task)
    toml.save(config, path, [f.name for f in dataclasses.fields(Training) if f.name not in taken])


def check_batch_size(training: Training, examples: int) -> None:
    """Check that a batch is at most the training set, which has `examples` examples.

    Raises:
        ValueError: it is larger. A smaller batch in its place would be another protocol than the one that was written.
    """
    if training.batch_size > examples:
        raise ValueError(
            f"batch_size must be at most the training set, {examples} examples of {training.data}, "
            f"got {training.batch_size}; write --batch-size {examples}"
        )


def run_folder(arm: str, noise: float, contender: str, seed: int) -> str:
    """The folder of a final run, below that of its study."""
    return f"runs/{arm}/noise-{noise}/{contender}/seed-{seed}"


def differences(old: Run | Study, new: Run | Study) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs differ: name -> (old value, new value)."""
    pairs = {f.name: (getattr(old, f.name), getattr(new, f.name)) for f in dataclasses.fields(old)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def number(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose of one run; different purposes get independent streams."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, device: torch.device | None = None) -> torch.Generator:
    """The random generator for one purpose of one run."""
    return torch.Generator(device or "cpu").manual_seed(number(seed, purpose))

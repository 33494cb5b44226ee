"""The data of a study: tensors in memory, split once and for all, and label noise."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

from flatmin.study.config import one_of

Part = Literal["train", "validation", "test"]
NAMES = ("digits",)


@functools.cache
def load(name: str, part: Part) -> tuple[Tensor, Tensor]:
    """One split: images (n, channels, height, width) float32 and labels (n,) int64. Do not write into them.

    All splits are standardised with the mean and deviation of the *train* split. The split does not depend on a run's
    seed: if it did, the examples that tuned a method would turn up in other seeds' test sets.

    Raises:
        ValueError: unknown `name`.
    """
    one_of("data", name, NAMES)
    images, labels = _digits()
    mean, deviation = images[_split()["train"]].mean(), images[_split()["train"]].std()
    rows = _split()[part]
    return (images[rows] - mean) / deviation, labels[rows]


def classes(name: str) -> int:
    """The number of classes of a data set."""
    return int(load(name, "train")[1].max()) + 1


def replace_labels(labels: Tensor, fraction: float, classes: int, generator: torch.Generator) -> Tensor:
    """A copy of `labels` in which round(fraction * n) of them are drawn anew, uniformly from all classes.

    A draw can hit the right class again, so a fraction f makes about f * (1 - 1/classes) of the labels wrong.
    """
    noisy = labels.clone()
    chosen = torch.randperm(len(labels), generator=generator)[: round(fraction * len(labels))]
    noisy[chosen] = torch.randint(classes, (len(chosen),), generator=generator)
    return noisy


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1), torch.tensor(digits.target, dtype=torch.int64)


@functools.cache
def _split() -> dict[Part, list[int]]:
    """Rows of each split, 60/20/20, every class in proportion."""
    from sklearn.model_selection import train_test_split

    labels = _digits()[1].numpy()
    train, rest = train_test_split(range(len(labels)), train_size=0.6, stratify=labels, random_state=0)
    validation, test = train_test_split(rest, train_size=0.5, stratify=labels[rest], random_state=0)
    return {"train": train, "validation": validation, "test": test}

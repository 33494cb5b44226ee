"""The data of a study: images, labels, splits and label noise.

Splits do not depend on a run's seed. Otherwise examples used for tuning would be in the test sets of other seeds.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from flatmin.study.data import cache, digits, sources

NAMES = ("digits",)
#: Of an image side. Larger ones are mistyped, and would fill the memory before the disk.
MOST_PIXELS = 4096
#: Images of a sample that networks may start from, and images of it in memory at a time.
SAMPLE, BATCH = 5000, 250
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class Split(NamedTuple):
    """Images and labels of one split. Read-only."""

    images: Tensor  # (n, channels, height, width) uint8, on the CPU, possibly memory-mapped: see `cache`
    labels: Tensor  # (n,) int64


@dataclass(frozen=True, eq=False)
class Dataset:
    """The three splits of a data set.

    Args:
        name: the source it was loaded from.
        classes: the name of each label.
        train: the training examples.
        validation: held out of the train split; used for tuning.
        test: used for the final accuracies only.
        mean: (channels, 1, 1) float32, over all pixels of the train split, in units of the stored pixels.
        deviation: standard deviation, likewise.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: Tensor
    deviation: Tensor
    _on_device: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def standardise(self, images: Tensor) -> Tensor:
        """uint8 (batch, channels, height, width) on any device -> float32, mean 0 and deviation 1 over train."""
        mean, deviation = self._statistics(images.device)
        return (images.float() - mean) / deviation

    def sample(self, most: int = SAMPLE) -> Iterator[Tensor]:
        """Batches of up to `most` training images in all, standardised: balanced over the classes, always the same."""
        for rows in balanced(self.train.labels, min(most, len(self.train.labels))).split(BATCH):  # type: ignore[no-untyped-call]  # in torch
            yield self.standardise(self.train.images[rows])

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation on `device`, copied once: a copy per step would synchronize host and GPU."""
        if device not in self._on_device:
            self._on_device[device] = self.mean.to(device), self.deviation.to(device)
        return self._on_device[device]


def load_dataset(source: str, *, subset: int = 0, image_size: int = 0, console: Console | None = None) -> Dataset:
    """A data set with its splits. Cached in the process: the same arguments give the same object.

    - `digits`: scikit-learn's 1,797 images of 8x8 pixels in 0..16, split 60/20/20, stratified by class.
    - A folder: Parquet files as on the Hugging Face hub, or images in one folder per class, with or without folders
      `train` and `test` above them.
    - Anything else is the id of a data set on the Hugging Face hub.

    For folders and hub ids, the test split is `test`, or `validation` if `test` has no labels, or else a fifth of the
    train split. The validation split is a tenth of the train split. Both are stratified by class and do not depend on
    the seed. Images are decoded once into a cache on disk, see `flatmin.study.data.cache`.

    Args:
        source: digits, a folder or a hub id.
        subset: keep this many examples of the train split, after the other splits are held out. The subset is
            class-balanced and fixed, and a larger one contains every smaller one. 0 keeps all.
        image_size: resize the shorter side to this many pixels and crop the centre; 0 keeps the images as they are. At
            most `MOST_PIXELS`.
        console: where the progress of decoding is shown; None shows none.

    Raises:
        ValueError: there is no such data set, or it does not have images of at least two classes; the message names
            the file, the column or the option.
    """
    if not 0 <= image_size <= MOST_PIXELS:
        raise ValueError(f"image_size must be in [0, {MOST_PIXELS}], got {image_size}")
    key = source, subset, image_size
    if key not in _LOADED:
        check(source)
        whole = _digits(image_size) if source == "digits" else _cached(source, image_size, console)
        if subset:
            classes, most = len(whole.classes), len(whole.train.labels)
            if not classes <= subset <= most:
                raise ValueError(f"subset must be 0 or in [{classes}, {most}] for {source}, got {subset}")
            rows = balanced(whole.train.labels, subset)
            whole = dataclasses.replace(whole, train=Split(whole.train.images[rows], whole.train.labels[rows]))
        _LOADED[key] = whole
    return _LOADED[key]


_LOADED: dict[tuple[str, int, int], Dataset] = {}


def check(source: str) -> None:
    """Check that `source` can name a data set, without reading it.

    Raises:
        ValueError: `source` is no name, no folder and not of the form of a hub id; the message lists the nearest names.
    """
    path = Path(source).expanduser()
    if source in NAMES or source in sources.memory() or (source and path.is_dir()):
        return
    if source and path.exists():
        raise ValueError(f"data: {source!r} is no folder; name the one that holds the images: {path.parent}")
    if near := difflib.get_close_matches(source.lower(), NAMES, n=1):
        raise ValueError(f"data: unknown name {source!r}; did you mean {near[0]}?")
    if not _HUB_ID.fullmatch(source):
        folders = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, folders, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else "check its spelling"
        )
        raise ValueError(f"data: there is no folder {source!r}; {hint}")


def replace_labels(labels: Tensor, fraction: float, classes: int, generator: torch.Generator) -> Tensor:
    """A copy of `labels` in which round(fraction * n) of them are redrawn uniformly from all classes.

    A redrawn label can be the true one, so about fraction * (1 - 1/classes) of the labels become wrong.
    """
    noisy = labels.clone()
    chosen = torch.randperm(len(labels), generator=generator)[: round(fraction * len(labels))]
    noisy[chosen] = torch.randint(classes, (len(chosen),), generator=generator)
    return noisy


def balanced(labels: Tensor, count: int) -> Tensor:
    """`count` sorted rows, balanced over the classes and fixed: the same arguments give the same rows."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    place = torch.empty(len(labels), dtype=torch.int64)  # of each example of `order`, its place within its class
    for label in torch.unique(labels):
        mine = labels[order] == label
        place[mine] = torch.arange(int(mine.sum()))
    return order[place.argsort(stable=True)[:count]].sort().values


def _cached(source: str, image_size: int, console: Console | None) -> Dataset:
    found = cache.load(source, image_size, console)
    train, validation, test = (Split(torch.from_numpy(x), torch.from_numpy(y)) for x, y in found.splits)
    mean, deviation = torch.tensor([found.mean, found.deviation], dtype=torch.float32)[..., None, None]
    deviation[deviation == 0] = 1  # a constant channel
    return Dataset(source, found.classes, train, validation, test, mean, deviation)


def _digits(image_size: int) -> Dataset:
    if image_size not in (0, 8):
        raise ValueError(f"image_size must be 0 or 8 for digits, which have 8x8 pixels, got {image_size}")
    pixels, numbers = digits.read()
    learn, rest = digits.split(np.arange(len(numbers)), numbers, 0.6)
    parts = learn, *digits.split(rest, numbers[rest], 0.5)
    images, labels = torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(numbers)
    train, validation, test = (Split(images[rows], labels[rows]) for rows in map(torch.from_numpy, parts))
    whole = train.images.float()
    mean, deviation = whole.mean().view(1, 1, 1), whole.std().view(1, 1, 1)
    return Dataset("digits", tuple("0123456789"), train, validation, test, mean, deviation)

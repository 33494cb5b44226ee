"""A trained network with its loss and data, from a run's folder or from a file of weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flatmin.checks import known_name
from flatmin.study.config import IMAGES, generator
from flatmin.study.data.dataset import Dataset, balanced, load_dataset, replace_labels
from flatmin.study.networks import models
from flatmin.study.training import loop, record, snapshots
from flatmin.study.training.loop import BATCH
from flatmin.study.training.snapshots import State

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Examples:
    """Batches of (inputs, labels), the same at each iteration.

    Args:
        dataset: of the images.
        images: (n, channels, height, width) uint8.
        labels: (n,) int64.
        device: of the batches.
    """

    dataset: Dataset
    images: Tensor
    labels: Tensor
    device: torch.device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.labels), BATCH):
            rows = slice(start, start + BATCH)
            yield self.dataset.standardise(self.images[rows].to(self.device)), self.labels[rows].to(self.device)

    def __len__(self) -> int:
        """The number of batches."""
        return -(-len(self.labels) // BATCH)


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A trained network and its loss.

    Args:
        name: shown in tables and plots.
        net: the network, with its weights loaded.
        loss: of outputs and labels.
        examples: that the loss is measured on.
        path: the weights along its training, if they were kept.
        diverged: the epoch in which the training diverged; None if it did not.
    """

    name: str
    net: nn.Module
    loss: Callable[[Any, Any], Tensor]
    examples: Examples
    path: list[State]
    diverged: float | None = None


def of_run(folder: Path, split: str = "train", count: int = 0) -> TrainedNetwork:
    """The network of a finished run, with the loss of its training: label noise and smoothing, no augmentation.

    Args:
        folder: of a run that kept its weights.
        split: train, validation or test; only train has label noise.
        count: number of examples, see `examples`; 0 for all.

    Raises:
        ValueError: there is no run, it is not finished or kept no weights, or the weights are of another architecture.
    """
    found = record.read(folder)
    if found is None:
        if (damaged := record.damaged(folder)) is not None:
            raise ValueError(f"{damaged} is damaged; the command that made {folder}, given again, trains it again")
        what = "no finished run" if folder.is_dir() else "no folder"
        raise ValueError(f"{folder} is {what}; write flatmin train ... --keep-weights --out {folder}")
    run, result = found
    if run.task != IMAGES:
        raise ValueError(f"{folder} is a run of {run.task}, whose network cannot be made again from a file of weights")
    if not (folder / snapshots.FILE).exists():
        raise ValueError(f"{folder} kept no weights; train it again with --keep-weights and another --out")
    dataset = load_dataset(run.data, subset=run.subset, image_size=run.image_size)
    labels = None
    if run.noise and split == "train":
        clean = dataset.train.labels
        labels = replace_labels(clean, run.noise, len(dataset.classes), generator(run.seed, "label noise"))
    with torch.random.fork_rng(devices=[]):
        net = loop.network(dataclasses.replace(run, pretrained=False), dataset, _device())
    snapshots.load(net, snapshots.read(folder / snapshots.FILE), folder / snapshots.FILE, run.model)
    path = [snapshots.read(file) for file in snapshots.path_files(folder)]
    loss = nn.CrossEntropyLoss(label_smoothing=run.label_smoothing)
    return TrainedNetwork(folder.name, net, loss, examples(dataset, split, count, labels), path, result.diverged)


def of_file(
    path: Path, model: str, source: str, *, image_size: int = 0, split: str = "train", count: int = 0
) -> TrainedNetwork:
    """A network from a file of weights, with the cross-entropy on a data set.

    Args:
        path: of its state dict.
        model: package.module:factory, which is called with num_classes, or a name as in `flatmin train`.
        source: the data, as in `flatmin train`.
        image_size: likewise.
        split: train, validation or test.
        count: number of examples, see `examples`; 0 for all.

    Raises:
        ValueError: the file, the model or the data cannot be used, or do not fit each other.
    """
    models.check(model)
    state = snapshots.read(path)
    dataset = load_dataset(source, image_size=image_size)
    channels, size = dataset.train.images.shape[1:3]
    with torch.random.fork_rng(devices=[]):
        net = models.build(model, channels, len(dataset.classes), image_size=size).to(_device())
    snapshots.load(net, state, path, model)
    return TrainedNetwork(path.stem, net, nn.CrossEntropyLoss(), examples(dataset, split, count), [])


def examples(dataset: Dataset, split: str = "train", count: int = 0, labels: Tensor | None = None) -> Examples:
    """Examples to measure on.

    Args:
        dataset: of the examples.
        split: train, validation or test.
        count: size of a subset that is balanced over the true labels and fixed; 0, or more than there are, takes all.
        labels: of the whole split, if not the true ones.

    Raises:
        ValueError: there is no such split, or `count` is negative.
    """
    known_name("split", split, SPLITS)
    if count < 0:
        raise ValueError(f"examples must be >= 0, got {count}")
    images, clean = getattr(dataset, split)
    labels = clean if labels is None else labels
    if 0 < count < len(labels):
        rows = balanced(clean, count)
        images, labels = images[rows], labels[rows]
    return Examples(dataset, images, labels, _device())


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that are unique.

    Raises:
        ValueError: a path is given twice.

    Examples:
        >>> short_names([Path("runs/sam/seed-0"), Path("runs/pugd/seed-0"), Path("mine.pt")])
        ['sam/seed-0', 'pugd/seed-0', 'mine.pt']
    """
    whole = [path.resolve() for path in paths]
    if len(set(whole)) < len(whole):
        raise ValueError(f"nothing may be named twice, got {' '.join(map(str, paths))}")
    return [_short(path.parts, [other.parts for other in whole if other != path]) for path in whole]


def _short(parts: tuple[str, ...], others: list[tuple[str, ...]]) -> str:
    depth = next(n for n in range(1, len(parts) + 1) if all(other[-n:] != parts[-n:] for other in others))
    return "/".join(parts[-depth:])


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

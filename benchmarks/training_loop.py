"""Time of a whole training epoch: our loop against bare forward and backward passes, and against a typical script.

    python benchmarks/training_loop.py --model small-cnn --repeats 5

Three questions, each answered by the median ratio of interleaved repeats:

- What does the loop add to forward and backward passes on data that is in memory already? They run on the batches that
  the loop would make, beforehand; the optimizer's step belongs to neither and is timed apart.
- How long is an epoch of PUGD, and of SGD, against a script as one writes it: a DataLoader with worker processes,
  transforms of one image after another, float32, one optimizer operation after another? Ours in float32, and with
  forward and backward passes in bfloat16, where the processor can multiply such numbers.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import peers
from flatmin.study import files
from flatmin.study.config import Run
from flatmin.study.data.dataset import Dataset, load_dataset
from flatmin.study.training import loop as training
from flatmin.study.training import record
from flatmin.study.training.batches import shuffled

EPOCHS = 2


def main() -> None:
    """Parse the options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="as for flatmin train")
    parser.add_argument("--subset", type=int, default=0)
    parser.add_argument("--image-size", type=int, default=0)
    parser.add_argument("--model", default="small-cnn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    options = parser.parse_args()
    shared: dict[str, Any] = {"data": options.data, "subset": options.subset, "image_size": options.image_size}
    shared |= {"model": options.model, "epochs": EPOCHS, "batch_size": 128}
    found = measure(shared, options.repeats)
    environment = record.environment(torch.get_num_threads())
    for name, seconds in found["seconds"].items():
        print(f"{name:36} {seconds:8.3f} s")
    for name, ratio in found["ratios"].items():
        print(f"{name:56} {ratio:6.2f}")
    if options.out:
        files.write_json(
            options.out, {"options": shared, "repeats": options.repeats, **found, "environment": environment}
        )


def measure(shared: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Seconds per epoch and ratios, medians over the repeats."""

    def half(contender: str) -> Run:
        return Run(contender, {"lr": 0.01}, augment="crop-flip", precision="bfloat16", **shared)

    contenders: dict[str, Callable[[], float]] = {
        "bare passes": functools.partial(bare, Run("sgd", {"lr": 0.01}, **shared), step=False),
        "bare passes and steps": functools.partial(bare, Run("sgd", {"lr": 0.01}, **shared), step=True),
        "loop, sgd": functools.partial(loop, Run("sgd", {"lr": 0.01}, **shared)),
        "loop, sgd, augmented": functools.partial(loop, Run("sgd", {"lr": 0.01}, augment="crop-flip", **shared)),
        "loop, pugd, augmented": functools.partial(loop, Run("pugd", {"lr": 0.01}, augment="crop-flip", **shared)),
        "loop, sgd, augmented, bfloat16": functools.partial(loop, half("sgd")),
        "loop, pugd, augmented, bfloat16": functools.partial(loop, half("pugd")),
        "textbook, sgd": functools.partial(script, Run("sgd", {"lr": 0.01}, **shared)),
        "textbook, pugd": functools.partial(script, Run("pugd", {"lr": 0.01}, **shared)),
    }
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, contender in contenders.items():
            seconds = contender()
            if repeat:  # the first round warms up
                taken[name].append(seconds)
    pairs = {
        "what the loop adds: loop / bare passes and steps": ("loop, sgd", "bare passes and steps"),
        "the same against bare passes alone": ("loop, sgd", "bare passes"),
        "textbook epoch / our epoch, sgd": ("textbook, sgd", "loop, sgd, augmented"),
        "textbook epoch / our epoch, pugd": ("textbook, pugd", "loop, pugd, augmented"),
        "textbook epoch / our bfloat16 epoch, sgd": ("textbook, sgd", "loop, sgd, augmented, bfloat16"),
        "textbook epoch / our bfloat16 epoch, pugd": ("textbook, pugd", "loop, pugd, augmented, bfloat16"),
    }
    ratios = {
        name: statistics.median(x / y for x, y in zip(taken[a], taken[b], strict=True))
        for name, (a, b) in pairs.items()
    }
    return {"seconds": {name: statistics.median(values) for name, values in taken.items()}, "ratios": ratios}


def loop(run: Run) -> float:
    """Seconds per epoch of our loop, evaluation not counted."""
    return training.train(run).seconds / EPOCHS


def bare(run: Run, step: bool) -> float:
    """Seconds per epoch of forward and backward passes on batches made beforehand."""
    dataset = load_dataset(run.data, subset=run.subset, image_size=run.image_size)
    net = training.network(run, dataset, torch.device("cpu"))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    loss_of = nn.CrossEntropyLoss()
    count = len(dataset.train.labels)
    order = shuffled(count, run.batch_size, count // run.batch_size, torch.Generator().manual_seed(0))
    batches = [(dataset.standardise(dataset.train.images[rows]), dataset.train.labels[rows]) for rows in order]
    began = time.perf_counter()
    for x, y in batches:
        optimizer.zero_grad()
        loss_of(net(x), y).backward()
        if step:
            optimizer.step()
    return time.perf_counter() - began


class Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A data set as scripts have it: one image at a time, cropped, flipped, scaled and normalised."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset.train.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.dataset.train.images[index].float() / 255  # (channels, height, width)
        height, width = image.shape[1:]
        pad = height // 8
        image = nn.functional.pad(image, (pad, pad, pad, pad))
        top, left = (int(i) for i in torch.randint(2 * pad + 1, (2,)))
        image = image[:, top : top + height, left : left + width]
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        mean, deviation = self.dataset.mean / 255, self.dataset.deviation / 255
        return (image - mean) / deviation, int(self.dataset.train.labels[index])


def script(run: Run) -> float:
    """Seconds per epoch of a textbook script."""
    dataset = load_dataset(run.data, subset=run.subset, image_size=run.image_size)
    net = training.network(run, dataset, torch.device("cpu"))
    for p in net.parameters():
        p.data = p.data.contiguous()  # a script does not choose a memory format
    params: list[Tensor] = list(net.parameters())
    base = torch.optim.SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4)
    loss_of = nn.CrossEntropyLoss()
    state: peers.State = {}
    loader = DataLoader(Images(dataset), batch_size=run.batch_size, shuffle=True, drop_last=True, num_workers=2)
    began = time.perf_counter()
    for _ in range(EPOCHS):
        for x, y in loader:

            def backward(x: Tensor = x, y: Tensor = y) -> None:
                loss_of(net(x), y).backward()

            if run.contender == "pugd":
                with torch.no_grad():
                    peers.official_pugd(params, base, torch.enable_grad()(backward), state)
            else:
                base.zero_grad()
                backward()
                base.step()
    return (time.perf_counter() - began) / EPOCHS


if __name__ == "__main__":
    main()

"""Time of whole training steps, forward and backward passes included, in units of torch's SGD.

    python benchmarks/whole_step.py [--methods ugd msam head-sam sam] [--networks conv resnet20] [--repeats 40]

Every contender takes steps on the same network and batch, at a learning rate that moves nothing. One repeat runs each
contender once, in an order drawn anew, and every figure is a median over repeats of a ratio within one repeat: the
speed of a shared machine drifts. "sgd" is torch's optimizer without this library. The methods have their defaults, as
`flatmin.build(NAME)` makes them; steps that differ, as those of LookSAM, are taken in blocks of `--block`.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import flatmin
from flatmin.protocol import asks_about_examples
from flatmin.study.networks import models

DEFAULT = ("ugd", "tilted-ugd", "msam", "momentum-pugd", "head-sam", "unit-head-sam", "head-pugd", "sam", "pugd")


def conv(channels: int, classes: int, image_size: int) -> nn.Module:
    """Four convolutions with BatchNorm, 280,000 weights, 1,600 of them in the last layer."""
    widths = (channels, 32, 64, 128, 160)
    blocks: list[nn.Module] = []
    for number, (into, out) in enumerate(itertools.pairwise(widths)):
        blocks += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        blocks += [nn.MaxPool2d(2)] if number < 3 else []
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


#: Name -> the network for colour images, ten classes, 32 x 32 pixels.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: conv(3, 10, 32),
    **{name: functools.partial(models.build, name, 3, 10, image_size=32) for name in ("resnet20", "small-vit")},
}


class Setup:
    """A network and a batch that all contenders share.

    Args:
        network: a key of `NETWORKS`, or a network for batches of colour images of 32 x 32 pixels.
        batch: examples.
    """

    def __init__(self, network: str | nn.Module, batch: int = 64):
        torch.manual_seed(0)
        self.net = NETWORKS[network]() if isinstance(network, str) else network
        self.params = list(self.net.parameters())
        self.x, self.y = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 10

    def clear(self) -> None:
        """No gradients."""
        self.net.zero_grad()

    def backward(self) -> None:
        """Forward and backward pass."""
        loss = F.cross_entropy(self.net(self.x), self.y)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch

    def step(self, method: str, **hyperparameters: float) -> Callable[[], None]:
        """A step of a method of the registry, or of "sgd": torch's own."""
        base = torch.optim.SGD(self.params, lr=1e-9, momentum=0.9)
        if method == "sgd":
            return functools.partial(self._sgd, base)
        opt = flatmin.FlatOptimizer(base, flatmin.build(method, **hyperparameters), model=self.net)
        return functools.partial(self._flat_by_example if asks_about_examples(opt.method) else self._flat, opt)

    def _sgd(self, base: torch.optim.Optimizer) -> None:
        base.zero_grad()
        self.backward()
        base.step()

    def _flat(self, opt: flatmin.FlatOptimizer) -> None:
        for _ in opt.probes():
            self.backward()
        opt.step()

    def _flat_by_example(self, opt: flatmin.FlatOptimizer) -> None:
        for probe in opt.probes():
            labels = self.y[probe.rows]
            probe.backward(F.cross_entropy(self.net(self.x[probe.rows]), labels, reduction="none"), labels)
        opt.step()


def measure(setup: Setup, methods: Sequence[str], repeats: int, block: int = 1) -> dict[str, list[float]]:
    """Seconds per step of every contender, "sgd" among them, in every repeat."""
    steps = {name: setup.step(name) for name in dict.fromkeys(["sgd", *methods])}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    shuffle = random.Random(0).shuffle
    for repeat in range(-3, repeats):  # three repeats to warm up
        shuffle(order)
        for name in order:
            setup.clear()
            start = time.perf_counter()
            for _ in range(block):
                steps[name]()
            if repeat >= 0:
                seconds[name].append((time.perf_counter() - start) / block)
    return seconds


def ratios(seconds: dict[str, list[float]], name: str) -> tuple[float, float, float]:
    """Median, lower and upper quartile of the ratio to "sgd"."""
    of_each = [a / b for a, b in zip(seconds[name], seconds["sgd"], strict=True)]
    low, middle, high = statistics.quantiles(of_each, n=4)
    return middle, low, high


def main() -> None:
    """Parse the command line, measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=flatmin.methods(), metavar="NAME", default=list(DEFAULT))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["conv", "resnet20"])
    parser.add_argument("--batch", type=int, default=64, help="examples per batch (default 64)")
    parser.add_argument("--repeats", type=int, default=40, help="interleaved repeats, at least 2 (default 40)")
    parser.add_argument("--block", type=int, default=1, help="steps per repeat (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    environment = {
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    print(", ".join(f"{key} {value}" for key, value in environment.items()))
    results: dict[str, object] = {}
    for network in options.networks:
        setup = Setup(network, options.batch)
        seconds = measure(setup, options.methods, options.repeats, options.block)
        elements = sum(p.numel() for p in setup.params)
        print(f"\n{network}: {elements:,} weights, batch {options.batch}, {options.repeats} repeats")
        print(f"{'':20}{'ms':>8}{'/ sgd':>8}   quartiles")
        rows = {}
        for name, taken in seconds.items():
            middle, low, high = ratios(seconds, name)
            rows[name] = {"milliseconds": 1e3 * statistics.median(taken), "per_sgd": middle, "quartiles": [low, high]}
            print(f"{name:20}{rows[name]['milliseconds']:8.1f}{middle:8.3f}   {low:.3f} to {high:.3f}")
        results[network] = {"elements": elements, "batch": options.batch, "repeats": options.repeats, "rows": rows}
    if options.json:
        options.json.write_text(json.dumps({"environment": environment, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Memory, drift and time of gradients without backpropagation, on a network of 50 million weights.

    python benchmarks/zeroth_order.py [--width 2048] [--depth 12] [--batch 32] [--repeats 5] [--json FILE]

Memory: the most that a process needs beyond what it has before the step, network and batch included there. Each way is
measured in a process of its own. Drift: what adding and subtracting noise leaves in the weights, relative to them; ours
are not written. Time: medians over repeats of whole steps, in units of a step with backpropagation, in an order
drawn anew for each repeat.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatmin

#: What `ru_maxrss` counts in.
UNIT = 1 if sys.platform == "darwin" else 1024


def network(width: int, depth: int) -> nn.Module:
    """Linear layers and ReLU."""
    return nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())])


def steps(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], Any]]:
    """A step of each kind, at a learning rate that moves nothing visible."""

    def loss() -> Tensor:
        return F.cross_entropy(net(x), y)

    def optimizer(**options: Any) -> flatmin.FlatOptimizer:
        return flatmin.FlatOptimizer(torch.optim.SGD(net.parameters(), lr=1e-12), flatmin.Plain(), **options)

    def backpropagation() -> None:
        plain = torch.optim.SGD(net.parameters(), lr=1e-12)
        plain.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        plain.step()

    def loop() -> None:
        opt = optimizer(gradient=flatmin.ZerothOrder())
        for probe in opt.probes():
            probe.backward(loss())
        opt.step()

    return {
        "inference": torch.no_grad()(loss),
        "backpropagation": backpropagation,
        "zeroth order, closure": lambda: optimizer(gradient=flatmin.ZerothOrder()).step(loss),
        "zeroth order, loop": loop,
        "forward gradient, closure": lambda: optimizer(gradient=flatmin.ForwardGradient()).step(loss),
    }


def measured_memory(name: str, width: int, depth: int, batch: int) -> dict[str, float]:
    """Peak memory of one kind of step in this process, which must be fresh, in MB."""
    torch.set_num_threads(1)
    net = network(width, depth)
    x, y = torch.randn(batch, width), torch.randint(width, (batch,))
    small = network(8, 2)  # loads what torch loads at a first step
    steps(small, torch.randn(2, 8), torch.zeros(2, dtype=torch.int64))[name]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps(net, x, y)[name]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = sum(p.nbytes for p in net.parameters())
    return {"more_mb": (peak - before) * UNIT / 1e6, "weights_mb": weights / 1e6}


def memory(width: int, depth: int, batch: int) -> dict[str, dict[str, float]]:
    """Of every kind of step, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for name in steps(network(8, 1), torch.zeros(1, 8), torch.zeros(1, dtype=torch.int64)):
        with context.Pool(1) as pool:
            found[name] = pool.apply(measured_memory, (name, width, depth, batch))
    return found


def drift(dtype: torch.dtype, steps: int, mu: float = 1e-3) -> float:
    """The relative distance that adding noise, subtracting it twice and adding it again moves weights in some steps."""
    torch.manual_seed(0)
    w = (0.02 * torch.randn(100_000)).to(dtype)
    start = w.double()
    for _ in range(steps):
        v = torch.randn(w.shape)
        w.add_(v, alpha=mu).add_(v, alpha=-2 * mu).add_(v, alpha=mu)
    return float((w.double() - start).norm() / start.norm())


def times(width: int, depth: int, batch: int, repeats: int) -> dict[str, float]:
    """Of every kind of step, in units of a step with backpropagation."""
    net = network(width, depth)
    ways = steps(net, torch.randn(batch, width), torch.randint(width, (batch,)))
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        took = {}
        for name in random.sample(list(ways), len(ways)):
            begin = time.perf_counter()
            ways[name]()
            took[name] = time.perf_counter() - begin
        if repeat:  # the first one warms up
            for name, seconds in took.items():
                ratios[name].append(seconds / took["backpropagation"])
    return {name: statistics.median(values) for name, values in ratios.items()}


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    sizes = options.width, options.depth, options.batch
    found = {
        "parameters": sum(p.numel() for p in network(options.width, options.depth).parameters()),
        "batch": options.batch,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "memory": memory(*sizes),
        "drift": {
            f"{dtype}".removeprefix("torch."): {str(n): drift(dtype, n) for n in (1, 100, 1000)}
            for dtype in (torch.float32, torch.bfloat16)
        },
        "time": times(*sizes, options.repeats),
    }
    for name, row in found["memory"].items():
        share = row["more_mb"] / row["weights_mb"]
        print(f"{name:28} {row['more_mb']:8.0f} MB beyond weights of {row['weights_mb']:.0f} MB, {share:.2f} of them")
    for dtype, row in found["drift"].items():
        drifts = ", ".join(f"{value:.1e} in {n}" for n, value in row.items())
        print(f"drift of added and subtracted noise, {dtype}: {drifts} steps")
    for name, ratio in found["time"].items():
        print(f"{name:28} {ratio:.2f} of a step with backpropagation")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

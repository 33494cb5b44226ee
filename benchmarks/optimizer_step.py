"""Time and memory of the optimizer step alone: forward and backward are replaced by writing a gradient.

    python benchmarks/optimizer_step.py [--repeats 40] [--model resnet18 vit_b] [--device cuda] [--json FILE]

Every contender takes the same steps on the same shapes. One repeat runs each contender once, in an order drawn anew,
and every figure is a median over repeats of a ratio within one repeat: the speed of a shared machine drifts.

What is timed: everything between the end of one backward pass and the beginning of the next. The stand-in for the
backward pass is timed apart and subtracted; it leaves in `p.grad` what autograd leaves: a new tensor where there was
none, a sum where there was one.

Floor: the bytes that a step must move at least, each operand read or written once per phase that cannot be merged with
the next, over the bandwidth of a large `copy_` measured in the same repeat. See `FLOOR`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import platform
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import flatmin
import peers

#: Measured where it is installed.
pytorch_optimizer: Any = None
with contextlib.suppress(ImportError):
    import pytorch_optimizer

#: Parameter-sized passes (reads plus writes) that a step needs:
#: norm of the first gradient or of |w| g · copy w, add δ (w and g read, w and copy written) · put w back · SGD with
#: momentum (w, g, m read, w, m written) · for PUGD the norm of the sum, too. Scaling by 1/norm rides on the SGD pass.
FLOOR = {
    "sgd": 5,
    "sam": 1 + 4 + 2 + 5,
    "asam": 2 + 4 + 2 + 5,
    "pugd": 2 + 4 + 2 + 1 + 5,
    "ugd": 1 + 5,
    "msam": 1 + 4 + 2 + 5,
}

METHODS: dict[str, flatmin.Method] = {
    "sam": flatmin.SAM(),
    "asam": flatmin.ASAM(),
    "pugd": flatmin.PUGD(),
    "ugd": flatmin.UGD(),
    "msam": flatmin.MomentumSAM(),
}
#: The fastest of the other implementations of a method, which ours are compared with.
BASELINES = {"sam": "sam composer", "pugd": "pugd official"}
PEERS = {"sam composer": peers.composer_sam, "sam davda54": peers.davda54_sam, "pugd official": peers.official_pugd}
BASES = {"foreach": {"foreach": True}, "fused": {"fused": True}}


def resnet18() -> list[tuple[int, ...]]:
    """The 62 parameter shapes of a CIFAR-style ResNet-18, 11.2 million elements."""
    shapes: list[tuple[int, ...]] = [(64, 3, 3, 3), (64,), (64,)]
    width = 64
    for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for block in range(2):
            shapes += [(out, width, 3, 3), (out,), (out,), (out, out, 3, 3), (out,), (out,)]
            if block == 0 and (stride != 1 or width != out):
                shapes += [(out, width, 1, 1), (out,), (out,)]
            width = out
    return [*shapes, (10, 512), (10,)]


def vit_b() -> list[tuple[int, ...]]:
    """The 152 parameter shapes of a ViT-B/16, 86.6 million elements."""
    d = 768
    layer: list[tuple[int, ...]] = [(d,), (d,), (3 * d, d), (3 * d,), (d, d), (d,), (d,), (d,)]
    layer += [(4 * d, d), (4 * d,), (d, 4 * d), (d,)]
    return [(1, 1, d), (1, 197, d), (d, 3, 16, 16), (d,), *layer * 12, (d,), (d,), (1000, d), (1000,)]


MODELS = {"resnet18": resnet18, "vit_b": vit_b}


class Stage:
    """One set of parameters for all contenders, with a stand-in for the backward pass that keeps its own time."""

    def __init__(self, shapes: list[tuple[int, ...]], device: str = "cpu"):
        generator = torch.Generator().manual_seed(0)
        self.device = device
        self.params = [torch.nn.Parameter(0.05 * torch.randn(s, generator=generator).to(device)) for s in shapes]
        self.gradient = [torch.randn(p.shape, generator=generator).to(device) for p in self.params]
        self.seconds = 0.0

    def now(self) -> float:
        """Seconds, once the device has done what it was told."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @torch.no_grad()
    def backward(self) -> None:
        """Leave gradients as autograd does, which calls hooks before and after."""
        start = self.now()
        for p, g in zip(self.params, self.gradient, strict=True):
            for hook in list((p._backward_hooks or {}).values()):
                hook(g)
            if p.grad is None:
                p.grad = g.clone()
            else:
                p.grad.add_(g)
            for hook in list((p._post_accumulate_grad_hooks or {}).values()):
                hook(p)
        self.seconds += self.now() - start

    def clear(self) -> None:
        """What `zero_grad()` of a closure does."""
        start = time.perf_counter()
        for p in self.params:
            p.grad = None
        self.seconds += time.perf_counter() - start

    def fresh_backward(self) -> None:
        """Clear, then backward: the closure of a textbook implementation."""
        self.clear()
        self.backward()


def contenders(stage: Stage) -> dict[str, Callable[[], object]]:
    """Name -> one step. Contenders with the same kind of base share the base, so its momentum exists twice in all."""
    steps: dict[str, Callable[[], object]] = {}
    for kind, options in BASES.items():
        base = torch.optim.SGD(stage.params, lr=1e-6, momentum=0.9, **options)
        steps[f"sgd {kind}"] = functools.partial(_sgd_step, stage, base)
        for name, method in METHODS.items():
            for compiled in (False, True):
                opt = flatmin.FlatOptimizer(base, method, compile=compiled)
                step = functools.partial(opt.step, functools.partial(_closure, stage, opt))
                steps[f"{name}{' compiled' * compiled} {kind}"] = step
        for name, peer in PEERS.items():
            steps[f"{name} {kind}"] = functools.partial(peer, stage.params, base, stage.backward, {})
        if pytorch_optimizer is not None:
            theirs = pytorch_optimizer.SAM(stage.params, torch.optim.SGD, lr=1e-6, momentum=0.9, **options)
            closure = functools.partial(_closure, stage, theirs)
            steps[f"sam pytorch_optimizer {kind}"] = functools.partial(_their_step, stage, theirs, closure)
    return steps


def _sgd_step(stage: Stage, base: torch.optim.Optimizer) -> None:
    stage.fresh_backward()
    base.step()


def _their_step(stage: Stage, opt: Any, closure: Callable[[], None]) -> None:
    """pytorch_optimizer wants the first gradient before its step."""
    stage.fresh_backward()
    opt.step(closure)


def _closure(stage: Stage, opt: torch.optim.Optimizer) -> None:
    opt.zero_grad()
    stage.backward()


def copy_bandwidth(stage: Stage, elements: int = 1 << 24) -> float:
    """Bytes per second, read plus written, of one large copy."""
    source, target = (torch.zeros(elements, device=stage.device) for _ in range(2))
    target.copy_(source)
    start = stage.now()
    target.copy_(source)
    return 2 * 4 * elements / (stage.now() - start)


def measure_time(stage: Stage, steps: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every contender in every repeat, and of the floor's unit: one parameter-sized pass."""
    elements = sum(p.numel() for p in stage.params)
    seconds: dict[str, list[float]] = {name: [] for name in [*steps, "pass"]}
    order = list(steps)
    shuffle = random.Random(0).shuffle
    for repeat in range(-3, repeats):  # to warm up: passes are compiled when they are met for the second time
        shuffle(order)
        for name in order:
            stage.seconds = 0.0
            start = stage.now()
            steps[name]()
            if repeat >= 0:
                seconds[name].append(stage.now() - start - stage.seconds)
            stage.clear()
        if repeat >= 0:
            seconds["pass"].append(4 * elements / copy_bandwidth(stage))
    return seconds


def extra_copies(stage: Stage, step: Callable[[], object]) -> dict[str, float]:
    """Parameter-sized copies beyond parameters, gradients and base state: at the peak of a step, and kept after it.

    From the allocator's own record of one step, so exact. Plain training has one set of gradients at its peak.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            step()
            stage.clear()
    record = profile.profiler.kineto_results.events()
    changes = [event.nbytes() for event in record if event.name() == "[memory]"]
    unit = sum(p.numel() * p.element_size() for p in stage.params)
    live = list(itertools.accumulate(changes))
    return {"peak": max(live) / unit - 1, "kept": live[-1] / unit}


def report(model: str, repeats: int, device: str) -> dict[str, object]:
    """Measure one model and print its table."""
    shapes = MODELS[model]()
    stage = Stage(shapes, device)
    steps = contenders(stage)
    seconds = measure_time(stage, steps, repeats)

    def ratio(name: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))

    rows = []
    elements = sum(torch.Size(s).numel() for s in shapes)
    print(f"\n{model}: {len(shapes)} tensors, {elements / 1e6:.1f} M parameters, {repeats} repeats")
    print(f"{'':28}{'ms':>8}{'/ SGD foreach':>15}{'/ peer':>8}{'/ floor':>9}{'extra copies':>14}{'kept':>6}")
    for name in steps:
        base = name.split()[-1]
        method = name.split()[0]
        peer = f"{BASELINES[method]} {base}" if method in BASELINES else ""
        memory = extra_copies(stage, steps[name]) if device == "cpu" else {"peak": math.nan, "kept": math.nan}
        row = {
            "name": name,
            "milliseconds": 1e3 * statistics.median(seconds[name]),
            "per_sgd_foreach": ratio(name, "sgd foreach"),
            "per_peer": ratio(name, peer) if peer and name != peer else None,
            "per_floor": ratio(name, "pass") / FLOOR[method],
            "extra_copies_peak": memory["peak"],
            "extra_copies_kept": memory["kept"],
        }
        rows.append(row)
        print(
            f"{name:28}{row['milliseconds']:8.1f}{row['per_sgd_foreach']:15.2f}"
            f"{'' if row['per_peer'] is None else format(row['per_peer'], '.2f'):>8}{row['per_floor']:9.2f}"
            f"{memory['peak']:14.2f}{memory['kept']:6.2f}"
        )
    return {"tensors": len(shapes), "elements": elements, "repeats": repeats, "rows": rows}


def main() -> None:
    """Parse the command line, measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40, help="interleaved repeats, at least 1 (default 40)")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS), help="which parameter lists")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    environment = {
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
    }
    print(", ".join(f"{key} {value}" for key, value in environment.items()))
    results = {model: report(model, options.repeats, options.device) for model in options.model}
    if options.json:
        options.json.write_text(json.dumps({"environment": environment, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

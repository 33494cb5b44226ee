"""Does zeroth order end in flatter minima? Fine-tuning with and without backpropagation, to the same training loss.

    python benchmarks/zeroth_order_flatness.py [--seeds 5] [--target 0.3] [--directions 16] [--steps 6000] [--json FILE]

A network learns scikit-learn's digits, and is then fine-tuned on the same digits upside down: by SGD, and by SGD on
estimates from two points on random lines. Both begin at the same weights and end when the training loss, a running mean
over batches, is below the target. So the minima are compared at equal loss. The learning rate of each way is the one
that gets there in the fewest steps on a seed of its own. Measured on all training images: loss, trace and largest
eigenvalue of the Hessian, and the accuracy on test images. The ratios are geometric means, with the standard error of
their logarithm.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatmin
from flatmin import flatness
from flatmin.study.networks import models

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from digits import load  # type: ignore[import-not-found]  # the examples are scripts

BATCH, PRETRAINING = 64, 300
RATES = {"backpropagation": (3e-3, 1e-2, 3e-2, 0.1), "zeroth order": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)}


def pretrained(seed: int, x: Tensor, y: Tensor) -> nn.Module:
    """A network that knows the digits."""
    torch.manual_seed(seed)
    net = models.build("small-cnn-layernorm", 1, 10, image_size=8)
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(PRETRAINING):
        rows = torch.randint(len(x), (BATCH,))
        opt.zero_grad()
        F.cross_entropy(net(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        opt.step()
    return net


def fine_tuned(net: nn.Module, way: str, lr: float, x: Tensor, y: Tensor, options: argparse.Namespace) -> int:
    """Train in place until the loss is below the target; the number of steps, or of all of them if it never is."""
    estimator = None if way == "backpropagation" else flatmin.ZerothOrder(options.directions)
    base = torch.optim.SGD(net.parameters(), lr=lr)
    opt = flatmin.FlatOptimizer(base, flatmin.Plain(), gradient=estimator, model=net, seed=options.seed)
    mean = math.inf
    for step in range(1, options.steps + 1):
        rows = torch.randint(len(x), (BATCH,))
        for probe in opt.probes():
            loss = F.cross_entropy(net(x[rows]), y[rows])
            probe.backward(loss)
        opt.step()
        value = float(loss.detach())
        mean = value if mean == math.inf else 0.95 * mean + 0.05 * value
        if not math.isfinite(value):
            break
        if mean < options.target and step > 20:
            return step
    return int(options.steps)


def measured(net: nn.Module, x: Tensor, y: Tensor, test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Loss, trace, largest eigenvalue and test accuracy."""
    risk = flatness.Risk(net, nn.CrossEntropyLoss(), list(zip(torch.split(x, 256), torch.split(y, 256), strict=True)))
    with torch.no_grad():
        loss = float(F.cross_entropy(net(x), y))
        accuracy = float((net(test[0]).argmax(1) == test[1]).float().mean())
    top, trace = flatness.eigenvalues(risk, k=1), flatness.trace(risk, tol=0.05)
    return {"loss": loss, "trace": trace.value, "lambda_max": float(top.values[0]), "test_accuracy": accuracy}


def main() -> None:
    """Search, fine-tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--target", type=float, default=0.3)
    parser.add_argument("--directions", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    (x, y), (tx, ty) = (data.tensors for data in load())
    down, test = x.flip(2), (tx.flip(2), ty)

    def run(way: str, lr: float, seed: int) -> tuple[nn.Module, int]:
        net = copy.deepcopy(pretrained(seed, x, y))
        torch.manual_seed(seed)  # the same batches for both
        options.seed = seed
        return net, fine_tuned(net, way, lr, down, y, options)

    rates = {way: min((run(way, lr, 1000)[1], lr) for lr in found)[1] for way, found in RATES.items()}
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in RATES}
    for seed in range(options.seeds):
        for way, lr in rates.items():
            net, steps = run(way, lr, seed)
            rows[way].append({"seed": seed, "steps": steps, **measured(net, down, y, test)})
            figures = ", ".join(f"{name} {value:.4g}" for name, value in rows[way][-1].items())
            print(f"{way} at lr {lr:g}: {figures}", flush=True)
    for name in ("loss", "trace", "lambda_max", "test_accuracy"):
        pairs = zip(rows["zeroth order"], rows["backpropagation"], strict=True)
        ratios = [math.log(a[name] / b[name]) for a, b in pairs]
        spread = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan
        ratio = math.exp(statistics.fmean(ratios))
        print(f"{name}: zeroth order has {ratio:.2f} of backpropagation's, logarithm ± {spread:.2f}")
    if options.json is not None:
        options.json.write_text(json.dumps({"rates": rates, "runs": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

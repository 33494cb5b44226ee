"""How well probabilities are calibrated: SGD, IVON at its mean, and IVON averaged over draws of the weights.

    python benchmarks/calibration.py --trials 12 --out results/calibration.json

Digits, the network and the schedule of the digits studies, clean and with 40 % label noise. Learning rate, weight
decay and, for IVON, h₀ are searched alike: quasi-random trials on one seed, the best three on three more, scored by the
mean validation accuracy of both conditions, of what is then measured. Test data are used once, by the final runs.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.quasirandom import SobolEngine

import flatmin
from flatmin import robustness
from flatmin.registry import Range
from flatmin.study import files
from flatmin.study.config import FIRST_TUNING_SEED, generator, number
from flatmin.study.data.dataset import Dataset, Split, load_dataset, replace_labels
from flatmin.study.networks import models
from flatmin.study.training import record
from flatmin.study.training.batches import shuffled

EPOCHS, BATCH, SAMPLES, BINS = 25, 64, 16, 15
NOISE = (0.0, 0.4)
SPACES = {
    "sgd": {"lr": Range(0.001, 1.0), "weight_decay": Range(1e-4, 0.1)},
    "ivon": {"lr": Range(0.01, 10.0), "weight_decay": Range(1e-4, 0.1), "hess_init": Range(0.05, 5.0)},
}

Settings = dict[str, float]


#: Applies a function to many tuples of arguments, in their order.
Map = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], list[Any]]


def main() -> None:
    """Search, train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--beta2", type=float, default=0.999, help="of IVON, for a training of 400 steps")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with get_context("spawn").Pool(options.processes) as pool:
        for name in SPACES:
            settings = search(name, options.trials, options.beta2, pool.starmap)
            found[name] = {"settings": settings}
            print(name, settings)
            for noise in NOISE:
                runs = [(name, settings, options.beta2, noise, seed, "test") for seed in range(options.seeds)]
                rows = pool.starmap(scores, runs)
                for kind in rows[0]:
                    values = {key: [row[kind][key] for row in rows] for key in rows[0][kind]}
                    found[name][f"{kind}, noise {noise}"] = values
                    print(f"  {noise:.0%} {kind:16}" + "".join(f"{key:>12} {shown(v)}" for key, v in values.items()))
    if options.out:
        about = {
            "date": datetime.date.today().isoformat(),
            "trials": options.trials,
            "seeds": options.seeds,
            "beta2": options.beta2,
            "samples": SAMPLES,
            "environment": record.environment(1),
        }
        files.write_json(options.out, {**about, "found": found})


@cache
def digits() -> Dataset:
    """The data."""
    return load_dataset("digits")


def search(name: str, trials: int, beta2: float, starmap: Map) -> Settings:
    """The settings with the best validation accuracy, on average over both conditions."""
    space = SPACES[name]
    sequence = SobolEngine(len(space), scramble=True, seed=0)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    points = sequence.draw(trials).tolist()
    tried = [{key: axis.at(u) for (key, axis), u in zip(space.items(), point, strict=True)} for point in points]

    def best(tried: list[Settings], count: int, seeds: range) -> list[Settings]:
        each = list(itertools.product(NOISE, (FIRST_TUNING_SEED + seed for seed in seeds)))
        runs = [(name, settings, beta2, noise, seed, "validation") for settings in tried for noise, seed in each]
        found = [list(row.values())[-1]["accuracy"] for row in starmap(scores, runs)]
        means = [statistics.fmean(found[len(each) * i : len(each) * (i + 1)]) for i in range(len(tried))]
        return [tried[i] for i in sorted(range(len(tried)), key=lambda i: -means[i])[:count]]

    return best(best(tried, 3, range(1)), 1, range(1, 4))[0]


def trained(name: str, settings: Settings, beta2: float, noise: float, seed: int) -> tuple[nn.Module, Any]:
    """A network, and its optimizer."""
    torch.set_num_threads(1)  # as in a study
    images, clean = digits().train
    labels = replace_labels(clean, noise, len(digits().classes), generator(seed, "label noise"))
    x = digits().standardise(images)
    torch.manual_seed(number(seed, "initial weights"))
    net = models.build("small-cnn", 1, 10)
    lr, decay = settings["lr"], settings["weight_decay"]
    if name == "sgd":
        base = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
        method: Any = flatmin.Plain()
    else:
        base = torch.optim.SGD(net.parameters(), lr=lr)
        method = flatmin.IVON(len(labels), settings["hess_init"], decay, beta2=beta2)
    opt = flatmin.FlatOptimizer(base, method, model=net, seed=number(seed, "method"))
    steps = EPOCHS * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=steps)
    for rows in shuffled(len(labels), BATCH, steps, generator(seed, "data order")):
        for probe in opt.probes():
            probe.backward(cross_entropy(net(x[rows]), labels[rows]))
        opt.step()
        schedule.step()
    flatmin.rebuild_statistics(net, [x[i : i + BATCH] for i in range(0, len(x), BATCH)])
    net.eval()
    return net, opt


def scores(
    name: str, settings: Settings, beta2: float, noise: float, seed: int, on: str
) -> dict[str, dict[str, float]]:
    """Of the weights themselves, and for IVON of the mean over draws, on a split."""
    net, opt = trained(name, settings, beta2, noise, seed)
    split: Split = getattr(digits(), on)
    x = digits().standardise(split.images)
    with torch.no_grad():
        found = {"at the weights": calibration(net(x).softmax(1), split.labels)}
    if isinstance(opt.method, flatmin.IVON):
        mean, _ = flatmin.predict(opt, lambda: net(x).softmax(1), SAMPLES)
        found["mean of draws"] = calibration(mean, split.labels)
    return found


def calibration(p: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, negative log likelihood (nats), and expected calibration error, of probabilities."""
    return asdict(robustness.calibration([(p.clamp(min=1e-12).log(), labels)], BINS))


def shown(values: list[float]) -> str:
    """Mean and 95 % interval over seeds."""
    half = 2.262 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) == 10 else math.nan
    return f"{statistics.fmean(values):.4f} ± {half:.4f}"


if __name__ == "__main__":
    main()

"""PUGD with one norm over all parameters and with a norm per tensor, on the digits.

    python benchmarks/pugd_norm.py

The training is that of `recipes/digits_fixed_decay.toml`, at PUGD's tuned rate. With a norm per tensor, steps on eight
tensors of the network are √8 times as long, so the learning rate divided by √8 is tried, too.
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import Any

from flatmin.registry import METHODS
from flatmin.study.config import Run
from flatmin.study.training.loop import train

TENSORS = 8
LR = METHODS["pugd"].tuned["lr"]
VARIANTS: dict[str, dict[str, Any]] = {
    "global": {"lr": LR},
    "tensor": {"lr": LR, "norm": "tensor"},
    "tensor, lr / √8": {"lr": LR / math.sqrt(TENSORS), "norm": "tensor"},
}
#: Student's t at 97.5 %, by the number of seeds.
T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


def main() -> None:
    """Train, and print a Markdown table: mean test accuracy in percent, and half a 95 % interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, choices=sorted(T))
    seeds = parser.parse_args().seeds
    print("| norm | label noise | test accuracy, % | n |", "|:--|--:|--:|--:|", sep="\n")
    for noise in (0.0, 0.4):
        for name, settings in VARIANTS.items():
            runs = [Run(contender="pugd", settings=settings, noise=noise, seed=seed) for seed in range(seeds)]
            accuracies = [100 * (train(run).test or math.nan) for run in runs]
            half = T[seeds] * statistics.stdev(accuracies) / math.sqrt(seeds)
            print(f"| {name} | {noise:g} | {statistics.mean(accuracies):.2f} ± {half:.2f} | {seeds} |", flush=True)


if __name__ == "__main__":
    main()

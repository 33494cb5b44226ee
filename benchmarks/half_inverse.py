"""A stiff regression: two functions, of which the loss sees one a hundred times less, and four ways to descend.

    python benchmarks/half_inverse.py [--seeds 5] [--steps 1000] [--json FILE]

    y = (sin 6x, cos 9x),  loss = ½ mean ((y₁ − sin 6x)² + (λ y₂ − cos 9x)²),  λ = 0.01

After the toy example of arXiv 2203.10131, in our reading: the second output must become a hundred times larger than
the first. A network with one hidden layer of 7 tanh units, whole batches of 128 points. The learning rate of each is
the best of a few on a seed of its own; the table has the median loss over the others, and the smallest and largest.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
from pathlib import Path

import torch
from torch import Tensor, nn

import flatmin

SMALL, POINTS, UNITS = 0.01, 128, 7
#: Name -> (kappa, or None for backpropagation; base; learning rates).
WAYS = {
    "gradient descent": (None, torch.optim.SGD, (0.01, 0.03, 0.1, 0.3, 1.0)),
    "adam": (None, torch.optim.Adam, (3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)),
    "gauss-newton": (1.0, torch.optim.SGD, (1e-4, 1e-3, 1e-2, 0.1, 1.0)),
    "half-inverse": (0.5, torch.optim.SGD, (3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)),
}


def loss_of(outputs: Tensor, x: Tensor) -> Tensor:
    """½ mean of the squared distance, the second output scaled."""
    target = torch.cat([torch.sin(6 * x), torch.cos(9 * x)], dim=1)
    scale = torch.tensor([1.0, SMALL], dtype=x.dtype)
    return 0.5 * (outputs * scale - target).square().sum(1).mean()


def train(way: str, lr: float, seed: int, steps: int) -> float:
    """The loss at the end; infinite if it is not finite."""
    kappa, base, _ = WAYS[way]
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(1, UNITS), nn.Tanh(), nn.Linear(UNITS, 2)).double()
    opt = base(net.parameters(), lr=lr)
    x = torch.linspace(-1, 1, POINTS, dtype=torch.float64)[:, None]
    for _ in range(steps):
        opt.zero_grad()
        outputs = net(x)
        loss = loss_of(outputs, x)
        if not loss.isfinite():
            return math.inf
        if kappa is None:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        else:
            flatmin.half_inverse_backward(POINTS * loss, outputs, net.parameters(), kappa=kappa)
        opt.step()
    end = float(loss_of(net(x), x).detach())
    return end if math.isfinite(end) else math.inf


def main() -> None:
    """Search, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    found = {}
    for way, (_, _, rates) in WAYS.items():
        lr = min(rates, key=lambda rate: train(way, rate, 1000, options.steps))
        losses = [train(way, lr, seed, options.steps) for seed in range(options.seeds)]
        found[way] = {"lr": lr, "losses": [loss if math.isfinite(loss) else None for loss in losses]}
        middle = statistics.median(losses)
        print(f"{way:18} lr {lr:<6g} loss {middle:.2e}, from {min(losses):.2e} to {max(losses):.2e}", flush=True)
    if options.json is not None:
        about = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(), "torch": torch.__version__}
        whole = {**about, "steps": options.steps, "seeds": options.seeds, "ways": found}
        options.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

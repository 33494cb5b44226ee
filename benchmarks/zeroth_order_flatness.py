"""Does zeroth order end in flatter minima? A language model is fine-tuned with and without backpropagation.

    python benchmarks/zeroth_order_flatness.py --data shakespeare.txt --then wiki_fr.txt
        [--seeds 5] [--steps 3000] [--directions 1] [--pretraining 1000] [--json FILE]

A transformer by characters learns the first text with AdamW, and is fine-tuned on the second by SGD without momentum:

- zeroth order: on estimates from two points along random lines, for a number of steps. Its learning rate is the one
  with the smallest loss on a seed of its own;
- the same rate: by backpropagation, with the same learning rate and batches. The expected steps are nearly equal, so
  what differs is the noise of the estimate;
- fastest: by backpropagation, with the learning rate that needs the fewest steps on a seed of its own.

All begin at the same weights. Backpropagation ends when its loss on fixed training windows is no larger than where
zeroth order ended, so weights of equal loss are compared. Measured on these windows: loss, trace and largest eigenvalue
of the Hessian; and bits per character of the test split. Ratios are geometric means over the seeds, with a 95 %
interval. Memory is the peak that one step allocates beyond weights and batch, from the allocator's record.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import math
import platform
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import flatmin
from flatmin import flatness
from flatmin.study import stats
from flatmin.study.data import text
from flatmin.study.networks.transformer import character_transformer
from flatmin.study.tasks.characters import loss_of

CONTEXT, WIDTH, DEPTH, BATCH = 64, 64, 4, 16
#: Windows on which loss and flatness are measured, and the steps between two looks at the loss.
WINDOWS, LOOK = 128, 10
ZEROTH, SAME, FASTEST = "zeroth order", "backpropagation, same rate", "backpropagation, fastest"
RATES = {ZEROTH: (1e-3, 2e-3, 4e-3), FASTEST: (0.03, 0.1, 0.3)}
SEARCH = 1000  # the seed of the search


@dataclass(frozen=True)
class Problem:
    """Two texts, and the windows of the second on which weights are compared.

    Args:
        corpus: the texts.
        windows: batches (inputs, targets).
    """

    corpus: text.Corpus
    windows: list[tuple[Tensor, Tensor]]

    @property
    def second(self) -> text.Text:
        """The text of the fine-tuning."""
        assert self.corpus.then is not None, "--then is required"
        return self.corpus.then

    @torch.no_grad()
    def loss(self, net: nn.Module) -> float:
        """In nats, on the fixed windows."""
        return float(torch.cat([loss_of(net(x), y) for x, y in self.windows]).mean())

    @torch.no_grad()
    def test_bits(self, net: nn.Module) -> float:
        """Bits per character of the second text's test split."""
        batches = text.in_order(self.second.test, CONTEXT, 64)
        return float(torch.cat([loss_of(net(x), y) for x, y in batches]).mean()) / math.log(2)


def batches(split: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows without end; they depend on torch's generator only."""
    windows = text.Windows(split, split, CONTEXT, BATCH)
    while True:
        yield from windows  # another pass


def pretrained(problem: Problem, seed: int, steps: int) -> nn.Module:
    """A network that knows the first text."""
    torch.manual_seed(seed)
    net = character_transformer(problem.corpus.symbols, CONTEXT, WIDTH, DEPTH)
    opt = torch.optim.AdamW(net.parameters(), lr=3e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, total_steps=steps)
    for x, y in islice(batches(problem.corpus.first.train), steps):
        opt.zero_grad()
        loss_of(net(x), y).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        opt.step()
        schedule.step()
    return net


def step_of(net: nn.Module, lr: float, directions: int | None, seed: int) -> Callable[[Tensor, Tensor], object]:
    """A step of plain SGD, on the gradient or on its estimate along some directions."""
    base = torch.optim.SGD(net.parameters(), lr=lr)
    if directions is None:

        def backpropagation(x: Tensor, y: Tensor) -> None:
            base.zero_grad()
            loss_of(net(x), y).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            base.step()

        return backpropagation
    estimator = flatmin.ZerothOrder(directions)
    opt = flatmin.FlatOptimizer(base, flatmin.Plain(), gradient=estimator, model=net, seed=seed)
    return lambda x, y: opt.step(lambda: loss_of(net(x), y).mean())


def fine_tuned(
    problem: Problem, start: nn.Module, lr: float, seed: int, steps: int, *, directions: int | None, target: float
) -> tuple[nn.Module, int]:
    """A trained copy, and its number of steps: all of them, or as many as took it to the target.

    The copy of a run that diverged or never got there has all steps.
    """
    net = copy.deepcopy(start)
    step = step_of(net, lr, directions, seed)
    torch.manual_seed(seed)  # the same batches for all
    for number, (x, y) in enumerate(islice(batches(problem.second.train), steps), start=1):
        step(x, y)
        if number % LOOK == 0 and target > -math.inf:
            loss = problem.loss(net)
            if loss <= target:
                return net, number
            if not math.isfinite(loss):
                break
    return net, steps


def measured(problem: Problem, net: nn.Module) -> dict[str, float]:
    """Loss, trace, largest eigenvalue, and the test."""
    risk = flatness.Risk(net, lambda outputs, targets: loss_of(outputs, targets).mean(), problem.windows)
    top, trace = flatness.eigenvalues(risk, k=1), flatness.trace(risk, tol=0.05)
    return {
        "loss": problem.loss(net),
        "trace": trace.value,
        "lambda_max": float(top.values[0]),
        "test_bits": problem.test_bits(net),
    }


def peak(step: Callable[[], object]) -> int:
    """The most bytes that a call allocates beyond what it began with, from the allocator's record."""
    step()  # what is made once
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            step()
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return int(max(accumulate(changes)))


def memory(problem: Problem, net: nn.Module) -> dict[str, float]:
    """Peak of a step in MB, per way; and the weights."""
    x, y = next(batches(problem.second.train))
    zeroth, backward = (step_of(copy.deepcopy(net), 0.0, directions, 0) for directions in (1, None))
    ways = {
        "inference": torch.no_grad()(lambda: loss_of(net(x), y)),
        ZEROTH: lambda: zeroth(x, y),
        "backpropagation": lambda: backward(x, y),
    }
    return {name: peak(step) / 1e6 for name, step in ways.items()} | {
        "weights": sum(p.nbytes for p in net.parameters()) / 1e6
    }


def searched(problem: Problem, options: argparse.Namespace) -> dict[str, float]:
    """The learning rates, found on a seed of their own."""
    start = pretrained(problem, SEARCH, options.pretraining)

    def ends(lr: float) -> float:
        net, _ = fine_tuned(problem, start, lr, SEARCH, options.steps, directions=options.directions, target=-math.inf)
        loss = problem.loss(net)
        print(f"search: {ZEROTH} at lr {lr:g} ends at a loss of {loss:.4f}", flush=True)
        return loss if math.isfinite(loss) else math.inf

    losses = {lr: ends(lr) for lr in RATES[ZEROTH]}
    zeroth = min(losses, key=lambda lr: losses[lr])

    def needs(lr: float) -> int:
        _, found = fine_tuned(problem, start, lr, SEARCH, options.steps, directions=None, target=losses[zeroth])
        print(f"search: backpropagation at lr {lr:g} takes {found} steps", flush=True)
        return found

    steps = {lr: needs(lr) for lr in RATES[FASTEST]}
    return {ZEROTH: zeroth, SAME: zeroth, FASTEST: min(steps, key=lambda lr: steps[lr])}


def main() -> None:
    """Search, fine-tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--then", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--directions", type=int, default=1)
    parser.add_argument("--pretraining", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus = text.load(options.data, options.then)
    assert corpus.then is not None
    problem = Problem(corpus, [*islice(text.spread(corpus.then.train, CONTEXT, 32), WINDOWS // 32)])
    rates = searched(problem, options)
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in rates}
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "options": {name: getattr(options, name) for name in ("seeds", "steps", "directions", "pretraining")},
        "rates": rates,
        "starts": [],
        "runs": rows,
    }
    for seed in range(options.seeds):
        start = pretrained(problem, seed, options.pretraining)
        if not seed:
            found["parameters"] = sum(p.numel() for p in start.parameters())
            found["memory_mb"] = memory(problem, start)
            print(found["memory_mb"], flush=True)
        found["starts"].append({"loss": problem.loss(start), "test_bits": problem.test_bits(start)})
        target = -math.inf
        for way, lr in rates.items():
            directions = options.directions if way == ZEROTH else None
            limit = options.steps if way == ZEROTH else 3 * options.steps
            net, steps = fine_tuned(problem, start, lr, seed, limit, directions=directions, target=target)
            target = problem.loss(net) if way == ZEROTH else target
            rows[way].append({"steps": steps, **measured(problem, net)})
            figures = ", ".join(f"{name} {value:.4g}" for name, value in rows[way][-1].items())
            print(f"seed {seed}, {way} at lr {lr:g}: {figures}", flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(found | {"ratios": ratios(rows)}, indent=2) + "\n", encoding="utf-8")
    for way, values in ratios(rows).items():
        words = ", ".join(
            f"{name} {one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for name, one in values.items()
        )
        print(f"{ZEROTH} / {way}: {words}")


def ratios(rows: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Of zeroth order to backpropagation: the geometric mean over the seeds and its 95 % interval."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for way in (SAME, FASTEST):
        pairs = [*zip(rows[ZEROTH], rows[way], strict=True)]
        found[way] = {}
        for name in ("loss", "trace", "lambda_max", "test_bits"):
            log = stats.t_interval([math.log(a[name] / b[name]) for a, b in pairs])
            low, high = (math.exp(log.mean + sign * (log.half_width or math.inf)) for sign in (-1, 1))
            found[way][name] = {"mean": math.exp(log.mean), "low": low, "high": high, "n": log.n}
    return found


if __name__ == "__main__":
    main()

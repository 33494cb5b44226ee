"""Seconds of many short runs through a Ray cluster of this machine, as a ratio to those of worker processes.

    python benchmarks/ray_overhead.py [--runs 200] [--epochs 5] [--jobs 2] [--repeats 3] [--json FILE]

Each measurement is a process of its own, which trains small networks on digits: one half with SGD, the other with PUGD.
The clock runs from before the first worker starts until all have ended, so the start and the end of the cluster count.
The report is left out, being the same for both. A repeat measures both, in an order drawn anew; the ratio is the median
over repeats. `work` is the time inside the trainings, summed and divided by the number of workers: what is left of the
total is the cost of driving the runs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from flatmin.study import comparison, plan
from flatmin.study.config import Study
from flatmin.study.launchers.launcher import Launcher
from flatmin.study.launchers.local import Local
from flatmin.study.launchers.on_ray import OnRay
from flatmin.study.tasks.runs import task_of
from flatmin.study.training import record

LAUNCHERS = ("processes", "ray")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", choices=LAUNCHERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.runs, args.epochs, args.jobs)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in LAUNCHERS}
    for _ in range(args.repeats):
        for name in random.sample(LAUNCHERS, k=2):
            command = [sys.executable, __file__, "--measure", name]
            for option in ("runs", "epochs", "jobs"):
                command += [f"--{option}", str(getattr(args, option))]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name].append(json.loads(out.splitlines()[-1]))
            print(name, ", ".join(f"{key} {value:.1f} s" for key, value in found[name][-1].items()), flush=True)
    pairs = zip(found["ray"], found["processes"], strict=True)
    ratio = statistics.median(ray["total"] / processes["total"] for ray, processes in pairs)
    print(f"{args.runs} runs on {args.jobs} workers: {ratio:.3f} times the seconds of --jobs {args.jobs}")
    if args.json:
        args.json.write_text(json.dumps({**vars(args), "json": None, "ratio": ratio, **found}, indent=2) + "\n")


def measure(name: str, runs: int, epochs: int, jobs: int) -> dict[str, float]:
    """Seconds of one study: in all, and in its trainings per worker."""
    launcher: Launcher = Local(jobs) if name == "processes" else OnRay(cores=jobs)
    study = Study(methods=("sgd", "pugd"), arms=("default",), noise=(0.0,), seeds=runs // 2, epochs=epochs)
    study = plan.canonical(study)
    task_of(study.task).prepare(study)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        began = time.perf_counter()
        with launcher.start(study) as launch:
            comparison.complete(plan.resolve(study), out, launch, Console(quiet=True))
        total = time.perf_counter() - began
        seconds = [found[1].seconds for path in out.rglob("result.json") if (found := record.read(path.parent))]
    assert len(seconds) == 2 * (runs // 2)
    return {"total": total, "work": sum(seconds) / jobs}


if __name__ == "__main__":
    main()

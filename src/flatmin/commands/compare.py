"""`flatmin compare`: a study, from its protocol to its report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from flatmin.checks import at_least
from flatmin.commands import study_options
from flatmin.study.config import Study

#: Default number of examples to measure flatness on: small, because every run is measured.
FLATNESS = 200


@dataclass(frozen=True)
class Compare:
    """Compare optimizers on real data: paired seeds, equal budgets, 95 % intervals.

    - Prints test accuracy, difference to SGD, gradient evaluations and time,
      and what may be concluded under each condition.
    - report.html also shows every run and the flatness of the minima: largest
      eigenvalue, trace, sharpness.
    - Keeps every run in a folder below --out. After an interruption the same
      command continues there and repeats no run.
    - The defaults train 180 small networks in minutes and download nothing.

    Args:
        study: The protocol:
        recipe: a TOML file with the protocol, such as recipes/digits.toml or the study.toml of a study.
            Other options override it.
        out: the study's folder: a new one, or one with the same study, which is then continued. Gets study.toml,
            env.json, runs/, results.json, report.html, report.md, forest.png, accuracy.png, curves.png, cost.png and,
            unless --flatness is 0, flatness.png; with --tune also tune/, tuning.json and sensitivity.png.
        where: Where runs are executed:
        dry_run: print what would be searched and trained, the number of runs and gradients, and an estimate of the
            time, from a few steps of each method; start nothing.
    """

    study: tyro.conf.OmitArgPrefixes[Study] = field(default_factory=lambda: Study(flatness=FLATNESS))
    recipe: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    out: Path = Path("runs/digits")
    where: tyro.conf.OmitArgPrefixes[study_options.Where] = field(default_factory=study_options.Where)
    dry_run: bool = False

    def __call__(self, typed: str) -> None:
        """Run or continue the study, then print its tables; or print its cost."""
        if self.dry_run:
            self._print_cost(Console())
            return
        from flatmin.study import comparison
        from flatmin.study.report import write

        console = Console()
        launcher = self.where.launcher()
        write.show(comparison.compare(self.study, self.out, launcher=launcher, command=typed, console=console), console)
        console.out(f"Every table, plot and run: {self.out / 'report.html'}", highlight=False)

    def _print_cost(self, console: Console) -> None:
        from flatmin.study import estimate

        jobs = self.where.jobs
        at_least("jobs", jobs, 1)
        costs = estimate.estimate(self.study, self.out, console)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for header in ("method", "trials", "runs", "gradients", "time", "searched"):
            table.add_column(header, justify="left" if header in ("method", "searched") else "right")
        for cost in costs:
            searched = ", ".join(f"{name} {axis.low:g} to {axis.high:g}" for name, axis in cost.searched.items())
            numbers = str(cost.trials), str(sum(cost.runs)), f"{cost.gradients:,.0f}", _duration(cost.seconds)
            table.add_row(cost.contender, *numbers, searched or "–")
        console.print(table)
        parts = [sum(part) for part in zip(*(cost.runs for cost in costs), strict=True)]
        words = ("in the first round of the search", "of finalists", "final runs")
        listed = ", ".join(f"{count:,} {what}" for count, what in zip(parts, words, strict=True) if count)
        console.print(f"{sum(parts):,} trainings: {listed}.", highlight=False)
        seconds = sum(cost.seconds for cost in costs)
        how = "a few steps of each method, measured now"
        if not all(cost.measured for cost in costs):
            how = "complete runs in --out, or else " * any(cost.measured for cost in costs) + how
            how = how if any(cost.measured for cost in costs) else "the complete runs in --out"
        console.print(
            f"{_duration(seconds)} of one process; {_duration(seconds / jobs)} with --jobs {jobs}, if they "
            f"do not slow one another. Estimated from {how}; complete runs are not subtracted.",
            highlight=False,
        )
        if self.study.flatness:
            console.print(f"The flatness of {parts[-1]:,} minima is not in the estimate.", highlight=False)
        console.print("Nothing was started.", highlight=False)


def _duration(seconds: float) -> str:
    """`12 s`, `5 min`, `3.2 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

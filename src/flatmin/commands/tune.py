"""`flatmin tune`: only the search of a study."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from flatmin.commands import study_options
from flatmin.study.config import Study


@dataclass(frozen=True)
class Tune:
    """Search settings: the same number of trials for every method, scored on validation data.

    - Prints the best settings of each method under each condition, and the
      share of learning rates that score within 1 % of the best.
    - Several processes can search in one --out, also from several machines
      that share the folder. Each trial runs once; the numbers are the same.
    - `flatmin compare` with the same protocol and --out trains the winners.

    Args:
        study: The protocol:
        recipe: a TOML file with the protocol, such as recipes/digits_tune.toml or the study.toml of a study.
            Other options override it.
        out: the study's folder: a new one, or one with the same study, which is then continued. Gets study.toml,
            env.json, tune/ and tuning.json.
        where: Where runs of this command are executed:
    """

    study: tyro.conf.OmitArgPrefixes[Study] = field(default_factory=lambda: Study(tune=16))
    recipe: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    out: Path = Path("runs/tune")
    where: tyro.conf.OmitArgPrefixes[study_options.Where] = field(default_factory=study_options.Where)

    def __call__(self, typed: str) -> None:
        """Run or continue the search, then print its winners."""
        from flatmin.study import tuning as tuning_file
        from flatmin.study.report import sensitivity, summary
        from flatmin.study.search import tuner

        console = Console()
        tuning = tuner.search(self.study, self.out, console=console, launcher=self.where.launcher(), command=typed)
        searched = sensitivity.sensitivity(self.study, tuning)
        flat = {(one.contender, one.noise): one.near_best for one in searched if one.name == "lr"}
        caption = "flat: share of the searched learning rates that score within 1 % of the best"
        if self.study.tune_finalists > 1:
            caption += "\nscore: of the winner, over the seeds of both rounds"
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
        words = ("method", "condition", "settings")
        metric = tuning_file.metric(tuning)
        score_header = metric.header().replace("accuracy", "score")
        for header in ("method", "condition", score_header, "trials", "failed", "flat, %", "settings"):
            table.add_column(header, justify="left" if header in words else "right", no_wrap=header != "settings")
        for case, found in tuning_file.cases(tuning).items():
            failed = sum(trial["score"] is None for trial in found["trials"])
            settings = ", ".join(f"{key} {value:g}" for key, value in found["winner"].items())
            near = flat.get((case.contender, case.noise))
            share = "–" if near is None else f"{100 * near:.0f}"
            condition = "all" if case.noise is None else summary.condition(case.noise).replace("label noise", "noise")
            score, trials = metric.number(found["score"]), str(len(found["trials"]))
            table.add_row(case.contender, condition, score, trials, str(failed), share, settings)
        console.print(table)
        recipe = shlex.quote(str(self.out / "study.toml"))
        following = f"flatmin compare --recipe {recipe} --out {shlex.quote(str(self.out))}"
        console.out(f"{self.out}: tuning.json, tune/\nto train the winners: {following}", highlight=False)

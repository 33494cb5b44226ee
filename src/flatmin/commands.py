"""The commands of `flatmin`, each a frozen dataclass: its fields are the options, its docstring is the help."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from flatmin.study import config
from flatmin.study.config import Study


def run(name: str, argv: Sequence[str]) -> None:
    """Parse `argv` for the command `name` and do it.

    Raises:
        SystemExit: the options do not parse (code 2), or help was asked for (code 0).
        ValueError: bad input, found later.
        RunError: a run of a study failed.
    """
    cls = COMMANDS[name]
    command: Any = tyro.cli(
        cls,
        prog=f"flatmin {name}",
        args=[*argv],
        default=_from_recipe(argv) if cls is Compare else None,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    command(shlex.join(["flatmin", name, *argv]))


def _cores() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Compare:
    """Compare optimizers on real data: paired seeds, equal budgets, 95 % intervals.

    - Prints test accuracy, difference to SGD, gradient evaluations and time.
    - Keeps every run in a folder below --out. The same command goes on there
      after an interruption, and repeats nothing.
    - As it stands it trains 180 small networks: minutes, and no download.

    Args:
        study: The protocol:
        recipe: a TOML file with the protocol, such as recipes/digits.toml or the study.toml of a study; the options
            given beside it override it.
        out: the study's folder: a new one, or one with this same study, which is then continued. Gets study.toml,
            env.json, runs/, results.json, accuracy.png and curves.png; with --tune also tune/ and tuning.json.
        jobs: worker processes, of one thread each. By default one per core.
    """

    study: tyro.conf.OmitArgPrefixes[Study] = field(default_factory=Study)
    recipe: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    out: Path = Path("runs/digits")
    jobs: int = field(default_factory=_cores)

    def __call__(self, typed: str) -> None:
        """Run or continue the study, print its tables."""
        from flatmin.study import compare, report

        console = Console()
        report.show(compare.compare(self.study, self.out, self.jobs, command=typed, console=console), console)
        console.out(f"{self.out}: results.json, accuracy.png, curves.png, runs/", highlight=False)


@dataclass(frozen=True)
class Report:
    """Print the tables of a study again, and write its results.json and plots anew from its run folders.

    Works on unfinished studies too, with the runs that are complete.

    Args:
        study: the study's folder.
        markdown: print the tables as Markdown.
    """

    study: tyro.conf.Positional[Path]
    markdown: bool = False

    def __call__(self, typed: str) -> None:
        """Refresh the files, print the tables."""
        from flatmin.study import report

        summary = report.refresh(self.study)
        if self.markdown:
            print(report.markdown(summary))
        else:
            report.show(summary, Console())


@dataclass(frozen=True)
class Methods:
    """List the methods, what they cost and what a search of theirs ranges over."""

    def __call__(self, typed: str) -> None:
        """Print the registry."""
        from flatmin.registry import METHODS

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="∇: gradients per step", caption_justify="left")
        for header in ("method", "∇", "direction", "searched beside lr", "arXiv"):
            table.add_column(header, no_wrap=header != "direction")
        for entry in METHODS.values():
            ranges = ", ".join(f"{name} {axis.low:g} to {axis.high:g}" for name, axis in entry.space.items())
            arxiv = entry.paper.arxiv if entry.paper else ""
            table.add_row(entry.name, f"{entry.gradients:g}", entry.summary, ranges, arxiv)
        Console().print(table)


@dataclass(frozen=True)
class Cite:
    """Print BibTeX of the paper behind a method.

    Args:
        name: of the method, see `flatmin methods`.
    """

    name: tyro.conf.Positional[str]

    def __call__(self, typed: str) -> None:
        """Print the entry."""
        from flatmin.registry import lookup

        paper = lookup(self.name).paper
        if paper is None:
            raise ValueError(f"{self.name} has no single paper to cite")
        print(paper.bibtex(self.name))


COMMANDS = {"compare": Compare, "report": Report, "methods": Methods, "cite": Cite}


def _from_recipe(argv: Sequence[str]) -> Compare:
    """The options' defaults: those of the recipe, if `argv` names one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", type=Path)
    try:
        recipe = parser.parse_known_args([*argv])[0].recipe
    except argparse.ArgumentError:
        recipe = None  # the full parser will complain, and better
    return Compare(study=config.load(Study, recipe), recipe=recipe) if recipe else Compare()

"""From the run folders of a study to its numbers."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatmin.study import config
from flatmin.study.config import IMAGES, Run, Study
from flatmin.study.metric import Metric
from flatmin.study.minima import run_flatness
from flatmin.study.minima.run_flatness import Measurements
from flatmin.study.stats import Interval, holm, p_value, paired_difference, t_interval, two_way_interval
from flatmin.study.training import record
from flatmin.study.training.record import Result


@dataclass(frozen=True)
class Finished:
    """A complete run: what was asked, what came out, where it is, and how flat its minimum is, if that was measured."""

    run: Run
    result: Result
    folder: Path
    flatness: Measurements | None = None

    @property
    def test(self) -> float:
        """The metric on the test split; an accuracy is a fraction in [0, 1]."""
        assert self.result.test is not None, f"{self.folder} is a final run without a test result"
        return self.result.test

    @property
    def error(self) -> float:
        """The same as a number of which lower is better; of an accuracy the error, a fraction in [0, 1]."""
        return self.result.metric.error(self.test)

    def measure(self, name: str) -> float | None:
        """A measure of flatness; None where there is none."""
        return self.flatness.value(name) if self.flatness else None


@dataclass(frozen=True)
class Row:
    """One contender under one condition of one arm.

    Args:
        arm: default or tuned.
        noise: the fraction of training labels replaced.
        contender: its name.
        runs: the complete ones, by seed; at least one.
        difference: of the test metric to the baseline's, paired by seed; None for the baseline itself and where no
            seed is shared.
        with_images: the same difference, with an interval that takes the test images for a sample, too; see
            `two_way_interval`. None where the runs do not say which images are right.
        p: of the difference, corrected for all contenders of this arm and condition by `holm`; None where there is no
            interval.
    """

    arm: str
    noise: float
    contender: str
    runs: dict[int, Finished]
    difference: Interval | None
    with_images: Interval | None = None
    p: float | None = None

    @property
    def metric(self) -> Metric:
        """What the runs are scored by."""
        return next(iter(self.runs.values())).result.metric

    @property
    def test(self) -> Interval:
        """Mean of the metric on the test split. A diverged run counts like any other."""
        return t_interval([run.test for run in self.runs.values()])

    @property
    def settings(self) -> dict[str, float]:
        """The learning rate and whatever else was not left at the method's default."""
        return next(iter(self.runs.values())).run.settings

    @property
    def gradient_evaluations(self) -> float:
        """Median over the runs."""
        return statistics.median(run.result.gradient_evaluations for run in self.runs.values())

    @property
    def others(self) -> dict[str, float | None]:
        """Means of the further numbers, over the runs that have them; None if no run has."""
        names = dict.fromkeys(name for run in self.runs.values() for name in run.result.others)
        return {name: _mean(run.result.others.get(name) for run in self.runs.values()) for name in names}

    @property
    def seconds(self) -> float:
        """Median over the runs, which a few runs on a busy machine do not change."""
        return statistics.median(run.result.seconds for run in self.runs.values())

    def measure(self, name: str) -> Interval | None:
        """Mean of a measure of flatness over the runs that have it; None if no run has."""
        values = [value for run in self.runs.values() if (value := run.measure(name)) is not None]
        return t_interval(values) if values else None

    @property
    def diverged(self) -> int:
        """How many runs diverged."""
        return sum(run.result.diverged is not None for run in self.runs.values())


@dataclass(frozen=True)
class Summary:
    """A study with its results so far.

    Args:
        study: the protocol.
        rows: in the order of the study's arms, conditions and contenders; those without a complete run are absent.
        baseline: the contender that differences refer to.
        missing: how many runs of the study are not complete.
        head: who began it: the command, the environment, the date.
    """

    study: Study
    rows: list[Row]
    baseline: str
    missing: int
    head: dict[str, Any]

    @property
    def metric(self) -> Metric:
        """What the runs are scored by."""
        return self.rows[0].metric

    @property
    def others(self) -> list[str]:
        """The names of what else was measured."""
        return [*dict.fromkeys(name for row in self.rows for name in row.others)]

    @property
    def has_conditions(self) -> bool:
        """Whether the study has more to it than one condition without label noise; images always have."""
        return self.study.task == IMAGES or self.study.noise != (0.0,)

    def title(self, arm: str, noise: float) -> str:
        """An arm and a condition in words, for the heads of tables and panels."""
        return title(arm, noise) if self.has_conditions else f"{arm} settings"

    def panel(self, arm: str, noise: float) -> list[Row]:
        """The rows of one arm and condition."""
        return [row for row in self.rows if (row.arm, row.noise) == (arm, noise)]


def summarise(out: Path) -> Summary:
    """Read the study in the folder `out`.

    Raises:
        ValueError: `out` holds no study, or none of its runs is complete.
    """
    if not (out / "study.toml").exists():
        raise ValueError(f"{out} is not a study: it has no study.toml")
    study = record.read_study(out)
    baseline = "sgd" if "sgd" in study.methods else study.methods[0]
    rows = []
    for arm in study.arms:
        for noise in study.noise:
            found = {name: _finished(study, out, arm, noise, name) for name in study.methods}
            panel = [Row(arm, noise, name, runs, None) for name, runs in found.items() if runs]
            rows += compared(panel, baseline)
    if not rows:
        raise ValueError(f"no run of {out} is complete yet")
    metrics = {run.result.metric: run.folder for row in rows for run in row.runs.values()}
    if len(metrics) > 1:
        words = " and ".join(f"{one.name} ({one.better} is better, {folder})" for one, folder in metrics.items())
        raise ValueError(f"the runs of {out} are scored by {words}; delete the runs that the task's change made stale")
    missing = len(study.arms) * len(study.noise) * len(study.methods) * study.seeds - sum(len(row.runs) for row in rows)
    return Summary(study, rows, baseline, missing, record.head(out))


def compared(panel: Sequence[Row], baseline: str) -> list[Row]:
    """The rows of one arm and condition, with their differences to the baseline."""
    reference: dict[int, Finished] = next((row.runs for row in panel if row.contender == baseline), {})
    others = [row for row in panel if row.contender != baseline]
    pairs = {
        row.contender: [(run, reference[seed]) for seed, run in sorted(row.runs.items()) if seed in reference]
        for row in others
    }
    ps = {
        name: p
        for name, found in pairs.items()
        if found and (p := p_value([run.test - other.test for run, other in found])) is not None
    }
    corrected = dict(zip(ps, holm([*ps.values()]), strict=True))
    expected = {seed: run.test for seed, run in reference.items()}
    differences = {
        row.contender: paired_difference({seed: run.test for seed, run in row.runs.items()}, expected) for row in others
    }
    return [
        dataclasses.replace(
            row,
            difference=differences.get(row.contender),
            with_images=_with_images(pairs.get(row.contender, [])),
            p=corrected.get(row.contender),
        )
        for row in panel
    ]


def _with_images(pairs: Sequence[tuple[Finished, Finished]]) -> Interval | None:
    """The difference over seeds and test images; None if a run does not say which images are right."""
    hits = [(record.which(run.result), record.which(other.result)) for run, other in pairs]
    if not hits or not all(len(mine) == len(theirs) > 1 for mine, theirs in hits):
        return None
    return two_way_interval([[a - b for a, b in zip(mine, theirs, strict=True)] for mine, theirs in hits])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def title(arm: str, noise: float) -> str:
    """An arm and a condition in words."""
    return f"{arm} settings, {condition(noise)}"


def condition(noise: float) -> str:
    """A condition in words."""
    return f"{100 * noise:g} % label noise" if noise else "clean labels"


def as_json(summary: Summary) -> dict[str, Any]:
    """The summary as `results.json` holds it: who, what, the table, then every single run."""
    flat = bool(summary.study.flatness)
    environments: list[dict[str, Any]] = []  # more than one if the study was continued elsewhere
    for row in summary.rows:
        for run in row.runs.values():
            seen = {name: value for name, value in run.result.environment.items() if name != "date"}
            if seen not in environments:
                environments.append(seen)
    return {
        "command": summary.head["command"],
        "date": summary.head["date"],
        "environments": environments,
        "study": dataclasses.asdict(summary.study),
        "missing_runs": summary.missing,
        "baseline": summary.baseline,
        **({"metric": summary.metric.as_json()} if summary.metric.as_json() else {}),
        "table": [_row_as_json(row) | (_flatness(row) if flat else {}) for row in summary.rows],
        "runs": [
            _run_as_json(row, seed, run) | (_readings(run) if flat else {})
            for row in summary.rows
            for seed, run in row.runs.items()
        ],
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "arm": row.arm,
        "noise": row.noise,
        "contender": row.contender,
        "settings": row.settings,
        row.metric.key("test"): dataclasses.asdict(row.test),
        "difference": dataclasses.asdict(row.difference) if row.difference else None,
        "difference_with_images": dataclasses.asdict(row.with_images) if row.with_images else None,
        "p_holm": row.p,
        **row.others,
        "gradient_evaluations": row.gradient_evaluations,
        "seconds": row.seconds,
        "diverged": row.diverged,
    }


def _run_as_json(row: Row, seed: int, run: Finished) -> dict[str, Any]:
    result = run.result.as_json()
    for name in ("environment", "test_correct", "metric"):  # in the run's folder
        result.pop(name, None)
    if result["robustness"] is None:
        del result["robustness"]
    return {"arm": row.arm, "noise": row.noise, "contender": row.contender, "seed": seed, **result}


def _flatness(row: Row) -> dict[str, Any]:
    """Means over the runs of a row that were measured; null is a measure that none of them has."""
    found = {name: row.measure(name) for name in run_flatness.STUDY.values()}
    return {"flatness": {name: dataclasses.asdict(one) if one else None for name, one in found.items()}}


def _readings(run: Finished) -> dict[str, Any]:
    """What was measured of a run; null is one that was not measured yet."""
    return {"flatness": dataclasses.asdict(run.flatness) if run.flatness else None}


def _finished(study: Study, out: Path, arm: str, noise: float, contender: str) -> dict[int, Finished]:
    """The complete runs of one row, by seed."""
    folders = {seed: out / config.run_folder(arm, noise, contender, seed) for seed in range(study.seeds)}
    return {
        seed: Finished(*found, folder, run_flatness.read(folder) if study.flatness else None)
        for seed, folder in folders.items()
        if (found := record.read(folder))
    }

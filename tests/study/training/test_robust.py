"""What runs record with `robustness = true`: the library's numbers on test data, the same draws for all methods."""

import dataclasses
import functools
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from flatmin import robustness
from flatmin.study import config, files
from flatmin.study.comparison import compare
from flatmin.study.config import Run, Study
from flatmin.study.data.dataset import load_dataset
from flatmin.study.minima import trained_network
from flatmin.study.minima.measures import Reading
from flatmin.study.minima.run_flatness import Measurements
from flatmin.study.networks import models
from flatmin.study.report import html, robustness_tables, summary, write
from flatmin.study.report.robustness_tables import IMAGES, WEIGHTS
from flatmin.study.stats import paired_difference, rank_correlation
from flatmin.study.tasks.runs import perform
from flatmin.study.training import loop, record, robust
from flatmin.study.training.loop import train
from flatmin.study.training.snapshots import Snapshots
from flatmin.study.training.torchrun import Processes
from support.report_pages import Page

#: One process of the test run has all tests, so that what they share is made once.
pytestmark = pytest.mark.xdist_group("robust")

#: What is measured of images.
COLUMNS = (*WEIGHTS, *IMAGES)
SMALL = {"subset": 120, "batch_size": 20, "epochs": 1}
RUN = Run("pugd+ema", settings={"lr": 0.1, "ema_decay": 0.5}, robustness=True, seed=3, **SMALL)
LEVELS = [(column.group, column.level) for column in COLUMNS]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a complete small study. Do not write into it."""
    out = tmp_path_factory.mktemp("studies") / "tiny"
    compare(Study(("sgd", "sam", "pugd"), ("default",), (0.0,), seeds=2, robustness=True, **SMALL), out)
    return out


# -- a run -------------------------------------------------------------------------------------------------------------


def test_a_run_records_what_the_library_gives_at_the_averaged_weights(tmp_path):
    perform(RUN, tmp_path, weights=Snapshots(tmp_path))
    found = record.read(tmp_path)[1].robustness
    assert [(group, level) for group, levels in found.items() for level in levels] == LEVELS
    one = trained_network.of_run(tmp_path, "test")
    ((x, y),) = one.examples
    one.net.eval()

    @torch.no_grad()
    def accuracy(images=x):
        return (one.net(images).argmax(1) == y).double().mean().item()

    seed = config.number(3, "weight noise")
    after = robustness.after_noise(one.net, accuracy, robust.WEIGHT_NOISE, draws=5, seed=seed)
    assert found["rounding"] == {str(n): a for n, a in robustness.after_rounding(one.net, accuracy).items()}
    assert found["weight_noise"] == pytest.approx({str(scale): value for scale, value in after.items()})
    assert found["blur"] == {str(s): accuracy(robustness.blurred_images(x, s)) for s in robust.BLUR}
    place = config.number(3, "input noise 0")
    assert found["input_noise"] == {str(s): accuracy(robustness.noisy_images(x, s, place)) for s in robust.INPUT_NOISE}
    with torch.no_grad():
        plain = robustness.calibration([(one.net(x), y)])
    assert found["calibration"] == pytest.approx({"nll": plain.nll, "ece": plain.ece})
    assert record.read(tmp_path)[1].test == plain.accuracy
    assert len({value for levels in found.values() for value in levels.values()}) > 6  # no change is without effect


def test_nothing_else_of_a_run_changes_and_tuning_runs_measure_nothing():
    with_it, without = train(RUN), train(dataclasses.replace(RUN, robustness=False))
    assert with_it.robustness and without.robustness is None
    same = {"seconds": 0.0, "environment": {}, "robustness": None}
    assert dataclasses.replace(with_it, **same) == dataclasses.replace(without, **same)
    assert train(dataclasses.replace(RUN, test=False)).robustness is None


def test_all_methods_of_a_seed_have_the_same_draws(monkeypatch):
    drawn = []

    def watched(original, thing, scale, seed):
        drawn.append((scale, seed))
        return original(thing, scale, seed)

    for name in ("noisy", "noisy_images"):
        monkeypatch.setattr(robustness, name, functools.partial(watched, getattr(robustness, name)))

    def draws(**change):
        drawn.clear()
        train(dataclasses.replace(RUN, **change))
        return [*drawn]

    first = draws()
    assert len(first) == len(set(first)) == 5 * 3 + 2
    assert draws(contender="sgd", settings={"lr": 0.01}) == first
    assert not {seed for _, seed in draws(seed=4)} & {seed for _, seed in first}


def test_a_diverged_run_has_a_record_that_is_json():
    found = train(dataclasses.replace(RUN, contender="sgd", settings={"lr": 1e30}))
    assert found.diverged and found.robustness["calibration"] == {"nll": None, "ece": None}
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_several_processes_give_the_noise_and_the_numbers_of_one(monkeypatch):
    digits = load_dataset("digits")
    net = models.build("small-cnn", 1, 10)

    def noise(images, first):
        return robustness.noisy_images(images, 0.5, first)

    measured = functools.partial(loop.per_example, net, digits, digits.train, robustness.scored)
    whole, parts = measured(change=noise), []
    assert whole.shape == (1078, 3)
    monkeypatch.setattr(Processes, "sum", lambda self, values: parts.append(values) or values)
    for rank in range(2):
        measured(Processes(rank, 2), change=noise)
    torch.testing.assert_close(torch.tensor(parts, dtype=torch.float64).sum(0).view(1078, 3), whole)
    assert not torch.allclose(measured(), whole)


def test_sharded_weights_are_refused_before_the_training():
    with pytest.raises(ValueError, match="robustness needs whole weights, and --shard keeps parts"):
        train(RUN, processes=Processes(0, 2, mesh=object()))


# -- a study -----------------------------------------------------------------------------------------------------------


def test_a_study_shows_what_its_runs_recorded(tiny):
    results = files.read_json(tiny / "results.json")
    runs = {(run["contender"], run["seed"]): run["robustness"] for run in results["runs"]}
    table = {row["contender"]: row["numbers"] for row in results["robustness"]["table"]}
    assert [(one["group"], one["level"]) for one in table["sam"]] == LEVELS
    page = Page(tiny)
    tables = [rows for rows in page.tables if [cell[0] for cell in rows[0][1:3]] == ["n", "unchanged"]]
    weights, their_differences, images, _ = ({cells[0][0]: cells for cells in rows[1:]} for rows in tables)
    shown = {name: [*weights[name][3:], *images[name][3:]] for name in weights}
    report = (tiny / "report.md").read_text(encoding="utf-8")
    for name in ("sgd", "sam", "pugd"):
        for column, numbers, cell in zip(COLUMNS, table[name], shown[name], strict=True):
            mine, its = (
                {seed: runs[contender, seed][column.group][column.level] for seed in range(2)}
                for contender in (name, "sgd")
            )
            assert numbers["mean"]["mean"] == pytest.approx(sum(mine.values()) / 2)
            expected = None if name == "sgd" else dataclasses.asdict(paired_difference(mine, its))
            assert numbers["difference"] == expected
            factor = 1 if column.level == "nll" else 100
            assert float(cell[0].split()[0]) == pytest.approx(factor * numbers["mean"]["mean"], abs=0.006)
            assert f" {cell[0]} |" in report
    assert report.count("### Difference to sgd, default settings, clean labels") == 2
    assert "Rank correlation of what is lost" not in report  # no flatness
    assert {*shown} == {"sgd", "sam", "pugd"} and {*their_differences} == {"sam", "pugd"}
    expected = next(one["difference"]["mean"] for one in table["pugd"] if one["level"] == "3")
    assert float(their_differences["pugd"][5][0].split()[0]) == pytest.approx(100 * expected, abs=0.006)
    assert 'href="#robustness"' in page.text and "<dt>Robustness</dt>" in page.text


def test_a_study_without_it_has_no_such_section_and_old_files_are_read(tiny, tmp_path):
    out = Path(shutil.copytree(tiny, tmp_path / "old"))
    for path in [out / "study.toml", *out.glob("runs/**/config.toml")]:
        old = path.read_text(encoding="utf-8")
        assert "robustness = true\n" in old
        path.write_text(old.replace("robustness = true\n", ""), encoding="utf-8")
    for path in out.glob("runs/**/result.json"):
        old = files.read_json(path)
        del old["robustness"]
        files.write_json(path, old)
    found = summary.summarise(out)
    results = summary.as_json(found) | robustness_tables.as_json(found)
    assert len(results["runs"]) == 6 and "robustness" not in results
    assert not any("robustness" in run for run in results["runs"])
    assert "obustness" not in write.markdown(found)
    assert "robustness" not in html.render(found, results, None, (), "old", "")


@pytest.fixture(scope="module")
def invented(tiny, tmp_path_factory):
    """A study whose robustness and flatness are made up; PUGD with seed 1 was not measured."""
    out = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("studies") / "invented"))
    config.save(dataclasses.replace(config.load(Study, out / "study.toml"), flatness=40), out / "study.toml")
    for i, path in enumerate(sorted(out.glob("runs/**/result.json"))):
        result = files.read_json(path)
        found = {group: {} for group, _ in LEVELS}
        for j, (group, level) in enumerate(LEVELS):
            found[group][level] = result["test_accuracy"] - 0.01 * ((i * 3 + j) % 7)
        found["calibration"]["nll"] = None if path.match("sam/seed-0/*") else 0.5 + 0.1 * i
        found["calibration"]["ece"] = 0.2 if path.match("sam/*/*") else 0.1  # a difference without any spread
        files.write_json(path, {**result, "robustness": None if path.match("pugd/seed-1/*") else found})
        names = ("lambda_max", "trace", "adaptive")
        readings = {name: Reading(float((i * 5) % 7), 0.1, "bound", "loss", {}) for name in names}
        measured = Measurements(40, "train", 7530, 0.5, readings)
        files.write_json(path.parent / "flatness.json", dataclasses.asdict(measured))
    return summary.summarise(out)


def test_flatness_is_correlated_with_what_is_lost(invented):
    found = robustness_tables.as_json(invented)["robustness"]["correlations"]
    by_name = {(one["group"], one["level"], one["measure"]): one for one in found}
    assert len(by_name) == len(found) == 3 * len(LEVELS)
    points = {
        (row.contender, seed): (run.measure("trace"), run.test - run.result.robustness["rounding"]["4"])
        for row in invented.rows
        for seed, run in row.runs.items()
        if run.result.robustness
    }
    of_runs, of_seeds = by_name["rounding", "4", "trace"]["runs"], by_name["rounding", "4", "trace"]["seeds"]
    assert of_runs == {"value": rank_correlation(*zip(*points.values(), strict=True)), "n": 5}
    expected = rank_correlation(*zip(*(points[name, 0] for name in ("sgd", "sam", "pugd")), strict=True))
    assert of_seeds == {"mean": expected, "half_width": None, "n": 1}  # seed 1 has two methods
    assert expected != rank_correlation(*zip(*((x, -y) for x, y in points.values()), strict=True))
    nll = by_name["calibration", "nll", "trace"]
    assert nll["runs"]["n"] == 4 and nll["seeds"] is None  # one is not finite
    heading, _, rows = [*robustness_tables.tables(invented)][-1]
    assert heading == "Rank correlation of what is lost with flatness, default settings, clean labels"
    assert ["4 bits", *[f"{expected:.2f} ± – (n = 1)"] * 3] in rows and "NLL" not in {row[0] for row in rows}


def test_runs_that_were_not_measured_are_not_counted(invented):
    counts = {
        row.contender: [column.by_seed(row).keys() for column in COLUMNS[:1] + COLUMNS[-2:]] for row in invented.rows
    }
    assert counts == {"sgd": [{0, 1}] * 3, "sam": [{0, 1}, {1}, {0, 1}], "pugd": [{0}] * 3}
    _, _, rows = next(robustness_tables.tables(invented))
    assert rows[2][3].endswith(" ± –") and not rows[0][3].endswith(" ± –")


def test_the_terminal_shows_the_means_in_80_columns_and_clear_differences_in_bold(invented):
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system="standard")
    write.show(invented, console)
    lines = console.file.getvalue().splitlines()
    start = next(i for i, line in enumerate(lines) if "Test accuracy after changes, %, and calibration" in line)
    for row in invented.rows:
        (line,) = [line for line in lines[start:] if line.startswith(f"{row.contender} ")]
        plain = re.sub("\x1b.*?m", "", line).split()
        means = [column.over(row).mean for column in COLUMNS]
        shown = [
            f"{mean:.2f}" if column.head == "NLL" else f"{100 * mean:.1f}"
            for column, mean in zip(COLUMNS, means, strict=True)
        ]
        assert plain == [row.contender, *shown]
        paired = [robustness_tables.difference(invented, column, row) for column in COLUMNS]
        clear = [one for one in paired if one and one.half_width is not None and abs(one.mean) > one.half_width]
        assert line.count("\x1b[1m") == len(clear) == (row.contender == "sam")

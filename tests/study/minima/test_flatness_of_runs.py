"""Flatness in the tool: the command, what studies measure of their runs, its tables and pictures, bad input."""

import dataclasses
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from flatmin import flatness
from flatmin.study import comparison, config, files, progress, stats
from flatmin.study.config import Study
from flatmin.study.data.dataset import balanced, load_dataset
from flatmin.study.minima import flatness_report, measures, run_flatness, trained_network
from flatmin.study.minima.measures import MEASURES, Reading
from flatmin.study.minima.run_flatness import Measurements
from flatmin.study.minima.trained_network import TrainedNetwork
from flatmin.study.report import figures, flatness_correlation, flatness_tables, summary, write
from flatmin.study.training import record, snapshots
from flatmin.study.training.loop import train
from support.command_line import flatmin
from support.report_pages import Page, make

#: One process of the test run has all tests, so that what they share is made once.
pytestmark = pytest.mark.xdist_group("flatness of runs")

TINY = Study(methods=("sgd", "pugd"), arms=("default",), noise=(0.4,), seeds=1, epochs=1, flatness=40)
HEADS = ["method", "test error, %", "n", "λ_max", "trace", "adaptive sharpness"]


def my_net(num_classes):
    """A network of a user's, for images of 8x8 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Options that name a small network of a user's, and the network."""
    torch.manual_seed(0)
    net = my_net(10)
    path = tmp_path_factory.mktemp("mine") / "mine.pt"
    torch.save(net.state_dict(), path)
    return ["--model", f"{__name__}:my_net", "--weights", str(path)], net


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a complete small study with flatness. Do not write into it."""
    out = tmp_path_factory.mktemp("studies") / "tiny"
    comparison.compare(TINY, out)
    return out


@pytest.fixture
def study(tiny, tmp_path):
    """A copy of it to write into."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny"))


@pytest.fixture
def trained(monkeypatch):
    """Gets the folder of every run that is trained from now on."""
    seen, perform = [], run_flatness.perform

    def recording(run, folder, **named):
        seen.append(folder)
        perform(run, folder, **named)

    monkeypatch.setattr(run_flatness, "perform", recording)
    return seen


def invented(lambdas):
    """A study of which only flatness and errors matter: 3 contenders, 3 seeds; `lambdas` by contender and seed."""

    def put(out):
        for name, values in lambdas.items():
            for seed, value in enumerate(values):
                folder = out / config.run_folder("default", 0.0, name, seed)
                one = Measurements(40, "train", 7530, 0.5, unavailable="the training diverged in epoch 2")
                if value is not None:
                    keys = ("lambda_max", "trace", "adaptive")
                    readings = {key: Reading(value * 3**i, 0.1, "bound", "loss", {}) for i, key in enumerate(keys)}
                    one = Measurements(40, "train", 7530, 0.5, readings)
                files.write_json(folder / "flatness.json", dataclasses.asdict(one))

    return put


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The folder of a study whose flatness was made up. Do not write into it."""
    out = make(tmp_path_factory.mktemp("studies") / "shown", tuned=False)
    study = dataclasses.replace(config.load(Study, out / "study.toml"), flatness=40)
    config.save(study, out / "study.toml")
    invented({"sgd": [9.0, 8.0, 7.0], "sam": [1.0, 2.0, 3.0], "pugd": [4.0, None, 100.0]})(out)
    write.refresh(out)
    return out


# -- a network, by the command -----------------------------------------------------------------------------------------


def test_the_command_gives_what_the_library_gives(mine, tmp_path, capsys):
    options, net = mine
    every = ["--measures", *MEASURES, "--eigenvalues", "2", "--examples", "60", "--out", str(tmp_path / "out")]
    assert flatmin("flatness", *options, *every) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["flatness.json"]
    written = files.read_json(tmp_path / "out" / "flatness.json")
    found = written["networks"]["mine.pt"]
    assert written["command"].startswith("flatmin flatness --model") and written["environment"]["torch"]
    assert found["examples"] == 60 and found["split"] == "train" and found["parameters"] == 650

    dataset = load_dataset("digits")
    rows = balanced(dataset.train.labels, 60)
    batch = dataset.standardise(dataset.train.images[rows]), dataset.train.labels[rows]
    assert torch.bincount(batch[1]).tolist() == [6] * 10
    risk = flatness.Risk(net, nn.CrossEntropyLoss(), [batch])
    assert found["loss"] == pytest.approx(risk.value(), rel=1e-6)
    top = flatness.eigenvalues(risk, k=2)
    readings = found["readings"]
    assert list(readings) == ["lambda_max", "lambda_2", *list(MEASURES)[1:]]
    assert [readings[name]["value"] for name in ("lambda_max", "lambda_2")] == pytest.approx(top.values, rel=1e-3)
    assert 0 < readings["lambda_max"]["error"] <= 1e-3 * top.values[0]
    assert readings["adaptive"]["value"] == pytest.approx(flatness.adaptive(risk, 0.5).value, rel=1e-3)
    assert readings["adaptive"]["kind"] == "lower bound" and readings["adaptive"]["settings"]["rho"] == 0.5
    trace = flatness.trace(risk, tol=0.05)
    assert readings["trace"]["value"] == pytest.approx(trace.value, rel=1e-4)
    assert readings["trace"]["cost"]["products"] == trace.cost.products and readings["trace"]["error"] > 0
    out = capsys.readouterr().out
    assert re.search(r"lambda_max +\S+ +≤ \S+ +loss/w² +\d+ products +\d", out)
    assert re.search(r"adaptive +≥ \S+ +spread \S+ +loss +\d+ gradients", out)
    assert "mine.pt: loss" in out and "on 60 examples, 650 parameters" in out


@pytest.mark.parametrize("name", MEASURES)
def test_settings_that_are_written_are_those_that_are_used(name, monkeypatch):
    seen = {}

    def function(risk, **named):
        seen.update(named)
        raise RuntimeError("no convergence\nand so on")

    monkeypatch.setitem(measures.MEASURES, name, dataclasses.replace(MEASURES[name], function=function))
    for reading in measures.take(None, name).values():
        assert {**reading.settings, "progress": None} == seen and "seed" in seen
        assert reading.value is None and reading.note == "no convergence"


def test_a_measure_that_is_not_finite_has_no_value(monkeypatch):
    cost = flatness.Cost(1, 1, 0, 0.1)
    function = lambda risk, **named: flatness.Maximum(math.inf, (math.inf,), True, 1e-3, cost, None)  # noqa: E731
    monkeypatch.setitem(measures.MEASURES, "adaptive", dataclasses.replace(MEASURES["adaptive"], function=function))
    (reading,) = measures.take(None, "adaptive").values()
    assert reading.value is None and reading.note == "a loss was not finite" and reading.cost["gradients"] == 1


def test_the_numbers_of_another_network_are_never_overwritten(mine, tmp_path, capsys, monkeypatch):
    options, net = mine
    quick, out = ["--measures", "lipschitz", "--examples", "20"], tmp_path / "out"
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "mine.pt"  # of the same name
    torch.save(net.state_dict(), other)
    theirs = [*options[:-1], str(other), *quick]
    assert flatmin("flatness", *theirs, "--out", str(out)) == 0
    before = (out / "flatness.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(measures, "take", lambda *args: pytest.fail("measured"))
        assert flatmin("flatness", *options, *quick, "--out", str(out)) == 2
    errors = capsys.readouterr().err
    assert errors.endswith(f"flatness.json holds the measurements of {other}; choose another --out\n")
    assert (out / "flatness.json").read_bytes() == before
    assert flatmin("flatness", *theirs, "--out", str(out)) == 0  # its own are measured again


def test_the_flatness_of_a_study_is_never_overwritten(study, mine, capsys):
    run = next(study.rglob("flatness.json")).parent
    before = (run / "flatness.json").read_bytes()
    assert flatmin("flatness", *mine[0], "--measures", "lipschitz", "--examples", "20", "--out", str(run)) == 2
    assert "flatness.json belongs to a run of a study; choose another --out" in capsys.readouterr().err
    assert (run / "flatness.json").read_bytes() == before


def test_a_spectrum_of_two_networks_is_drawn_and_written(mine, tmp_path):
    options, net = mine
    torch.save({name: 2 * value for name, value in net.state_dict().items()}, tmp_path / "double.pt")
    options = [*options, str(tmp_path / "double.pt"), "--measures", "worst_case", "--spectrum", "--examples", "20"]
    assert flatmin("flatness", *options, "--out", str(tmp_path / "out")) == 0
    found = files.read_json(tmp_path / "out" / "flatness.json")["networks"]
    for name in ("mine.pt", "double.pt"):
        masses = torch.tensor(found[name]["spectrum"]["weights"])
        assert torch.allclose(masses.sum(1), torch.ones(4)) and found[name]["spectrum"]["cost"]["products"] == 160
    assert (tmp_path / "out" / "spectrum.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "out" / "spectrum.svg").read_text()
    assert "<!-- mine.pt -->" in svg and "<!-- double.pt -->" in svg


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no network is named; write flatmin flatness RUN, or --model, --weights and --data"),
        (["x", "--measures", "trase"], "measures: unknown name 'trase'; did you mean trace"),
        (["x", "--measures", "trace", "trace"], "measures must not name anything twice, got trace trace"),
        (["x", "--eigenvalues", "0"], "eigenvalues must be >= 1, got 0"),
        (["nowhere"], "nowhere is no folder; write flatmin train ... --keep-weights --out nowhere"),
        (["--weights", "a.pt"], "--weights a.pt needs its --model"),
        (["MINE", "--examples", "-1"], "examples must be >= 0, got -1"),
        (["MINE", "--data", "digitz"], "data: unknown name 'digitz'; did you mean digits?"),
        (["MINE", "--eigenvalues", "651"], "the number of parameters, 650, got 651; write --eigenvalues 650"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(argv, message, mine, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [word for each in argv for word in (mine[0] if each == "MINE" else [each])]
    assert flatmin("flatness", *options) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.startswith("flatmin: ") and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_minimum_are_refused_before_anything_is_measured(mine, tmp_path, capsys, monkeypatch):
    options, net = mine
    torch.save({name: value * math.nan for name, value in net.state_dict().items()}, tmp_path / "nan.pt")
    monkeypatch.setattr(measures, "take", lambda *args: pytest.fail("measured"))
    assert flatmin("flatness", *options, str(tmp_path / "nan.pt"), "--out", str(tmp_path / "out")) == 2
    assert "nan.pt: the loss is nan at these weights" in capsys.readouterr().err
    torch.save(my_net(9).state_dict(), tmp_path / "nine.pt")
    assert flatmin("flatness", *options, str(tmp_path / "nine.pt"), "--out", str(tmp_path / "out")) == 2
    assert "nine.pt does not fit the network" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_network_is_measured_if_one_has_too_few_weights(mine, monkeypatch):
    dataset = load_dataset("digits")
    few = nn.Sequential(nn.Flatten(), nn.AvgPool1d(32), nn.Linear(2, 10))
    minima = [
        TrainedNetwork(name, net, nn.CrossEntropyLoss(), trained_network.examples(dataset, count=20), [])
        for name, net in (("mine", mine[1]), ("few", few))
    ]
    monkeypatch.setattr(measures, "take", lambda *args: pytest.fail("measured"))
    with pytest.raises(ValueError, match="number of parameters, 30, got 31; write --eigenvalues 30"):
        flatness_report.take(minima, ["eigenvalues"], "train", Console(quiet=True), eigenvalues=31)


def test_a_full_disk_leaves_the_old_numbers(mine, tmp_path, monkeypatch):
    command = ["flatness", *mine[0], "--measures", "worst_case", "--examples", "20", "--out", str(tmp_path)]
    assert flatmin(*command) == 0
    before = (tmp_path / "flatness.json").read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(record.os, "replace", fail)
    assert flatmin(*command) == 2
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_work_that_takes_time_says_so(monkeypatch):
    lines, terminal = Console(record=True, width=80, quiet=False), Console(force_terminal=True, width=80, record=True)
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    with progress.counted("mine.pt, trace", lines, "passes") as show:
        show(12, 200)
    with progress.counted("mine.pt, eigenvalues", lines, "passes") as show:
        show(3, None)
    said = lines.export_text()
    assert "mine.pt, trace: 12 passes of at most 200\n" in said and "mine.pt, eigenvalues: 3 passes\n" in said
    with progress.counted("mine.pt, trace", terminal, "passes") as show:
        show(12, 200)


# -- a study -----------------------------------------------------------------------------------------------------------


def test_a_study_measures_its_final_runs_and_changes_no_other_number(tiny):
    results = files.read_json(tiny / "results.json")
    for method, row in zip(TINY.methods, results["table"], strict=True):
        folder = tiny / config.run_folder("default", 0.4, method, 0)
        run, result = record.read(folder)
        assert result.test == train(run).test
        one = run_flatness.read(folder)
        assert (one.examples, one.split, one.parameters, one.unavailable) == (40, "train", 7530, "")
        assert list(one.readings) == ["lambda_max", "trace", "adaptive"]
        assert row["flatness"]["trace"] == {"mean": one.value("trace"), "half_width": None, "n": 1}
    assert results["runs"][0]["flatness"]["readings"]["lambda_max"]["settings"]["tol"] == 1e-3
    assert results["study"]["flatness"] == 40 and len(results["flatness"]["correlations"]) == 3
    assert (tiny / "flatness.png").read_bytes().startswith(b"\x89PNG")


def test_labels_are_those_of_the_training_and_images_those_of_every_run(tiny):
    folder = tiny / config.run_folder("default", 0.4, "sgd", 0)
    one = trained_network.of_run(folder, "train", 40)
    dataset = load_dataset("digits")
    rows = balanced(dataset.train.labels, 40)
    assert torch.equal(one.examples.images, dataset.train.images[rows])
    assert 0.2 < (one.examples.labels != dataset.train.labels[rows]).double().mean() < 0.55
    with torch.no_grad():
        loss = one.loss(one.net.eval()(next(iter(one.examples))[0]), one.examples.labels)
    assert run_flatness.read(folder).loss == pytest.approx(loss.item(), rel=1e-5)


def test_without_flatness_a_study_is_what_it_was(tmp_path):
    out = make(tmp_path / "plain", tuned=False)
    text = (out / "study.toml").read_text()
    (out / "study.toml").write_text(text.replace("flatness = 0\n", ""))  # as an older version wrote it
    assert config.load(Study, out / "study.toml").flatness == 0
    results = files.read_json(out / "results.json")
    invented({"sgd": [9.0, 8.0, 7.0]})(out)  # of somebody else: the study asks for none
    write.refresh(out)
    again = files.read_json(out / "results.json")
    assert again == results and "flatness" not in again and not any("flatness" in row for row in again["table"])
    assert not (out / "flatness.png").exists() and 'id="flatness"' not in (out / "report.html").read_text()
    assert "Flatness" not in write.markdown(summary.summarise(out))


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_was_not_measured_is_measured_and_not_trained_again(study, trained):
    folder = study / config.run_folder("default", 0.4, "pugd", 0)
    before, result = run_flatness.read(folder), (folder / "result.json").read_bytes()
    (folder / "flatness.json").write_text('{"examples": 40')  # a damaged one counts as none
    comparison.compare(TINY, study)
    after = run_flatness.read(folder)
    assert not trained and (folder / "result.json").read_bytes() == result
    assert {name: one.value for name, one in after.readings.items()} == {
        name: one.value for name, one in before.readings.items()
    }


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_weights_is_trained_again_to_the_same_numbers(study, trained):
    folder = study / config.run_folder("default", 0.4, "sgd", 0)
    before, accuracy = run_flatness.read(folder), record.read(folder)[1].test
    for name in ("flatness.json", "weights.pt"):
        (folder / name).unlink()
    comparison.compare(TINY, study)
    assert trained == [folder] and (folder / "weights.pt").exists()
    assert record.read(folder)[1].test == accuracy
    assert run_flatness.read(folder).value("trace") == before.value("trace")


@pytest.mark.usefixtures("undrawn")
def test_a_complete_study_is_not_measured_again(study, monkeypatch):
    monkeypatch.setattr(run_flatness, "train_and_measure", lambda *args: pytest.fail("measured again"))
    comparison.compare(TINY, study)


def test_a_diverged_run_has_no_flatness_and_ends_nothing(tmp_path):
    run = Study(methods=("sgd",), epochs=2).run("sgd", {"lr": 1e9}, 0.0, 0, test=True)
    run_flatness.train_and_measure(run, tmp_path, 20)
    one = run_flatness.read(tmp_path)
    assert one.unavailable == f"the training diverged in epoch {record.read(tmp_path)[1].diverged:g}"
    assert one.value("trace") is None and one.loss is None
    assert run_flatness.holds(tmp_path, run)


def test_a_loss_that_has_no_flatness_does_not_end_a_study(study, monkeypatch):
    folder = study / config.run_folder("default", 0.4, "sgd", 0)
    net = torch.load(folder / snapshots.FILE, weights_only=True)
    torch.save(
        {name: value * math.nan if value.is_floating_point() else value for name, value in net.items()},
        folder / snapshots.FILE,
    )
    (folder / "flatness.json").unlink()
    comparison.compare(TINY, study)
    assert "the loss is nan at these weights" in run_flatness.read(folder).unavailable
    results = files.read_json(study / "results.json")
    assert results["table"][0]["flatness"] == {"lambda_max": None, "trace": None, "adaptive": None}


def test_the_recipe_is_the_study_of_the_digits(tmp_path):
    recipes = Path(__file__).parents[3] / "recipes"
    flat, plain = (config.load(Study, recipes / name) for name in ("digits_flatness.toml", "digits_fixed_decay.toml"))
    assert dataclasses.replace(flat, flatness=plain.flatness, arms=plain.arms) == plain and flat.arms == ("tuned",)
    assert flat.flatness == len(load_dataset("digits").train.labels)


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_rank_correlations_by_hand():
    assert stats.rank_correlation([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]) == pytest.approx(0.8)  # 1 - 6*2/60
    assert stats.rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == -1
    assert stats.rank_correlation([1.0, 2.0], [1.0, 2.0]) is None
    assert stats.rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_correlations_are_per_condition_with_their_n(shown):
    found = summary.summarise(shown)
    first, *_ = associations = flatness_correlation.correlations(found)
    assert [one.measure for one in associations] == ["lambda_max", "trace", "adaptive"]
    assert {(one.arm, one.noise) for one in associations} == {("default", 0.0)}
    runs = {
        (row.contender, seed): 1 - run.test for row in found.panel("default", 0.0) for seed, run in row.runs.items()
    }
    lambdas = {"sgd": [9.0, 8.0, 7.0], "sam": [1.0, 2.0, 3.0], "pugd": [4.0, None, 100.0]}
    points = [(x, runs[name, seed]) for name, xs in lambdas.items() for seed, x in enumerate(xs) if x is not None]
    assert first.runs == flatness_correlation.RankCorrelation(stats.rank_correlation(*zip(*points, strict=True)), 8)
    assert first.contenders.n == 3
    assert first.seeds.n == 2  # seed 1 has two contenders only


def test_the_tables_show_the_numbers_of_results_json(shown):
    results, page = files.read_json(shown / "results.json"), Page(shown)
    rows = page.table(*HEADS)
    assert len(rows) == 3
    for cells, row in zip(rows, results["table"], strict=False):
        flat = row["flatness"]["lambda_max"]
        assert cells[0][0] == row["contender"] and cells[2][0] == str(flat["n"])
        assert cells[3][0].startswith(f"{flat['mean']:.3g}")
    assert [cells[2][0] for cells in rows] == ["3", "3", "2"]
    assert [cell[0] for cell in rows[0]][3] == "8.00 ± 2.5"
    words = "".join(page.words)
    assert "No flatness for 1 of 3 runs of pugd, default settings, clean labels: the training diverged" in words
    assert "No flatness for 3 of 3 runs of sgd, default settings, 40 % label noise: not measured yet." in words
    markdown = write.markdown(summary.summarise(shown))
    assert f"| {' | '.join(HEADS)} |" in markdown and "| sgd | " in markdown
    assert "### Rank correlation with the test error, default settings, clean labels" in markdown
    console = Console(record=True, width=80)
    write.show(summary.summarise(shown), console)
    printed = console.export_text()
    assert "Flatness" not in printed  # two screens have no room for it; the files have it
    assert "8.00 ± 2.5" in (shown / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("mean", "spread", "shown"),
    [
        (23.94, 11.2, "23.9 ± 11"),
        (0.01234, 0.00056, "0.0123 ± 0.00056"),
        (1234.5, 567.8, "1234 ± 568"),
        (9.996, 0.0996, "10.0 ± 0.10"),
        (1e-7, 0.0, "1.00e-7 ± 0"),
        (5.0, None, "5.00 ± –"),
        (-0.5, 1.0, "-0.500 ± 1.0"),
    ],
)
def test_numbers_of_any_size_are_readable(mean, spread, shown):
    assert flatness_tables.number(stats.Interval(mean, spread, 3)) == shown
    assert flatness_tables.number(stats.Interval(-1e-9, None, 1), 2) == "0.00 ± –"


def test_the_error_in_the_table_is_that_of_the_runs_that_were_measured(shown):
    row = next(row for row in summary.summarise(shown).panel("default", 0.0) if row.contender == "pugd")
    measured_errors = [run.error for seed, run in row.runs.items() if seed != 1]
    assert flatness_tables.cells(row)[1].startswith(f"{100 * sum(measured_errors) / 2:.2f} [0, ")


def test_the_scatter_shows_every_run_and_mean(shown):
    found = summary.summarise(shown)
    drawn = list(figures.flatness_scatter(found))
    assert len(drawn) == 3
    assert drawn[0].note.startswith("ρ = ") and "(8 runs)" in drawn[0].note and "(3 methods)." in drawn[0].note
    for figure in drawn:
        assert figure.layout["xaxis"]["type"] == "log"
        assert figure.layout["xaxis"]["title"]["text"] and figure.layout["yaxis"]["title"]["text"] == "test error, %"
        points = figure.traces[::2]
        assert [len(trace["x"]) for trace in points] == [3, 3, 2]
        for trace in points:
            assert len(trace["marker"]["symbol"]) == len(trace["marker"]["size"]) == len(trace["x"])
    assert drawn[0].traces[0]["x"] == [9.0, 8.0, 7.0] and drawn[0].traces[1]["x"] == [8.0]
    row = found.panel("default", 0.0)[0]
    assert drawn[0].traces[0]["y"] == [100 * (1 - run.test) for run in row.runs.values()]
    assert (shown / "flatness.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_has_the_section_and_says_how_it_was_measured(shown):
    page = Page(shown)
    assert 'id="flatness"' in page.text and "Flatness and test error" in page.text
    words = "".join(page.words)
    assert "on 40 training examples (or all, if there are fewer), with the labels and the loss as trained" in words
    assert "adaptive: rho 0.5, eta 0.0, p 2, steps 20" in words
    assert len(page.figures) == 4 + 2 + 3


def test_a_hostile_name_is_text_in_the_scatter(shown):
    found = summary.summarise(shown)
    rows = [dataclasses.replace(row, contender=f"<b>{row.contender}") for row in found.rows]
    study = dataclasses.replace(found.study, methods=tuple(f"<b>{name}" for name in found.study.methods))
    drawn = next(figures.flatness_scatter(dataclasses.replace(found, rows=rows, study=study)))
    assert all("<b>" not in text for trace in drawn.traces for text in [*trace["text"], trace["name"]])

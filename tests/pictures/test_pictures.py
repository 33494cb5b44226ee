"""Pictures of landscapes: commands end to end, weights that runs keep, bad input, and the pages in a browser."""

import json
import math
import re
import shutil

import pytest
import torch
from torch import nn

from flatmin.landscape import SURFACES, Slice
from flatmin.pictures import landscapes_report, parts, theme, tracks, views
from flatmin.study import files
from flatmin.study.minima import trained_network
from flatmin.study.training import record, snapshots
from support.browser import in_chromium
from support.command_line import flatmin

#: One process of the test run has all tests, so that what they share is made once.
pytestmark = pytest.mark.xdist_group("pictures")

HOSTILE = "</script><b>one"


def my_net(num_classes):
    """A network of a user's, for images of 8x8 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two short runs that kept their weights and their way. Do not write into them."""
    root = tmp_path_factory.mktemp("runs")
    for method, name in (("pugd", "pugd"), ("sgd", HOSTILE.replace("/", "-"))):
        command = ["train", method, "--epochs", "3", "--noise", "0.4", "--keep-path", "--out", str(root / name)]
        assert flatmin(*command) == 0
    return [root / "pugd", root / HOSTILE.replace("/", "-")]


@pytest.fixture(scope="module")
def drawn(runs, tmp_path_factory):
    """The folder of a drawn landscape of both. Do not write into it."""
    out = tmp_path_factory.mktemp("drawn") / "landscape"
    options = ["--examples", "100", "--points", "7", "--directions", "2", "--out", str(out)]
    assert flatmin("landscape", *map(str, runs), *options) == 0
    return out


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")


# -- trajectory --------------------------------------------------------------------------------------------------------


def test_trajectory_needs_no_data_and_leaves_pictures_a_page_and_numbers(tmp_path, capsys):
    options = [
        "--methods",
        "sgd",
        "ugd",
        "ngd-fm",
        "pugd",
        "--lr",
        "0.02",
        "sgd=0.1",
        "--steps",
        "12",
        "--noise",
        "0.1",
    ]
    assert flatmin("trajectory", "valley", *options, "--out", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert re.search(r"pugd +0\.02 +24 ", out) and re.search(r"sgd +0\.1 +12 ", out)
    assert is_picture(tmp_path / "trajectory.png") and is_picture(tmp_path / "trajectory.svg")
    numbers = files.read_json(tmp_path / "trajectory.json")
    assert numbers["command"].startswith("flatmin trajectory valley") and numbers["noise"] == 0.1
    found = {track["name"]: track for track in numbers["tracks"]}
    assert found["ugd"]["points"] == found["ngd-fm"]["points"] and len(found["sgd"]["points"]) == 13
    assert {path.name for path in tmp_path.iterdir()} == {f"trajectory.{end}" for end in ("png", "svg", "html", "json")}


def test_tracks_that_are_alike_share_a_line_and_a_name():
    from flatmin import landscape

    found = landscape.run(SURFACES["valley"], ["ugd", "sgd", "ngd-fm"], steps=3)
    groups = tracks.same(found)
    assert [*groups] == ["ugd = ngd-fm", "sgd"] and groups["sgd"] is found[1]


def test_a_track_that_leaves_is_drawn_and_said(tmp_path, capsys):
    options = ["--methods", "sgd", "ugd", "--lr", "sgd=1", "--steps", "5", "--out", str(tmp_path)]
    assert flatmin("trajectory", "rosenbrock", *options) == 0
    assert "sgd left the surface in step" in (tmp_path / "trajectory.html").read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trajectory", "basin"], "unknown surface 'basin'; did you mean 'basins'"),
        (["trajectory", "--methods", "pugdd"], "unknown method 'pugdd'; did you mean 'pugd'"),
        (["trajectory", "--methods", "sam", "sam"], "methods must not name anything twice, got sam sam"),
        (["trajectory", "--lr", "fast"], "lr must be a number or name=number, got 'fast'; write 0.05 or sgd=0.05"),
        (["trajectory", "--noise", "-1"], "noise must be >= 0, got -1.0"),
        (["landscape"], "no network is named; write flatmin landscape RUN, or --model, --weights and --data"),
        (["landscape", "nowhere"], "nowhere is no folder; write flatmin train ... --keep-weights --out nowhere"),
        (["landscape", "."], ". is no finished run; write flatmin train"),
        (["landscape", "--weights", "a.pt"], "--weights a.pt needs its --model; write --model package.module:factory"),
        (["landscape", "--model", "resnet20"], "--model resnet20 needs its --weights; write --weights FILE"),
        (["landscape", "--model", "small-cnn", "--weights", "a.pt"], "cannot read a.pt: No such file or directory"),
        (["landscape", "--model", "smal", "--weights", "a.pt"], "model: unknown name 'smal'; did you mean small-"),
        (["landscape", "x", "--points", "2"], "points must be >= 3, got 2"),
        (["landscape", "x", "--radius", "0"], "radius must be > 0, got 0.0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert flatmin(*argv) == 2
    out, errors = capsys.readouterr()
    assert message in errors and errors.startswith("flatmin: ") and errors.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())


# -- weights that runs keep --------------------------------------------------------------------------------------------


def test_keeping_weights_changes_no_number_and_no_config(runs, tmp_path):
    assert flatmin("train", "pugd", "--epochs", "3", "--noise", "0.4", "--out", str(tmp_path / "bare")) == 0
    results = [files.read_json(folder / "result.json") for folder in (runs[0], tmp_path / "bare")]
    assert results[0]["test_accuracy"] == results[1]["test_accuracy"]
    configs = [(folder / "config.toml").read_text() for folder in (runs[0], tmp_path / "bare")]
    assert configs[0] == configs[1] and not (tmp_path / "bare" / "weights.pt").exists()


def test_kept_weights_are_those_that_were_evaluated(runs):
    one = trained_network.of_run(runs[0], "test")
    with torch.no_grad():
        right = sum(int((one.net.eval()(x).argmax(1) == y).sum()) for x, y in one.examples)
    result = files.read_json(runs[0] / "result.json")
    assert right / len(one.examples.labels) == result["test_accuracy"]
    assert len(one.path) == 4
    last = one.path[-1]
    assert all(torch.equal(value.cpu(), last[name]) for name, value in one.net.state_dict().items())
    assert not all(torch.equal(value, last[name]) for name, value in one.path[0].items())


def test_examples_are_those_of_the_training(runs):
    clean, noisy = trained_network.of_run(runs[0], "validation"), trained_network.of_run(runs[0])
    from flatmin.study.data.dataset import load_dataset

    dataset = load_dataset("digits")
    assert torch.equal(clean.examples.labels, dataset.validation.labels)
    changed = (noisy.examples.labels != dataset.train.labels).double().mean()
    assert 0.3 < changed < 0.42
    few = trained_network.of_run(runs[0], count=50).examples
    assert sum(len(y) for _, y in few) == 50 and torch.equal(next(iter(few))[0], next(iter(few))[0])


def test_a_finished_run_without_weights_is_not_silently_enough(tmp_path, capsys):
    command = ["train", "sgd", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert flatmin(*command) == 0 and flatmin(*command, "--keep-weights") == 2
    assert "holds this run, finished, without the weights that are asked for; delete it" in capsys.readouterr().err
    assert flatmin("landscape", str(tmp_path / "run")) == 2
    assert "kept no weights; train it again with --keep-weights" in capsys.readouterr().err


def test_a_path_of_another_training_is_replaced(tmp_path):
    net = my_net(10)
    other = snapshots.Snapshots(tmp_path, path=True)
    for step in (0, 7):
        other.keep(step, net)
    mine = snapshots.Snapshots(tmp_path, path=True)
    mine.keep(0, net)
    mine.keep(5, net)
    assert [path.name for path in snapshots.path_files(tmp_path)] == ["step-00000000.pt", "step-00000005.pt"]
    assert not mine.kept()
    mine.finish()
    assert mine.kept()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: {"model": my_net(10).state_dict(), "epoch": 3}, r"holds no state dict but model, epoch; write torch"),
        (lambda: [1, 2], "holds no state dict but list"),
        (lambda: my_net(10), "is no file of weights .*write torch.save"),
        (lambda: my_net(9).state_dict(), r"does not fit the network .*1.weight has shape \(9, 64\), not \(10, 64\)"),
        (lambda: {"1.weight": torch.zeros(10, 64), "b": torch.zeros(1)}, "has no 1.bias; has b, which the network has"),
    ],
)
def test_weights_that_do_not_fit_are_refused(content, message, tmp_path):
    torch.save(content(), tmp_path / "some.pt")
    with pytest.raises(ValueError, match=message):
        trained_network.of_file(tmp_path / "some.pt", f"{__name__}:my_net", "digits")


def test_a_file_that_is_not_torchs_is_refused(tmp_path):
    (tmp_path / "some.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"some\.pt is no file of weights"):
        snapshots.read(tmp_path / "some.pt")


# -- landscape ---------------------------------------------------------------------------------------------------------


def test_a_landscape_of_two_runs(runs, drawn):
    for name in ("slices", "surface", "line", "path"):
        assert is_picture(drawn / f"{name}.png") and is_picture(drawn / f"{name}.svg")
    assert not list(drawn.glob(".*"))
    numbers = files.read_json(drawn / "landscape.json")
    first, second = (folder.name for folder in runs)
    assert [*numbers["curves"]] == [*numbers["planes"]] == [*numbers["paths"]] == [first, second]
    here = trained_network.of_run(runs[0], count=100)
    (x, y), *rest = here.examples
    assert not rest
    with torch.no_grad():
        loss = here.loss(here.net.eval()(x), y).item()
    for curve in numbers["curves"][first]:
        assert curve["losses"][3] == loss and curve["x"][3] == 0 and len(curve["losses"]) == 7
    plane = numbers["planes"][first]
    assert plane["losses"][1][1] == loss and plane["x"] == plane["y"] == [-1, 0, 1]
    (line,) = numbers["lines"].values()
    assert 0 in line["x"] and 1 in line["x"]
    path = numbers["paths"][first]
    assert (
        path["points"][-1] == [0, 0] and path["points"][0][1] == pytest.approx(0, abs=1e-9) and len(path["points"]) == 4
    )
    assert 0.5 < path["explained"] <= 1


def test_a_training_in_its_principal_components(runs, tmp_path):
    options = ["--examples", "20", "--points", "3", "--directions", "1", "--plane", "pca", "--out", str(tmp_path)]
    assert flatmin("landscape", str(runs[0]), *options) == 0
    path = files.read_json(tmp_path / "landscape.json")["paths"][runs[0].name]
    assert path["points"][0][1] > 1e-6 and path["points"][-1] == [0, 0]
    assert "first principal component" in (tmp_path / "landscape.html").read_text()


def test_a_landscape_of_a_network_of_yours(tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(my_net(10).state_dict(), tmp_path / "mine.pt")
    options = ["--model", f"{__name__}:my_net", "--weights", str(tmp_path / "mine.pt"), "--data", "digits"]
    options += ["--examples", "20", "--points", "3", "--directions", "1", "--out", str(tmp_path / "out")]
    assert flatmin("landscape", *options) == 0
    assert re.search(r"mine\.pt +\d", capsys.readouterr().out)
    files = {path.stem for path in (tmp_path / "out").iterdir()}
    assert files == {"slices", "surface", "landscape"}


def test_networks_of_two_architectures_and_diverged_ones_are_refused(runs, tmp_path, capsys):
    torch.save(my_net(10).state_dict(), tmp_path / "mine.pt")
    options = ["--model", f"{__name__}:my_net", "--weights", str(tmp_path / "mine.pt"), "--points", "3"]
    out = tmp_path / "out"
    assert flatmin("landscape", str(runs[0]), *options, "--examples", "20", "--out", str(out)) == 2
    assert "mine.pt is not of the same architecture as pugd; draw them one by one" in capsys.readouterr().err
    torch.save({name: value * math.inf for name, value in my_net(10).state_dict().items()}, tmp_path / "mine.pt")
    assert flatmin("landscape", *options, "--out", str(out)) == 2
    assert "mine.pt: the loss at its weights is nan; there is no landscape to draw" in capsys.readouterr().err
    assert not out.exists()


def test_names_are_as_long_as_they_must_be(tmp_path):
    paths = [tmp_path / "a" / "seed-0", tmp_path / "b" / "seed-0", tmp_path / "c.pt"]
    assert trained_network.short_names(paths) == ["a/seed-0", "b/seed-0", "c.pt"]
    with pytest.raises(ValueError, match="nothing may be named twice"):
        trained_network.short_names([tmp_path, tmp_path / "a" / ".."])


# -- drawing -----------------------------------------------------------------------------------------------------------


def seen(losses):
    """A network's plane and lines with these losses, 3 by 3."""
    x = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    return views.Seen({"one": [Slice(x, None, losses[1])]}, {"one": Slice(x, x, losses)})


def test_losses_that_are_not_finite_are_gaps_and_null(tmp_path):
    losses = torch.tensor([[math.inf, 2.0, 3.0], [math.nan, 1.0, 2.0], [4.0, 3.0, 5.0]], dtype=torch.float64)
    landscapes_report.write(seen(losses), views.View(), [], "c", tmp_path)
    numbers = json.loads((tmp_path / "landscape.json").read_text())
    assert numbers["planes"]["one"]["losses"] == [[None, 2, 3], [None, 1, 2], [4, 3, 5]]
    assert parts.rows(losses)[0] == [None, 2, 3]
    with pytest.raises(ValueError, match="no loss is finite"):
        theme.levels(torch.full((3, 3), math.nan))


def test_labels_keep_apart_and_stay_where_there_is_room():
    assert theme.spread([0.1, 0.5], 0.1) == [0.1, 0.5]
    moved = theme.spread([0.9, 0.95, 1.0, 1.0], 0.1)
    assert moved == pytest.approx([0.7, 0.8, 0.9, 1.0])


def test_levels_have_equal_areas():
    values = torch.rand(100, 100, dtype=torch.float64) ** 8
    at = theme.levels(values)
    counts = torch.histogram(values.flatten(), torch.tensor(at, dtype=torch.float64)).hist
    assert len(at) == theme.LEVELS and counts.max() - counts.min() <= 2


def test_no_track_looks_like_another_or_is_black():
    found = theme.styles([str(i) for i in range(18)])
    assert len({(one.colour, one.dash) for one in found.values()}) == 18
    assert all(one.colour for one in found.values()) and found["17"].dash == "solid"


@pytest.mark.parametrize("step", ["page", "picture", "numbers"])
def test_files_are_whole_or_the_old_ones(drawn, tmp_path, monkeypatch, step):
    out = tmp_path / "copy"
    shutil.copytree(drawn, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(record.os, "replace", fail)
    losses = torch.ones(3, 3, dtype=torch.float64)
    with pytest.raises(OSError, match="disk full"):
        landscapes_report.write(seen(losses), views.View(), [], "c", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


# -- in a browser ------------------------------------------------------------------------------------------------------

PROBE = """<!doctype html><iframe src="PAGE" style="width: 360px; height: 800px"></iframe><pre>nothing</pre>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => setTimeout(() => {
  const page = frame.contentDocument, found = {};
  const drawn = () => [...page.querySelectorAll(".plot")].map((plot) => plot.data.map((trace) => trace.visible));
  const boxes = [...page.querySelectorAll("#switches input")];
  found.names = boxes.map((box) => box.value);
  found.titles = [...page.querySelectorAll("figcaption")].map((caption) => caption.textContent);
  found.all = drawn();
  boxes[1].click();
  found.less = drawn();
  page.querySelector("[data-show=none]").click();
  found.none = drawn();
  page.querySelector("[data-show=all]").click();
  found.again = drawn();
  const canvases = (plot) => plot.querySelectorAll(".gl-container canvas").length;
  found.scenes = [...page.querySelectorAll(".plot")].map(canvases);
  found.webgl = ![...page.querySelectorAll(".plot")].some((plot) => plot.textContent.includes("WebGL"));
  found.loads = frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name);
  found.wide = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  document.querySelector("pre").textContent = JSON.stringify(found);
}, 500);
</script>
"""


def opened(page, folder):
    """What the script found on the page, and complaints about it."""
    software = "enable-unsafe-swiftshader use-angle=swiftshader"  # scenes need WebGL, and there may be no GPU
    found, console = in_chromium(page, PROBE, folder, flags=software, budget=8000)
    return found, [line for line in console if "GL Driver Message" not in line and "willRead" not in line]


def test_a_landscape_works_in_a_browser(runs, drawn, tmp_path):
    found, console = opened(drawn / "landscape.html", tmp_path)
    assert not console and not found["loads"] and found["wide"] <= 0 and found["webgl"]
    first, second = found["names"]
    assert [first, second] == [folder.name for folder in runs]
    assert found["titles"][0] == "Planes through each network, to turn" and found["scenes"][0] > 0
    assert f"{second}, from above" in found["titles"]
    assert len(found["titles"]) == 3 + 2 + 2
    assert all(all(traces) for traces in found["all"]) and found["again"] == found["all"]
    assert not any(any(traces) for traces in found["none"])
    assert found["less"][0] == [True, False] and found["less"][2] == [False]


def test_a_trajectory_works_in_a_browser(tmp_path):
    options = ["--methods", "sgd", "pugd", "--steps", "5", "--out", str(tmp_path / "out")]
    assert flatmin("trajectory", *options) == 0
    found, console = opened(tmp_path / "out" / "trajectory.html", tmp_path)
    assert not console and not found["loads"] and found["wide"] <= 0 and found["webgl"]
    assert found["names"] == ["sgd", "pugd"] and found["scenes"][0] > 0
    assert found["titles"] == ["basins, to turn", "basins, from above", "Distance to the nearest minimum"]
    assert found["less"] == [[True, True, False], [True, True, False, True, True], [True, False]]
    assert found["none"] == [[True, False, False], [True, False, False, True, True], [False, False]]
    assert found["again"] == found["all"]

"""The HTML report: every name escaped, every run in it, every number the one of results.json, and nothing loaded."""

import dataclasses
import html as escaping
import itertools
import re
import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from flatmin.study import files
from flatmin.study.report import (
    conclusions,
    drawing,
    experimental_setup,
    figures,
    html,
    plots,
    standalone,
    summary,
    write,
)
from flatmin.study.report.sensitivity import sensitivity
from flatmin.study.report.tables import p_value
from flatmin.study.training import record
from support.browser import in_chromium
from support.report_pages import BENIGN, ENVIRONMENT, Page, make

#: One process of the test run has all tests, so that what they share is made once.
pytestmark = pytest.mark.xdist_group("report")

HOSTILE = (
    "</script><script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">\u2028&amp;",
    "{{ 7 * 7 }} %{x} <!-- ${x}",
)


def searched(out):
    """What the search of a study says of its settings."""
    found = summary.summarise(out)
    return sensitivity(found.study, files.read_json(out / "tuning.json"), found)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of a study. Do not write into it."""
    return make(tmp_path_factory.mktemp("studies") / "plain")


@pytest.fixture(scope="module")
def hostile(plain, tmp_path_factory):
    """The same study with hostile names, in a folder with a hostile name. Do not write into it."""
    renamed = dict(zip(BENIGN, HOSTILE, strict=True))
    every = [dataclasses.replace(one, contender=renamed[one.contender]) for one in searched(plain)]
    with pytest.MonkeyPatch.context() as patch:  # there are no such methods
        patch.setattr(write, "sensitivity", lambda *known: every)
        return make(tmp_path_factory.mktemp("studies") / '<i>study & "more" <!--', HOSTILE)


# -- safety ------------------------------------------------------------------------------------------------------------


def test_names_cannot_become_markup(plain, hostile):
    one, other = Page(plain), Page(hostile)
    assert [tag for tag, _ in other.tags] == [tag for tag, _ in one.tags]
    assert {name for _, attrs in other.tags for name in attrs} == {name for _, attrs in one.tags for name in attrs}
    assert len(other.scripts) == len(one.scripts) == 3 and other.scripts[1:] == one.scripts[1:]
    words = "".join(other.words)
    for name in (*HOSTILE, hostile.name, "a <b>fast</b> one"):
        assert name in words
    assert [attrs["value"] for tag, attrs in other.tags if attrs.get("type") == "checkbox"] == [*HOSTILE]


def test_data_cannot_leave_their_block(hostile):
    page = Page(hostile)
    assert not set("<>&\u2028\u2029") & set(page.scripts[0])
    assert {trace["meta"] for figure in page.figures for trace in figure["traces"]} == {*HOSTILE}
    for figure in page.figures:  # plotly reads tags in what it shows
        for trace in figure["traces"]:
            assert "<" not in trace["name"] + "".join(trace.get("text", ()))
            assert any(name in escaping.unescape(trace["name"]) for name in HOSTILE)
            assert not any(name in trace["hovertemplate"] for name in HOSTILE)


def test_nothing_is_loaded(hostile):
    page = Page(hostile)
    assert not [attrs for _, attrs in page.tags if {"src", "srcset", "action", "data", "poster", "style"} & {*attrs}]
    links = [attrs["href"] for _, attrs in page.tags if "href" in attrs]
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import", "".join(page.styles))
    outside = page.text.replace(page.scripts[1], "")
    assert "http:" not in outside and "https:" not in outside
    (policy,) = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    scripts = policy.partition("script-src")[2].partition(";")[0].split()
    assert policy.startswith("default-src 'none'; ")
    assert scripts == [f"'{standalone.digest(script)}'" for script in page.scripts[1:]]


def test_a_script_cannot_end_early():
    script = standalone.script("a = '</script>' + '</SCRIPT >' + '<!--'")
    assert "</script" not in script.lower() and "<!--" not in script


@pytest.mark.parametrize("step", ["render", "replace"])
def test_the_report_is_whole_or_the_old_one(plain, tmp_path, monkeypatch, step):
    out = Path(shutil.copytree(plain, tmp_path / "copy"))
    before = (out / "report.html").read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(*((html, "render") if step == "render" else (record.os, "replace")), fail)
    found = summary.summarise(out)
    with pytest.raises(OSError, match="disk full"):
        html.write(found, summary.as_json(found), None, [], out)
    assert (out / "report.html").read_bytes() == before and not list(out.glob(".*report.html"))


# -- completeness ------------------------------------------------------------------------------------------------------


def test_every_run_is_in_the_table_and_its_numbers_are_those_of_results_json(plain):
    results = files.read_json(plain / "results.json")
    rows = Page(plain).table("method", "arm", "label noise, %", "seed")
    assert len(rows) == 36 and len(results["runs"]) == 35
    shown = {(row[0][0], row[1][0], float(row[2][1]), int(row[3][1])): row for row in rows}
    for run in results["runs"]:
        row = shown.pop((run["contender"], run["arm"], run["noise"], run["seed"]))
        names = ("test_accuracy", "validation_accuracy", "gradient_evaluations", "steps", "seconds")
        assert [float(cell[1]) for cell in row[4:9]] == [run[name] for name in names]
        assert row[4][0] == f"{100 * run['test_accuracy']:.2f}"
        assert row[9][0] == ("complete" if run["diverged"] is None else "diverged in epoch 2")
        assert row[10][0] == run["method"]
    ((key, row),) = shown.items()
    assert key == ("sam", "default", 0.4, 2) and row[9][0] == "not complete"
    assert "36 runs: 34 complete, 1 diverged, 1 not complete." in Page(plain).text


def test_the_tables_show_the_numbers_of_results_json(plain):
    page, results = Page(plain), files.read_json(plain / "results.json")
    tables = [rows[1:] for rows in page.tables if [cell[0] for cell in rows[0]][:2] == ["method", "test accuracy, %"]]
    shown = [[cell[0] for cell in row] for rows in tables for row in rows]
    assert len(tables) == 4 and len(shown) == len(results["table"]) == 12
    for cells, row in zip(shown, results["table"], strict=True):
        mean, half, n = row["test_accuracy"].values()
        assert cells[0] == row["contender"] + " †" * (row["diverged"] > 0)
        low = f"{100 * (mean - half):.2f}" if mean > half else "0"
        written = f"{100 * mean:.2f} ± {100 * half:.2f}" if mean + half <= 1 else f"{100 * mean:.2f} [{low}, 100]"
        assert cells[1:3] == [written, str(n)]
        difference = row["difference"]
        written = "–"
        if difference:
            mean, half = 100 * difference["mean"], 100 * difference["half_width"]
            written = f"{mean:+.2f} ± {half:.2f}" if mean - half >= -100 else f"{mean:+.2f} [-100, {mean + half:.2f}]"
        assert cells[3] == written
        assert cells[4] == "–" and cells[5] == p_value(row["p_holm"])
        assert cells[6:8] == ["62.5", "12.5" if row["noise"] else "–"] and row["train_accuracy"] == 0.625
        assert cells[8:] == [f"{row['gradient_evaluations']:g}", f"{row['seconds']:.2f}", "lr 0.1, wd 0.0005"]
    assert "† pugd, default settings, 40 % label noise: 1 of 3 runs diverged" in page.text


def test_the_plots_show_the_numbers_of_results_json(plain):
    results = files.read_json(plain / "results.json")
    found = [figure["traces"] for figure in Page(plain).figures]
    panels = [(arm, noise) for arm in ("default", "tuned") for noise in (0.0, 0.4)]
    assert len(found) == 8 + 4 + 2
    for i, panel in enumerate(panels):
        runs = [run for run in results["runs"] if (run["arm"], run["noise"]) == panel]
        rows = [row for row in results["table"] if (row["arm"], row["noise"]) == panel]
        gradients, seconds = found[2 * i : 2 * i + 2]
        points = [(x, y) for trace in seconds[::2] for x, y in zip(trace["x"], trace["y"], strict=True)]
        for (x, y), run in zip(points, runs, strict=True):
            assert x == run["seconds"]
            # A cross stands on the lower edge of the plot, above where it ended.
            assert y == 100 * run["test_accuracy"] if run["diverged"] is None else y > 80
        for traces in (gradients, seconds):
            for trace, row in zip(traces[1::2], rows, strict=True):
                assert trace["y"] == [100 * row["test_accuracy"]["mean"]]
                mean, half = (100 * row["test_accuracy"][name] for name in ("mean", "half_width"))
                assert trace["error_y"]["array"] == pytest.approx([min(half, 100 - mean)])
                assert trace["error_y"]["arrayminus"] == pytest.approx([min(half, mean)])
        assert [trace["x"] for trace in seconds[1::2]] == [[row["seconds"]] for row in rows]
        curves = found[8 + i]
        assert len(curves) == len(runs) + 3
        for trace, run in zip(curves, runs, strict=False):
            assert trace["y"][-1] == 100 * run["validation_accuracy"]
            assert trace["x"][-1] == run["gradient_evaluations"]
        assert all(trace["line"]["width"] == 2 for trace in curves[-3:])
    crosses = ["x-thin-open" in trace["marker"]["symbol"] for trace in found[2] if len(trace["x"]) > 1]
    assert crosses == [False, False, True] and "1 of 3 runs diverged, × at the lower edge" in Page(plain).text


def test_the_report_opens_with_the_answer(plain):
    page, found = Page(plain), summary.summarise(plain)
    ids = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert ids[:2] == ["answer", "results"] and ids.index("protocol") > ids.index("curves")
    forests = [rows for rows in page.tables if rows[0][0][0].startswith("method, gradients per step")]
    words = " ".join("".join(page.words).split())
    assert len(forests) == 4
    for rows, (arm, noise) in zip(forests, itertools.product(("default", "tuned"), (0.0, 0.4)), strict=True):
        lines = conclusions.lines(found, arm, noise)
        shown = [(row[0][0].split()[0], row[2][0]) for row in rows[1:-1]]
        assert shown == [(line.name, line.words) for line in lines]
        assert conclusions.sentence(found, arm, noise) in words
    places = [float(attrs["cx"][:-1]) for tag, attrs in page.tags if tag == "circle"]
    assert places and all(0 <= place <= 100 for place in places)
    assert (plain / "forest.png").read_bytes().startswith(b"\x89PNG")
    assert conclusions.sentence(found, "tuned", 0.4) in (plain / "report.md").read_text(encoding="utf-8")


def test_no_label_of_a_picture_is_cut(tmp_path):
    names = tuple(f"a-method-with-a-long-name-{i}" for i in range(5))
    figure = Figure(figsize=(3, 2), layout="constrained")
    figure.subplots().set_ylabel("accuracy")
    plots.legend(figure, drawing.styles(names))
    plots.save(figure, tmp_path / "one.png")
    pixels = imread(tmp_path / "one.png")[..., :3]
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 1).all()


def test_a_search_is_shown_whole(plain):
    page = Page(plain)
    trials = page.table("method", "label noise, %", "trial")
    assert len(trials) == 9 and [cell[0] for cell in trials[1]] == ["sgd", "all", "1", "10.00", "2", "lr 0.9, rho 0.5"]
    assert [cell[0] for cell in trials[2]] == ["sgd", "all", "2", "–", "0", "lr 0.2, failed: ValueError: <b>no</b>"]
    rates, radii = page.figures[-2:]
    assert rates["layout"]["xaxis"]["type"] == "log" and rates["traces"][0]["x"] == [0.1, 0.9]
    assert rates["traces"][0]["y"][0] == 100 * 0.91234 and rates["traces"][0]["marker"]["symbol"] == [
        "circle",
        "x-thin-open",
    ]
    assert [(trace["meta"], trace["x"]) for trace in radii["traces"]] == [("sam", [0.05, 0.5])]
    shares = page.table("method", "label noise, %", "setting", "searched from")
    assert [[row[0][0], row[2][0]] for row in shares] == [
        ["sgd", "lr"],
        ["sam", "lr"],
        ["sam", "rho"],
        ["pugd", "lr"],
    ]
    for row, one in zip(shares, searched(plain), strict=True):
        assert float(row[5][1]) == one.near_best
    assert (plain / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    assert (plain / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_a_study_without_a_search_has_no_such_section(tmp_path):
    out = make(tmp_path / "short", tuned=False)
    page = Page(out)
    assert not {"sensitivity", "#sensitivity"} & {value for _, attrs in page.tags for value in attrs.values()}
    assert len(page.figures) == 4 + 2 and not (out / "sensitivity.png").exists()


def test_time_to_target_is_shown_if_it_is_known(plain, tmp_path):
    out = Path(shutil.copytree(plain, tmp_path / "copy"))
    found = summary.summarise(out)
    results = summary.as_json(found)
    html.write(found, results, None, [], out)
    assert not {"target", "#target"} & {value for _, attrs in Page(out).tags for value in attrs.values()}

    row = {"arm": "tuned", "noise": 0.4, "n": 3, "steps": 20}
    one = {**row, "contender": "sgd", "reached": 3, "gradient_evaluations": 40, "seconds": 1.25}
    two = {**row, "contender": "sam", "reached": 1, "gradient_evaluations": None, "seconds": None, "steps": None}
    units = {"gradient_evaluations": 0.5, "steps": 0.25, "seconds": None}
    results["time_to_target"] = {
        "arm": "tuned",
        "baseline": "sgd",
        "targets": [{"noise": 0.4, "validation_accuracy": 0.91234}],
        "table": [one, two],
        "scores": [{"arm": "tuned", "contender": "sam", "to_baseline": units, "to_pool": units}],
    }
    html.write(found, results, None, [], out)
    page = Page(out)
    assert "that sgd reaches at tuned settings: 91.23 % with 40 % label noise." in page.text
    times = [[cell[0] for cell in row] for row in page.table("method", "arm", "label noise, %", "runs that reached it")]
    assert times == [["sgd", "tuned", "40", "3", "3", "40", "20", "1.25"], ["sam", "tuned", "40", "1", "3", *"–––"]]
    scores = [[cell[0] for cell in row] for row in page.table("method", "arm", "to sgd, gradients")]
    assert scores == [["sam", "tuned", "0.500", "–", "0.500", "–"]]


def test_the_protocol_and_the_way_back_are_in_it(plain):
    words = "".join(Page(plain).words)
    assert "plain: 3 optimizers on digits, n = 3 paired seeds" in words
    assert "the best of 2 trials per method by mean final validation accuracy" in words
    assert "git checkout 0123abc  # it had changes that were not committed\nflatmin compare --methods sgd" in words
    assert (plain / "study.toml").read_text() in words
    for value in ENVIRONMENT.values():
        assert value in words


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"budget": "grads"}, "All methods compute the same number of gradients"),
        ({"seeds": 1}, "n = 1 run per method and condition, with seed 0. One run says nothing"),
        ({"seeds": 2}, "Two runs tell little."),
        ({"data": "photos"}, "tested on 20 % of their images"),
        ({"noise": (0.2,)}, "20 % of the training labels"),
        ({"tune": 0}, "Tuned settings come from an earlier search"),
    ],
)
def test_protocols_in_words(plain, change, phrase):
    found = summary.summarise(plain)
    words = dict(
        experimental_setup.in_words(dataclasses.replace(found, study=dataclasses.replace(found.study, **change)))
    )
    assert any(phrase in sentence for sentence in words.values())


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_no_two_of_21_contenders_look_alike():
    found = drawing.styles([str(i) for i in range(21)]).values()
    for look in ("dash", "symbol"):  # in lines, and in points
        assert len({(style.colour, getattr(style, look)) for style in found}) == 21


def test_equal_costs_stand_apart_and_unequal_ones_stay(plain):
    rows = summary.summarise(plain).panel("default", 0.0)
    moved = drawing.apart(rows)
    assert sorted(moved.values()) == [-moved["pugd"], 0, moved["pugd"]] and moved["pugd"] > 0
    assert drawing.apart(rows[:1]) == {"sgd": 0}


def test_every_axis_is_named(plain):
    found = summary.summarise(plain)
    for figure in (*figures.cost(found), *figures.curves(found), *figures.sensitivity(found, searched(plain))):
        assert all(figure.layout[axis]["title"]["text"] for axis in ("xaxis", "yaxis"))
        assert figure.layout["yaxis"]["title"]["text"].endswith("accuracy, %")


# -- in a browser ------------------------------------------------------------------------------------------------------

PROBE = """<!doctype html><iframe src="PAGE" style="width: 360px; height: 800px"></iframe><pre>nothing</pre>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => setTimeout(() => {
  const page = frame.contentDocument, found = {};
  const drawn = () => [...page.querySelectorAll(".plot")].map(
    (plot) => [plot.querySelectorAll(".scatterlayer .trace").length, plot.data.map((trace) => trace.visible)]);
  const column = (i) => [...page.querySelector("#runs tbody").rows].map((row) => row.cells[i].textContent);
  const boxes = [...page.querySelectorAll("#switches input")];
  found.title = page.title;
  found.names = boxes.map((box) => box.value);
  found.all = drawn();
  boxes[1].click();
  found.less = drawn();
  page.querySelector("[data-show=none]").click();
  found.none = drawn();
  page.querySelector("[data-show=all]").click();
  found.again = drawn();
  const heads = [...page.querySelectorAll("#runs th button")];
  heads[4].click();
  found.up = column(4);
  heads[4].click();
  found.down = column(4);
  found.sorted = heads[4].parentElement.getAttribute("aria-sort");
  const plot = page.querySelector(".plot");
  frame.contentWindow.Plotly.Fx.hover(plot, [{ curveNumber: 2, pointNumber: 0 }]);
  found.hover = plot.querySelector(".hoverlayer").textContent;
  found.buttons = [...plot.querySelectorAll(".modebar-btn")].map((button) => button.dataset.title);
  found.loads = frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name);
  found.wide = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  const plots = [...page.querySelectorAll(".plot")], log = plots[plots.length - 2];
  const modes = () => log.layout.xaxis.tickmode;
  const zoom = (range) => frame.contentWindow.Plotly.relayout(log, { "xaxis.range": range });
  const whole = [...log.layout.xaxis.range];
  found.ticks = [modes()];
  zoom([-1, -0.9]).then(() => { found.ticks.push(modes()); return zoom(whole); }).then(() => {
    found.ticks.push(modes());
    document.querySelector("pre").textContent = JSON.stringify(found);
  });
}, 500);
</script>
"""


def test_the_report_works_in_a_browser(hostile, tmp_path):
    found, console = in_chromium(hostile / "report.html", PROBE, tmp_path, flags="disable-gpu", budget=20000)
    assert not console and not found["loads"] and found["wide"] <= 0
    assert found["title"] == f"{hostile.name}: 3 optimizers on digits, n = 3 paired seeds"
    assert found["names"] == [*HOSTILE] and len(found["all"]) == 14
    for (before, _), (after, visible), figure in zip(found["all"], found["less"], Page(hostile).figures, strict=True):
        assert visible == [trace["meta"] != HOSTILE[1] for trace in figure["traces"]]
        assert after == sum(visible) < before == len(visible)
    assert all(count == 0 for count, _ in found["none"]) and found["again"] == found["all"]
    numbers = [float(cell) for cell in found["up"][:-1]]
    assert numbers == sorted(numbers) and len(numbers) == 35 and found["up"][-1] == found["down"][-1] == "–"
    assert [float(cell) for cell in found["down"][:-1]] == numbers[::-1] and found["sorted"] == "descending"
    assert found["hover"].startswith(f"{HOSTILE[1]}, seed 0: ")
    assert found["ticks"] == ["array", "auto", "array"]  # a zoom gets ticks of its own
    assert len(found["buttons"]) == 7 and not any("hare" in title for title in found["buttons"])

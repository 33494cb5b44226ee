"""What the docs say is what is there: every method has its twin, its row and its page; every number its source."""

import ast
import dataclasses
import importlib
import inspect
import json
import math
import re
import sys
import textwrap
import types
from pathlib import Path

import pytest
import torch

import flatmin
from flatmin.registry import METHODS
from flatmin.study.metric import Metric
from flatmin.study.stats import Interval, rank_correlation, t_interval
from reference import twin_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
METHOD_CLASSES = sorted({*importlib.import_module("flatmin.methods").__all__} - {"NGD"})  # another name of UGD


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def proof(file):
    """The text of a test file, whichever folder it is in."""
    (found,) = (ROOT / "tests").rglob(f"{file}.py")
    return found.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_numpy_twin(name):
    assert callable(twin_of(name))


#: What is documented where it is made: the registry's functions, and names of types that are explained with `Method`.
ELSEWHERE = {"build", "methods", "Conversation", "Memory", "NGD"}


@pytest.mark.parametrize("name", sorted(set(flatmin.__all__) - ELSEWHERE))
def test_every_public_name_is_on_exactly_one_page(name):
    value = getattr(flatmin, name)
    paths = {f"::: flatmin.{name}\n", f"::: {getattr(value, '__module__', 'flatmin')}.{name}\n"}
    shown = [page.name for page in PAGES for path in paths if path in page.read_text(encoding="utf-8")]
    assert len(shown) == 1, shown


def test_type_checkers_know_the_short_names_on_the_pages():
    """Those in `methods/__init__.py`; mkdocs runs no code either."""
    tree = ast.parse(text("src/flatmin/methods/__init__.py"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    listed = {alias.asname for node in imports for alias in node.names if alias.asname}
    exported = {*importlib.import_module("flatmin.methods").__all__}
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {name for name in exported if f"::: flatmin.{name}\n" in pages} <= listed <= exported


@pytest.mark.parametrize("name", METHODS)
def test_every_entry_has_its_page(name):
    page = text(f"docs/methods/{name}.md")
    parts = ["# ", "## When to use it\n", "## Reference\n", "## Measured\n", f"<!-- measured: {name} -->\n"]
    parts += ["## Cite\n", f"<!-- cite: {name} -->\n"]
    at = [page.find(part) if part == "# " else page.find(f"\n{part}") for part in parts]
    assert at[0] == 0 and at == sorted(at), dict(zip(parts, at, strict=True))


def test_every_page_of_methods_is_an_entry_s_but_one():
    pages = {page.stem for page in (ROOT / "docs/methods").glob("*.md")}
    assert pages - {"composing"} == set(METHODS)


@pytest.mark.parametrize(
    "entry", [e for e in METHODS.values() if e.paper], ids=[n for n, e in METHODS.items() if e.paper]
)
def test_every_entry_cites_the_paper_that_its_file_names(entry):
    made = type(entry.make())
    described = (made, inspect.getmodule(made), entry.make)
    named = " ".join(" ".join(inspect.getdoc(thing) or "" for thing in described).split())
    assert (entry.paper.arxiv or str(entry.paper.year)) in named


@pytest.mark.parametrize("name", METHOD_CLASSES)
def test_every_method_is_documented_like_its_paper(name):
    doc = inspect.getdoc(getattr(flatmin, name))
    assert "Cost: " in doc
    assert "Examples:\n" in doc
    for field in dataclasses.fields(getattr(flatmin, name)):
        assert re.search(rf"^    {field.name}: ", doc, re.MULTILINE), f"{field.name} is not explained"


@pytest.mark.parametrize("page", ["README.md", "docs/design.md"])
def test_pugd_in_the_docs_is_pugd(page):
    shown = re.search(r"( *def direction\(self, w, memory\):\n(?: +.*\n)+?.*return .*\n)", text(page))
    written = inspect.getsource(flatmin.PUGD.direction)

    def body(source):
        function = ast.parse(textwrap.dedent(source)).body[0]
        statements = [s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
        return [ast.dump(s) for s in statements]

    assert body(shown[1]) == body(written)


@pytest.fixture
def own_methods(monkeypatch):
    """The module that `docs/add-a-method.md` writes."""
    module = types.ModuleType("a_page")
    monkeypatch.setitem(sys.modules, "a_page", module)  # where pickle looks for the classes
    for code in re.findall(r"```python\n(.*?)```", text("docs/add-a-method.md"), re.DOTALL):
        exec(compile(code, "docs/add-a-method.md", "exec"), vars(module))
    return module


def test_the_methods_of_the_docs_pass_the_contract(own_methods):
    """The page runs the contract itself; that the second one chooses the harder half is for us to see."""
    p = torch.zeros(1, requires_grad=True)
    opt = flatmin.FlatOptimizer(torch.optim.SGD([p], lr=1.0), own_methods.HardHalf())
    losses = torch.tensor([1.0, 4.0, 2.0, 3.0])
    for probe in opt.probes():
        probe.backward((p + 1) * losses[probe.rows])
    opt.step()
    assert p.item() == pytest.approx(-3.5)


def test_compositions_of_the_docs_are_methods():
    (code,) = re.findall(r"```python\n(.*?)```", text("docs/methods/composing.md"), re.DOTALL)
    made = [eval(line, {"flatmin": flatmin}) for line in code.splitlines() if line[0] != "#"]
    assert {type(method).__name__ for method in made} == {"Every", "Unit", "OnlyOn", "ChannelDirected", "Late"}


def test_the_loop_that_speaks_of_examples_runs_for_a_method_that_chooses_them(own_methods):
    section = text("docs/training-loops.md").partition("## Methods that choose")[2].partition("\n## ")[0]
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    losses = []
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        opt = flatmin.FlatOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), own_methods.HardHalf())
        names = {"torch": torch, "net": net, "opt": opt, "loader": [(x, y)] * 9, "MICRO_BATCHES": 3}
        exec(compile(f"from torch.nn.functional import cross_entropy\n{code}", "docs/training-loops.md", "exec"), names)
        losses.append(torch.nn.functional.cross_entropy(net(x), y).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # micro-batches change nothing
    assert losses[0] < 0.8


#: A block of code, and the example that it is cut from, if it is.
BLOCK = re.compile(r"(?:<!-- from (\S+) -->\n)?```python\n(.*?)```", re.DOTALL)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # by torch.compile
def test_the_recipes_for_training_loops_run(tmp_path):
    pytest.importorskip("schedulefree")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2)
    )
    x = torch.randn(16, 1, 8, 8)
    names = {
        "flatmin": flatmin,
        "torch": torch,
        "net": net,
        "loader": [(x, (x.sum((1, 2, 3)) > 0).long())] * 8,
        "criterion": torch.nn.CrossEntropyLoss(),
        "device_type": "cpu",
        "path": tmp_path / "state.pt",
        "folder": tmp_path,
    }
    for source, code in BLOCK.findall(text("docs/training-loops.md")):
        if source:
            assert any(textwrap.indent(code, " " * width) in text(source) for width in (0, 4, 8)), code
        else:
            exec(compile(code, "docs/training-loops.md", "exec"), names)
    assert names["criterion"](net(names["loader"][0][0]), names["loader"][0][1]) < 0.3


def test_the_file_to_copy_is_the_example_and_its_base_makes_two_optimizers():
    blocks = dict(BLOCK.findall(text("docs/own-task.md")))
    assert text("examples/own_task.py").endswith('"""\n\n' + blocks["examples/own_task.py"])
    names = {}
    exec(compile(blocks[""], "docs/own-task.md", "exec"), names)
    net = torch.nn.Linear(3, 2)
    made = names["BASE"].make([{"params": [*net.parameters()]}], lr=0.5, wd=0.25, ratio=0.1)
    assert [[p.ndim for p in each.param_groups[0]["params"]] for each in made] == [[2], [1]]
    assert [each.param_groups[0]["lr"] for each in made] == [0.5, 0.05]


def test_every_example_is_on_the_page_and_every_proof_is_a_test():
    for example in (ROOT / "examples").glob("*.py"):
        if example.name != "digits.py":
            assert f"`examples/{example.name}`" in text("docs/training-loops.md")
    proofs = re.findall(r"`(test_\w+)::(test_\w+)`", text("docs/features.md"))
    assert len(proofs) > 40
    for file, name in proofs:
        assert f"def {name}(" in proof(file), f"{file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def rows_of(page):
    """Cells of all table rows of a page."""
    return [
        [cell.strip() for cell in line.strip("| \n").split("|")] for line in text(page).splitlines() if line[:1] == "|"
    ]


def percent(estimate, sign=""):
    return f"{100 * estimate['mean']:{sign}.2f} ± {100 * estimate['half_width']:.2f}"


#: The studies of docs/digits.md.
SEARCHED = ["digits_searched", "digits_searched_grads", "digits_searched_more"]


def rows_in(study):
    """The rows of a published study."""
    return json.loads(text(f"results/{study}.json"))["table"]


@pytest.mark.parametrize(
    ("page", "studies"),
    [
        ("docs/digits.md", SEARCHED),
        ("docs/digits-fixed-decay.md", ["digits"]),
        ("docs/digits-layernorm.md", ["digits_layernorm", "digits_layernorm_more"]),
        ("docs/own-method.md", ["digits_tilted", "fashion_mnist_tilted"]),
        ("docs/results.md", ["fashion_mnist"]),
    ],
)
def test_the_tables_of_a_study_are_its_results(page, studies):
    table = [row for study in studies for row in rows_in(study)]
    expected = {
        (row["contender"], percent(row["test_accuracy"]), percent(row["difference"], "+") if row["difference"] else "–")
        for row in table
    }
    shown = {(cells[0], cells[1], cells[3]) for cells in rows_of(page) if len(cells) > 4 and "±" in cells[1]}
    assert shown == expected


def test_the_front_page_says_what_was_measured():
    """The numbers beside the plot of README.md, and the claims made with them."""
    searched = {(row["noise"], row["contender"]): row for row in rows_in("digits_searched")}
    fixed = {(row["arm"], row["contender"]): row for row in rows_in("digits") if row["noise"] == 0.4}
    quoted = [
        searched[0.4, "sgd"],
        fixed["tuned", "sgd"],
        fixed["tuned", "pugd"],
        searched[0.0, "sgd"],
        fixed["default", "pugd"],
        fixed["default", "sgd"],
    ]
    expected = [f"{percent(row['test_accuracy'])} %" for row in quoted]
    assert re.findall(r"[\d.]+ ± [\d.]+ %", text("README.md").replace("\n  ", " ")) == expected

    differing = {name for (noise, name), row in searched.items() if noise == 0.4 and (row["p_holm"] or 1) < 0.05}
    assert differing == {"ivon"} and searched[0.4, "ivon"]["difference"]["mean"] < 0
    more = measured("digits_searched_more", "tuned", 0.0)["unit-sam"]
    assert round(100 * searched[0.0, "unit-sam"]["difference"]["mean"], 2) == 0.17 and more[1] < 0
    assert len(searched) == 32 and {row["test_accuracy"]["n"] for row in searched.values()} == {20}


def test_what_is_said_of_the_searched_digits_was_measured():
    """The numbers in the text of docs/digits.md."""
    noisy, clean = measured("digits_searched", "tuned", 0.4), measured("digits_searched", "tuned", 0.0)
    difference, reach = 1, 2
    undecided = {name for name, row in noisy.items() if name != "sgd" and abs(row[difference]) <= row[reach]}
    assert len(undecided) == 13 and all(abs(noisy[name][difference]) < 0.5 for name in undecided)
    assert [round(value, 2) for value in clean["unit-sam"][difference:]] == [0.17, 0.11]
    assert round(clean["sam"][difference], 2) == -0.72
    memorised = {row["contender"]: 100 * row["memorised"] for row in rows_in("digits_searched") if row["noise"] == 0.4}
    assert round(memorised["sgd"], 1) == 2.5
    fewer = [memorised[name] for name in ("sam", "msam", "ugd", "unit-sam", "unit-head-sam", "momentum-pugd")]
    assert (round(min(fewer), 1), round(max(fewer), 1)) == (0.8, 1.3)
    longer = next(row for row in rows_in("digits_searched_more") if (row["noise"], row["contender"]) == (0.4, "sgd"))
    assert round(100 * longer["memorised"], 1) == 0.9 and round(longer["settings"]["wd"], 2) == 0.13
    chosen = [row["settings"] for row in rows_in("digits_searched") if row["noise"] == 0.4]
    assert sum((one["lr"], one["wd"]) == (chosen[0]["lr"], chosen[0]["wd"]) for one in chosen) == 13
    found = json.loads(text("results/digits_searched.json"))["flatness"]["correlations"]
    values = [round(one["contenders"]["value"], 2) for one in found if one["noise"] == 0.4]
    assert values == [0.03, 0.03, 0.47]


def differences(runs, method, other, noise, seeds=range(20)):
    """Mean and half-width of the differences of two contenders, in points, paired by seed."""
    found = {(run["contender"], run["seed"]): run["test_accuracy"] for run in runs if run["noise"] == noise}
    interval = t_interval([100 * (found[method, seed] - found[other, seed]) for seed in seeds])
    return f"{interval.mean:+.2f} ± {interval.half_width:.2f}"


def test_what_is_said_of_our_own_method_was_measured():
    """The table of differences and the numbers in the text of docs/own-method.md."""
    runs = json.loads(text("results/digits_tilted.json"))["runs"]
    for other in ("sgd", "ugd", "sam", "pugd", "msam"):
        cells = [differences(runs, "tilted-ugd", other, noise) for noise in (0.4, 0.2, 0.0)]
        assert [f"to {other}", *cells] in rows_of("docs/own-method.md")
    fashion = json.loads(text("results/fashion_mnist_tilted.json"))["runs"]
    for other in ("sgd", "ugd", "sam", "pugd"):
        cells = [differences(fashion, "tilted-ugd", other, noise, range(5)) for noise in (0.4, 0.0)]
        assert [f"to {other}", *cells] in rows_of("docs/own-method.md")
    larger = json.loads(text("results/fashion_mnist_searched.json"))["runs"]
    for other in ("sgd", "ugd", "sam", "pugd", "msam"):
        cells = [differences(larger, "tilted-ugd", other, noise, range(5)) for noise in (0.4, 0.0)]
        assert [f"to {other}", *cells] in rows_of("docs/own-method.md")
    fresh = [differences(runs, "tilted-ugd", other, 0.4, range(6, 20)) for other in ("sgd", "sam")]
    assert fresh == ["+1.51 ± 0.42", "+1.41 ± 0.46"]
    right = next(row for row in rows_in("digits_right_labels") if row["contender"] == "sgd")
    assert f"{percent(right['test_accuracy'])} % (SGD" in text("docs/own-method.md")
    sharp = {
        row["contender"]: row["flatness"]["adaptive"]["mean"] for row in rows_in("digits_tilted") if row["noise"] == 0.4
    }
    assert round(sharp.pop("tilted-ugd"), 2) == 0.59
    assert (round(min(sharp.values()), 2), round(max(sharp.values()), 2)) == (0.07, 0.19)


def test_what_is_said_of_the_searched_fashion_was_measured():
    """The numbers in the text of docs/results.md, and what the front page says of them."""
    difference, reach = 1, 2
    noisy, clean = (measured("fashion_mnist_searched", "tuned", noise) for noise in (0.4, 0.0))
    rows = {(row["noise"], row["contender"]): row for row in rows_in("fashion_mnist_searched")}
    assert [name for name, row in noisy.items() if row[difference] > row[reach] > 0] == ["tilted-ugd"]
    above = {name for name, row in clean.items() if row[difference] > row[reach] > 0}
    assert above == {"unit-head-sam", "tilted-ugd", "ugd"}
    assert all(0.2 <= round(clean[name][difference], 1) <= 0.4 for name in above)
    assert {name for name in above if rows[0.0, name]["p_holm"] < 0.05} == {"unit-head-sam"}
    two = ("sam", "asam", "pugd")
    assert [round(value, 1) for value in sorted(clean[name][difference] for name in two)] == [-1.0, -0.7, -0.6]
    assert [round(value, 1) for value in sorted(noisy[name][difference] for name in two)] == [-0.7, -0.3, -0.1]
    assert all(92 <= 100 * rows[0.0, name]["train_accuracy"] < 94 for name in two)
    assert round(100 * rows[0.0, "sgd"]["train_accuracy"]) == 97
    sgd = rows[0.4, "sgd"]
    assert (round(sgd["settings"]["wd"], 3), round(100 * sgd["memorised"], 1)) == (0.038, 2.7)
    assert [percent(sgd["test_accuracy"]), percent(rows[0.4, "sgd+ema"]["difference"], "+")] == [
        "85.28 ± 0.19",
        "-0.63 ± 0.23",
    ]
    assert [round(rows[0.0, name]["flatness"]["lambda_max"]["mean"]) for name in ("pugd", "sgd")] == [3, 81]
    found = json.loads(text("results/fashion_mnist_searched.json"))["flatness"]["correlations"]
    seeds = {(one["noise"], one["measure"]): one["seeds"] for one in found}
    for noise, expected in ((0.0, [-0.46, 0.17]), (0.4, [-0.21, 0.18])):
        assert [round(seeds[noise, "adaptive"][key], 2) for key in ("mean", "half_width")] == expected
    for measure in ("lambda_max", "trace"):
        assert abs(seeds[0.4, measure]["mean"]) < seeds[0.4, measure]["half_width"]
    assert all(rows[noise, name]["gradient_evaluations"] == 780 for noise, name in rows if name != "unit-head-sam")


def test_the_cost_of_our_own_method_was_measured():
    found = json.loads(text("results/whole_step_tilted.json"))
    rows = [found[network]["rows"] for network in ("conv", "resnet20")]
    assert [f"{row['tilted-ugd']['per_sgd']:.2f}" for row in rows] == ["1.01", "1.02"]
    quartiles = [[round(value, 2) for value in row["tilted-ugd"]["quartiles"]] for row in rows]
    assert quartiles == [[0.99, 1.03], [1.0, 1.04]]
    assert [round(row["sam"]["per_sgd"], 2) for row in rows] == [2.01, 2.25]


def test_what_is_said_of_the_digits_without_batchnorm_was_measured():
    noisy, clean = measured("digits_layernorm", "tuned", 0.4), measured("digits_layernorm", "tuned", 0.0)
    found = [round(value, 2) for row in (noisy["sam"], noisy["msam"], clean["ugd"]) for value in row[1:]]
    assert found == [0.75, 0.50, 0.58, 0.54, 1.06, 0.29]
    more = measured("digits_layernorm_more", "tuned", 0.0)
    assert [round(value, 2) for value in more["ugd"][1:]] == [0.72, 0.28]
    assert all(row[1] <= row[2] for name, row in more.items() if name != "ugd")
    content = json.loads(text("results/digits_layernorm.json"))["flatness"]["correlations"]
    assert [round(one["contenders"]["value"], 2) for one in content if one["noise"] == 0.4] == [0.14, -0.26, 0.14]


def test_the_front_page_comes_to_the_point():
    """Installation, both commands and the loop come first, in this order; the loop runs."""
    page = text("README.md")
    order = ["pip install .", "make compare", "make test", "```python", "![Differences", "## What it works with"]
    assert [page.index(part) for part in order] == sorted(page.index(part) for part in order)
    assert page[: page.index("```python")].count("\n") < 40 and "\n|" not in page
    loop = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    names = {"net": net, "loader": [(x, (x[:, 0] > 0).long())] * 20, "criterion": torch.nn.CrossEntropyLoss()}
    exec("class scheduler:\n    step = staticmethod(lambda: None)", names)
    exec(compile(loop, "README.md", "exec"), names)
    assert names["criterion"](net(x), names["loader"][0][1]) < 0.3


def test_the_table_of_whole_steps_is_its_result():
    measured = json.loads(text("results/whole_step.json"))
    shown = rows_of("docs/benchmarks.md")
    for name in measured["conv"]["rows"].keys() - {"sgd"}:
        found = [measured[network]["rows"][name] for network in ("conv", "resnet20")]
        cells = ["{:.2f} ({:.2f} to {:.2f})".format(one["per_sgd"], *one["quartiles"]) for one in found]
        assert [name, *cells] in shown, name


def test_the_tables_of_flatness_are_their_results():
    study = json.loads(text("results/digits_flatness.json"))
    shown = rows_of("docs/flatness.md")

    def estimate(found):
        return f"{found['mean']:.3g} ± {found['half_width']:.2g}"

    for row in study["table"]:
        measures = [estimate(row["flatness"][name]) for name in ("lambda_max", "trace", "adaptive")]
        error = f"{100 * (1 - row['test_accuracy']['mean']):.2f} ± {100 * row['test_accuracy']['half_width']:.2f}"
        assert (row["contender"], error, *measures) in {tuple(cells) for cells in shown}
    clear = 0
    for found in study["flatness"]["correlations"]:
        seeds = found["seeds"]
        assert any(f"{seeds['mean']:.2f} ± {seeds['half_width']:.2f}" in cells for cells in shown)
        clear += seeds["mean"] > seeds["half_width"]
    assert clear == 5
    for found in json.loads(text("results/digits.json"))["flatness"]["correlations"]:
        if found["arm"] == "default":
            cell = f"{found['seeds']['mean']:.2f} ± {found['seeds']['half_width']:.2f}"
            assert any(cell in cells and cells[0].startswith("default, ") for cells in shown)


def test_the_registry_holds_the_winners_of_its_search():
    """Of the first search for the methods in it, of the family's for the others."""
    winners = {}
    for study in ("digits_family", "digits"):
        if (ROOT / f"results/{study}_tuning.json").exists():
            found = json.loads(text(f"results/{study}_tuning.json"))["contenders"]
            winners |= {name: contender["winner"] for name, contender in found.items()}
    for name, entry in METHODS.items():
        assert entry.tuned == winners.get("sgd" if name == "plain" else name, {}), name


def test_the_table_of_the_benchmark_is_its_result():
    measured = json.loads(text("results/optimizer_step.json"))
    shown = rows_of("docs/benchmarks.md")
    for model in ("resnet18", "vit_b"):
        for row in measured[model]["rows"]:
            against = "" if row["per_textbook"] is None else f"{row['per_textbook']:.2f}"
            cells = [
                model,
                row["name"],
                f"{row['milliseconds']:.1f}",
                f"{row['per_sgd_foreach']:.2f}",
                against,
                f"{row['per_floor']:.2f}",
                f"{row['extra_copies_peak']:.2f}",
            ]
            assert cells in shown, cells


@pytest.mark.parametrize(("model", "limits"), [("resnet18", (0.9, 0.6)), ("vit_b", (0.8, 0.63))])
def test_the_table_of_the_passes_is_its_result(model, limits):
    rows = {row["name"]: row for row in json.loads(text("results/compiled_passes.json"))[model]["rows"]}
    shown = rows_of("docs/benchmarks.md")
    for name, row in rows.items():
        cells = [
            name,
            f"{row['milliseconds']:.1f}",
            f"{row['per_sgd_foreach']:.2f}",
            "" if row["per_peer"] is None else f"{row['per_peer']:.2f}",
            f"{row['per_floor']:.2f}",
            f"{row['extra_copies_peak']:.2f}",
            f"{row['extra_copies_kept']:.2f}",
        ]
        assert cells in shown, cells
    for name, below in zip(("sam", "pugd"), limits, strict=True):
        assert all(rows[f"{name} compiled {base}"]["per_peer"] < below for base in ("foreach", "fused"))


def test_what_runs_through_ray_cost_was_measured():
    assert f"**{json.loads(text('results/ray_overhead.json'))['ratio']:.2f}** times" in text("docs/benchmarks.md")


def test_the_table_of_the_training_loop_is_its_result():
    ratios = json.loads(text("results/training_loop.json"))["ratios"]
    shown = [cells[1] for cells in rows_of("docs/benchmarks.md") if len(cells) == 3]
    added = ratios["what the loop adds: loop / bare passes and steps"]
    ours = [f"textbook epoch / our {kind}epoch, {name}" for kind in ("", "bfloat16 ") for name in ("sgd", "pugd")]
    for ratio in (added, *(ratios[name] for name in ours)):
        assert f"{ratio:.2f}" in shown


def test_the_table_of_curvature_is_its_result():
    found = json.loads(text("results/flatness.json"))
    shown = rows_of("docs/benchmarks.md")
    for name, row in found["rows"].items():
        cells = [
            name,
            f"{row['seconds']:.0f}",
            f"{row['products']}",
            f"{row['value']:.4g}",
            f"{100 * row['error']:.1f} %",
        ]
        assert cells in shown, cells
    rows, options = found["rows"], found["options"]
    assert options["examples"] == 2000 and options["model"] == "resnet18"
    for kind in ("eigenvalue", "trace"):
        others = [
            row for name, row in rows.items() if name.startswith(kind) and "ours" not in name and "rule" not in name
        ]
        assert len(others) == 2 and all(rows[f"{kind}, ours"]["seconds"] <= other["seconds"] for other in others)


def test_the_table_of_updates_is_its_result():
    shown = rows_of("docs/flatness.md")
    for arm, contenders in json.loads(text("results/updates.json"))["arms"].items():
        for name, row in contenders.items():
            numbers = [f"{row[key]:.2g}" for key in ("median", "largest", "peak", "per_rate")]
            assert [name, arm, *numbers] in shown, (name, arm, numbers)
            assert row["runs"] == 5


def measured(study, arm, noise):
    """Contender -> (mean accuracy, difference to SGD, half-width of that), in points."""
    table = json.loads(text(f"results/{study}.json"))["table"]
    return {
        row["contender"]: tuple(
            100 * value
            for value in (
                row["test_accuracy"]["mean"],
                *((row["difference"]["mean"], row["difference"]["half_width"]) if row["difference"] else (0, 0)),
            )
        )
        for row in table
        if (row["arm"], row["noise"]) == (arm, noise)
    }


STUDIES = ("digits", "fashion_mnist")


def test_the_table_of_the_own_task_is_its_result():
    results, page = json.loads(text("results/own_task.json")), text("docs/own-task.md")
    metric = Metric.from_json(results["metric"])
    assert len(results["table"]) == 4 and results["missing_runs"] == 0
    for row in results["table"]:
        test = metric.written(Interval(**row["test"]))
        difference = metric.written(Interval(**row["difference"]), "+") if row["difference"] else "–"
        assert f"| {row['contender']} | {test} | {row['test']['n']} | {difference} |" in page


def test_the_table_of_half_inverse_gradients_is_its_result():
    shown = rows_of("docs/half-inverse.md")
    for way, found in json.loads(text("results/half_inverse.json"))["ways"].items():
        losses = sorted(math.inf if loss is None else loss for loss in found["losses"])
        (row,) = [cells for cells in shown if cells[0].lower() == way]
        assert float(row[1]) == found["lr"] and len(losses) == 5
        for cell, loss in zip(row[2:], (losses[2], losses[0], losses[-1]), strict=True):
            assert cell == "diverged" if loss == math.inf else float(cell) == pytest.approx(loss, rel=0.02)


def test_what_is_said_of_the_family_was_measured():
    """The numbers in the text of docs/family-fixed-decay.md."""
    mean, difference, reach = 0, 1, 2
    noisy, clean = measured("digits_family", "tuned", 0.4), measured("digits_family", "tuned", 0.0)
    assert len(noisy) == 58
    assert {name: round(noisy[name][mean], 1) for name in ("msam", "momentum-pugd", "pugd", "sam", "sgd")} == {
        "msam": 95.8,
        "momentum-pugd": 95.5,
        "pugd": 96.1,
        "sam": 94.6,
        "sgd": 93.5,
    }
    above = [name for name, row in noisy.items() if row[difference] > row[reach] > 0]
    below = [name for name, row in noisy.items() if -row[difference] > row[reach] > 0]
    assert len(above) == 38 and set(below) == {"sign", "k-sam"}
    ordered = sorted(noisy.values(), reverse=True)
    assert all(noisy["pugd"][mean] >= row[mean] for row in ordered) and ordered[29][mean] > noisy["pugd"][mean] - 1.5
    assert sum(row[difference] > row[reach] > 0 for row in clean.values()) == 7
    assert sum(-row[difference] > row[reach] > 0 for row in clean.values()) == 5

    default = measured("digits_family", "default", 0.4)
    leaders = sorted(default, key=default.get, reverse=True)
    assert leaders[:4] == ["le-sam", "light-sam", "adamw", "channel-pugd"]
    assert set(leaders[4:8]) == {"ae-looksam", "esam", "pugd", "friendly-pugd"}
    assert round(default["msam"][mean]) == 57 and round(default["k-sam"][mean]) == 24

    noisy, clean = measured("digits_family_grads", "tuned", 0.4), measured("digits_family_grads", "tuned", 0.0)
    assert sorted(noisy, key=noisy.get, reverse=True)[:3] == ["channel-pugd", "msam", "pugd"]
    assert sum(row[difference] > row[reach] > 0 for row in noisy.values()) == 36
    assert sum(row[difference] > row[reach] > 0 for row in clean.values()) == 2
    assert sum(-row[difference] > row[reach] > 0 for row in clean.values()) == 15
    for name in ("lookbehind", "entropy-sgd"):
        assert noisy[name][difference] < 0 and clean[name][difference] < 0


def test_what_is_said_of_the_searched_family_was_measured():
    """The numbers in the text of docs/family.md, in its order."""
    mean, difference, reach = 0, 1, 2
    noisy, clean = (measured("digits_family_searched", "tuned", noise) for noise in (0.4, 0.0))
    table = json.loads(text("results/digits_family_searched.json"))["table"]
    assert len(noisy) == len(clean) == 69
    assert [row["contender"] for row in table if (row["p_holm"] or 1) < 0.05] == ["k-sam"]

    above, better = (
        {name for name, row in rows.items() if row[difference] > row[reach] > 0} for rows in (noisy, clean)
    )
    below, worse = (
        {name for name, row in rows.items() if -row[difference] > row[reach] > 0} for rows in (noisy, clean)
    )
    assert above == {"tilted-ugd", "sam", "gc-sam", "imb-sam", "ssam-f"}
    assert min(noisy[name][difference] for name in above) > 0.7
    assert below == {"light-sam", "entropy-sgd", "sign", "k-sam"} and len(better) == 9 and worse == {"sign", "esam"}
    assert max(noisy, key=noisy.get) == "tilted-ugd" and round(noisy["tilted-ugd"][difference], 1) == 1.4
    assert max(clean, key=clean.get) == "head-pugd" and round(clean["head-pugd"][difference], 1) == 0.9
    assert all(0.49 < clean[name][difference] < 0.75 for name in better - {"head-pugd"})

    fixed, main = measured("digits_family", "tuned", 0.4), [measured("digits_searched", "tuned", n) for n in (0.4, 0.0)]
    assert [round(rows["sgd"][mean], 1) for rows in (fixed, noisy, *main, clean)] == [93.5, 95.3, 96.3, 99.0, 98.2]
    assert round(fixed["pugd"][difference], 1) == 2.6 and round(noisy["pugd"][mean], 1) == 95.8
    assert len(noisy) - 1 - len(above | below) == 59

    def correlation(some, other):
        names = sorted(some.keys() & other.keys())
        return len(names), round(rank_correlation([some[n][mean] for n in names], [other[n][mean] for n in names]), 2)

    assert [correlation(fixed, noisy), correlation(measured("digits_family", "tuned", 0.0), clean)] == [
        (58, 0.4),
        (58, 0.24),
    ]
    assert [correlation(main[0], noisy), correlation(main[1], clean)] == [(16, 0.62), (16, 0.79)]

    settings = {(row["noise"], row["contender"]): row["settings"] for row in table}
    sam = settings[0.4, "sam"]
    alike = [n for n in noisy if n != "sam" and sam.items() <= settings[0.4, n].items()]
    assert len(alike) == 20 and sum(abs(noisy[n][mean] - noisy["sam"][mean]) < 0.5 for n in alike) == 16
    assert settings[0.4, "sgd"].items() <= sam.items() and round(noisy["sam"][difference], 1) == 0.9
    chance = [
        run
        for run in json.loads(text("results/digits_family_searched.json"))["runs"]
        if run["noise"] == 0.4 and run["test_accuracy"] < 0.5
    ]
    assert sorted(run["contender"] for run in chance) == ["gsam", "wsam", "wsam"]
    assert sum(one["lr"] == 0.1 and one["wd"] == 5e-4 for (noise, _), one in settings.items() if noise == 0.0) == 26
    assert all(abs(row[difference]) < 1 for row in clean.values()) and round(noisy["light-sam"][difference], 1) == -0.8


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda path: path.stem)
def test_results_hold_no_path_of_a_machine(path):
    assert not re.findall(
        r'(?<![\w.:/])/(?:home|root|tmp|work|mnt|data|Users)/[^"\s]*', path.read_text(encoding="utf-8")
    )


def test_what_is_said_of_text_was_measured():
    """The numbers in the text of docs/text.md, in bits per character, in its order."""
    content = json.loads(text("results/text_forgetting.json"))
    rows = {row["contender"]: row for row in content["table"]}
    assert content["missing_runs"] == 0 and {row["test"]["n"] for row in rows.values()} == {5}

    def rounded(interval, digits=2):
        return round(interval["mean"], digits), round(interval["half_width"], digits)

    found = {name: rounded(rows[f"{name}@adamw"]["difference"]) for name in ("msam", "pugd")}
    assert found == {"msam": (0.45, 0.4), "pugd": (0.85, 0.09)} and round(rows["pugd@adamw"]["test"]["mean"], 2) == 3.56
    assert rounded(rows["sam@adamw"]["difference"], 3) == (0.065, 0.024)
    numbers = {
        (row["contender"].removesuffix("@adamw"), one["group"], one["level"]): one
        for row in content["robustness"]["table"]
        for one in row["numbers"]
    }
    lost = numbers["sam", "forgetting", "lost"]
    assert rounded(lost["relative"]) == (-0.06, 0.06) and rounded(lost["difference"]) == (-0.11, 0.1)
    assert round(numbers["adamw", "forgetting", "lost"]["mean"]["mean"], 2) == 1.71
    assert round(numbers["sam", "forgetting", "second"]["difference"]["mean"], 3) == 0.036
    assert rounded(numbers["sam", "forgetting", "after"]["difference"]) == (-0.04, 0.11)
    assert rounded(numbers["pugd", "forgetting", "lost"]["relative"]) == (-0.43, 0.05)
    assert [rounded(numbers["sam", "rounding", bits]["difference"]) for bits in "43"] == [(0.03, 0.07), (-0.08, 0.11)]
    cost = {
        (name, bits): round(numbers[name, "rounding", bits]["mean"]["mean"] - rows[row]["test"]["mean"], 2)
        for name, row in (("sam", "sam@adamw"), ("adamw", "adamw"))
        for bits in "43"
    }
    assert cost == {("sam", "4"): 0.08, ("sam", "3"): 0.5, ("adamw", "4"): 0.12, ("adamw", "3"): 0.65}
    ranks = {(one["group"], one["measure"]): one["seeds"] for one in content["robustness"]["correlations"]}
    assert all(ranks[group, "adaptive"]["mean"] > 0.8 for group in ("rounding", "weight_noise"))


def test_what_is_advised_was_measured():
    """The claims of docs/choose.md, one by one, in its order."""
    mean, difference, reach = 0, 1, 2
    gained = [measured(s, "tuned", 0.4)["sgd"][mean] - measured(s, "default", 0.4)["sgd"][mean] for s in STUDIES]
    added = [max(row[difference] for row in measured(s, "tuned", 0.4).values()) for s in STUDIES]
    assert all(g > a for g, a in zip(gained, added, strict=True)), "a search gains more than a method"

    clean = measured("digits", "tuned", 0.0)
    above = {name for name, row in clean.items() if row[difference] > row[reach] > 0}
    assert above == {"ugd", "pugd", "unit-sam", "sam", "asam"}
    assert all(0.5 <= clean[name][difference] < 1.01 for name in above)
    assert max(measured("fashion_mnist", "tuned", 0.0).values())[difference] == 0, "SGD wins"

    for study, leaders in (("digits", ["pugd", "sam"]), ("fashion_mnist", ["asam", "s-sgd"])):
        rows = measured(study, "tuned", 0.4)
        assert sorted(rows, key=rows.get, reverse=True)[:2] == leaders
        assert all(1 <= rows[name][difference] <= 2.1 for name in leaders)

    for study in STUDIES:
        rows = measured(study, "default", 0.4)
        assert max(rows.keys() - {"adamw"}, key=rows.get) == "pugd"
        rows = measured(study, "default", 0.0)
        assert max(rows, key=rows.get) == "ugd"

    one = ("ugd", "msam", "momentum-pugd", "head-sam", "unit-head-sam")
    noisy = measured("digits_searched", "tuned", 0.4)
    assert all(abs(noisy[name][difference]) <= noisy[name][reach] for name in one), "level with SGD, as the others"

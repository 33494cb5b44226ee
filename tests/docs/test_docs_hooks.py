"""What the site is made of beside its pages: markers that are filled, the table and the menu of all methods."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flatmin.registry import GROUPS, METHODS

sys.path.insert(0, str(Path(__file__).parents[2] / "docs_hooks"))
from groups import ABOUT, grouped
from markers import fill
from overview import overview, with_methods

ROOT = Path(__file__).parents[2]
PAGE = "methods/pugd.md"


def estimate(mean, half_width=0.01, n=5):
    return {"mean": mean, "half_width": half_width, "n": n}


def row(contender, mean, difference=None, arm="default", noise=0.0, **more):
    return {
        "arm": arm,
        "noise": noise,
        "contender": contender,
        "settings": {"lr": 0.1},
        "test_accuracy": estimate(mean),
        "difference": None if difference is None else estimate(difference),
        "gradient_evaluations": 800,
        "seconds": 1.0,
        "diverged": 0,
        **more,
    }


@pytest.fixture
def publish(tmp_path):
    """Write a file of results; the folder."""

    def write(name, *rows, budget="steps", command="flatmin compare --recipe recipes/r.toml --out runs/r"):
        content = {
            "command": command,
            "date": "2026-11-20T12:00:00+00:00",
            "environments": [{"commit": "0123456789abcdef-dirty", "torch": "2.13.0"}],
            "study": {"budget": budget, "data": "digits", "model": "small-cnn", "epochs": 25, "batch_size": 64},
            "baseline": "sgd",
            "table": rows,
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return write


def cells(markdown):
    return [[c.strip() for c in line.strip("| ").split(" | ")] for line in markdown.splitlines() if line[:1] == "|"]


# -- measured ----------------------------------------------------------------------------------------------------------


def test_a_method_without_numbers_says_so(publish):
    assert fill("<!-- measured: pugd -->", PAGE, publish("digits", row("sgd", 0.9))) == (
        "`pugd` has not been measured yet."
    )


def test_measured_has_every_row_of_the_method_and_where_it_comes_from(publish):
    rows = [row("pugd", 0.92, 0.02, noise=0.4), row("sgd", 0.9), row("pugd", 0.951, -0.001, arm="tuned")]
    publish("digits", *rows)
    publish("digits_grads", row("pugd", 0.93, 0.03, noise=0.4), budget="grads")
    filled = fill("## Measured\n\n<!-- measured: pugd -->\n", PAGE, publish("x"))
    shown = cells(filled)
    assert shown[0] == ["arm", "label noise", "test accuracy, %", "n", "Δ to sgd", "gradients", "settings"]
    assert shown[2] == ["tuned", "0 %", "95.10 ± 1.00", "5", "-0.10 ± 1.00", "800", "lr 0.1"]
    assert shown[3] == ["default", "40 %", "92.00 ± 1.00", "5", "+2.00 ± 1.00", "800", "lr 0.1"]
    assert shown[6][2] == "93.00 ± 1.00" and len(shown) == 7
    assert "Weight decay 5e-4, equal steps:" in filled and "Weight decay 5e-4, equal gradient evaluations:" in filled
    assert "`flatmin compare --recipe recipes/r.toml --out runs/r`, commit `0123456789-dirty`, torch 2.13.0" in filled
    assert "2026-11-20; every run is in `results/digits.json`" in filled
    assert "(../digits-fixed-decay.md)" in filled


def test_where_everything_was_searched_stands_first(publish):
    searched = row("pugd", 0.8, 0.01, arm="tuned", noise=0.4, p_holm=0.0004, memorised=0.012)
    searched["settings"] = {"lr": 0.1, "wd": 0.02}
    publish("digits_family", row("pugd", 0.7))
    filled = fill("<!-- measured: pugd -->", PAGE, publish("digits_family_searched", searched))
    assert filled.index("Everything searched, equal steps:") < filled.index("Weight decay 5e-4, equal steps:")
    shown = cells(filled)
    assert shown[0][5:] == ["gradients", "p", "memorised, %", "settings"]
    assert shown[2][5:] == ["800", "< 0.001", "1.2", "lr 0.1, wd 0.02"]
    assert "(../family.md)" in filled and "(../family-fixed-decay.md)" in filled


def test_the_family_s_numbers_come_first_where_there_are_any(publish):
    publish("digits", row("pugd", 0.5), row("sam", 0.6))
    folder = publish("digits_family", row("pugd", 0.7))
    assert "70.00" in fill("<!-- measured: pugd -->", PAGE, folder)
    assert "50.00" not in fill("<!-- measured: pugd -->", PAGE, folder)
    assert "60.00" in fill("<!-- measured: sam -->", PAGE, folder)


def test_what_is_the_same_at_equal_gradients_is_said_once(publish):
    publish("digits", row("pugd", 0.9))
    filled = fill("<!-- measured: pugd -->", PAGE, publish("digits_grads", row("pugd", 0.9), budget="grads"))
    assert filled.count("90.00") == 1
    assert "At equal gradient evaluations it does the same: `results/digits_grads.json`." in filled


def test_a_method_on_several_bases_shows_which(publish):
    filled = fill("<!-- measured: plain -->", PAGE, publish("digits", row("sgd", 0.9), row("adamw", 0.91, 0.01)))
    assert [line[0] for line in cells(filled)] == ["optimizer", ":--", "sgd", "adamw"]
    assert cells(filled)[2][5] == "–"


def test_runs_that_diverged_are_marked(publish):
    filled = fill("<!-- measured: pugd -->", PAGE, publish("digits", row("pugd", 0.9, 0.1, diverged=2)))
    assert "90.00 ± 1.00 †" in filled
    assert "† Runs that diverged, and count with what they ended at. pugd, default settings, clean labels: 2." in filled


def test_where_the_data_lay_is_left_out(publish):
    folder = publish("digits", row("pugd", 0.9), command="flatmin compare --data ../somewhere/here --out runs/r")
    assert "`flatmin compare --out runs/r`" in fill("<!-- measured: pugd -->", PAGE, folder)


# -- text --------------------------------------------------------------------------------------------------------------


def of_text(contender, test, lost, difference=None):
    """A row of the table, and its robustness."""
    paired = None if difference is None else estimate(difference)
    whole = {"contender": contender, "test": estimate(test), "difference": paired, "p_holm": difference and 0.04}
    whole |= {"settings": {"lr": 0.01}, "gradient_evaluations": 1960, "diverged": 0, "arm": "tuned", "noise": 0.0}
    values = {("rounding", bits): test + 0.5 for bits in "843"} | {("forgetting", "after"): test + lost}
    values |= {("forgetting", "second"): 3.0, ("forgetting", "lost"): lost}
    numbers = [
        {"group": group, "level": level, "mean": estimate(value), "difference": paired, "relative": paired}
        for (group, level), value in values.items()
    ]
    return whole, {"contender": contender, "numbers": numbers}


def test_a_study_of_text_shows_what_is_forgotten(publish, tmp_path):
    rows = [of_text("adamw", 2.5, 1.6), of_text("sam@adamw", 2.4, 1.2, -0.25)]
    publish(
        "text_forgetting",
        *(whole for whole, _ in rows),
        command="flatmin compare --data a/b.txt --then a/c.txt --out r",
    )
    path = tmp_path / "text_forgetting.json"
    content = json.loads(path.read_text())
    seeds = estimate(0.4)
    content["metric"] = {"name": "bits per character", "better": "lower", "unit": ""}
    content["study"] |= {"task": "text", "data": "a/b.txt", "then": "a/c.txt", "depth": 4, "width": 64, "context": 32}
    content["robustness"] = {
        "table": [robustness for _, robustness in rows],
        "correlations": [{"group": "forgetting", "level": "lost", "measure": "trace", "seeds": seeds}],
    }
    path.write_text(json.dumps(content))
    filled = fill("<!-- text: text_forgetting -->", "text.md", tmp_path)
    shown = cells(filled)
    assert shown[3][:5] == ["sam@adamw", "2.400 ± 0.010", "-0.250 ± 0.010", "0.040", "2.900 ± 0.010"]
    assert shown[6] == ["adamw", "4.100 ± 0.010", "1.600 ± 0.010", "–", "–", "3.000 ± 0.010"]
    assert shown[7] == ["sam@adamw", "3.600 ± 0.010", "1.200 ± 0.010", "-0.250 ± 0.010", "-25.0 ± 1.0", "3.000 ± 0.010"]
    assert shown[10] == ["forgotten", "–", "0.40 ± 0.01", "–"]
    assert "b.txt, then c.txt, transformer of 4 blocks of width 64, context 32" in filled
    assert "`flatmin compare --out r`" in filled and "lower is better" in filled
    with pytest.raises(ValueError, match="digits has no forgetting"):
        fill("<!-- text: digits -->", "text.md", tmp_path)


# -- study -------------------------------------------------------------------------------------------------------------


def test_a_condition_is_sorted_and_linked(publish):
    folder = publish("digits", row("sgd", 0.9), row("pugd", 0.95, 0.05), row("sam", 0.99, arm="tuned"))
    shown = cells(fill("<!-- study: digits default 0.0 -->", "choose.md", folder))
    assert [line[0] for line in shown[2:]] == ["[pugd](methods/pugd.md)", "[sgd](methods/plain.md)"]
    assert shown[2][1:4] == ["95.00 ± 1.00", "5", "+5.00 ± 1.00"]


def test_the_family_is_in_one_table(publish):
    tuned = {"arm": "tuned", "noise": 0.4}
    publish("digits_family", row("sgd", 0.5, noise=0.4), row("sgd", 0.6, **tuned), row("looksam", 0.8, 0.2, **tuned))
    rows = [row("sgd", 0.61, **tuned), row("looksam", 0.79, 0.18, **tuned, diverged=1), row("sgd", 0.9, arm="tuned")]
    folder = publish("digits_family_grads", *rows, budget="grads")
    shown = cells(fill("<!-- family: 0.4 -->", PAGE, folder))
    assert shown[2] == [
        "[looksam](looksam.md)",
        "1.2",
        "–",
        "80.00 ± 1.00",
        "+20.00 ± 1.00",
        "79.00 ± 1.00 †",
        "+18.00 ± 1.00",
    ]
    assert shown[3] == ["[sgd](plain.md)", "1", "50.00 ± 1.00", "60.00 ± 1.00", "–", "61.00 ± 1.00", "–"]
    assert len(shown) == 4
    with pytest.raises(ValueError, match=r"docs/methods/pugd.md: .*: the family was not studied with label noise 0.2"):
        fill("<!-- family: 0.2 -->", PAGE, folder)


def test_of_many_the_best_are_shown_and_the_plain_ones(publish):
    rows = [row(f"{name}", 0.9 - i / 100, 0.01) for i, name in enumerate([*METHODS][1:15])]
    filled = fill("<!-- study: digits default 0.0 -->", "choose.md", publish("digits", *rows, row("sgd", 0.1)))
    assert len(cells(filled)) == 2 + 12 + 1
    assert "[sgd]" in cells(filled)[-1][0]
    assert "The best of 15 and the plain optimizers" in filled
    everything = fill("<!-- study: digits default 0.0 all -->", "choose.md", publish("x"))
    assert len(cells(everything)) == 2 + 15 and "The best of" not in everything


# -- cite --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_cite_is_what_the_command_prints(name, capsys, tmp_path):
    from flatmin.cli import main

    filled = fill(f"<!-- cite: {name} -->", PAGE, tmp_path)
    paper = METHODS[name].paper
    if paper is None:
        assert filled == f"There is no paper of `{name}` to cite."
        return
    main(["cite", name])
    assert f"```bibtex\n{capsys.readouterr().out}```" in filled
    assert (f"(https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else paper.venue) in filled


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("mesured: pugd", "markers are measured, cite, study, family, methods"),
        ("measured: puggd", "unknown method 'puggd'; did you mean 'pugd'"),
        ("cite: puggd", "unknown method 'puggd'"),
        (
            "study: digit tuned 0.4",
            "the study must be one of digits, digits_searched, digits_searched_grads, digits_layernorm, digits_tilted, "
            "digits_grads, family, family_grads, family_searched, fashion_mnist, fashion_mnist_searched, "
            "text_forgetting, got 'digit'",
        ),
        ("study: digits tuned 0.3", "digits has no rows of tuned settings, 30 % label noise"),
        ("study: digits tuned", "write a study, an arm and a noise"),
        ("methods: some", "write `methods: all`"),
    ],
)
def test_an_unknown_marker_is_an_error_that_says_where(marker, message, publish):
    folder = publish("digits", row("sgd", 0.9))
    with pytest.raises(ValueError, match=r"docs/methods/pugd\.md: <!-- ") as error:
        fill(f"# A page\n\n<!-- {marker} -->\n", PAGE, folder)
    assert message in str(error.value)


def test_other_text_stays(tmp_path):
    text = "<!-- from examples/x.py -->\n<!-- A remark. -->\n`<!-- measured: NAME -->`\n"
    assert fill(text, PAGE, tmp_path) == text


# -- all methods -------------------------------------------------------------------------------------------------------


def test_the_overview_has_a_row_per_entry():
    shown = cells(overview(METHODS, lambda target: f"up/{target}"))
    rows = [line for line in shown if line[0].startswith("[")]
    assert sorted(line[0] for line in rows) == sorted(f"[`{name}`](up/methods/{name}.md)" for name in METHODS)
    (pugd,) = (line for line in rows if "`pugd`" in line[0])
    assert pugd[2:] == ["2", "1", "[2110.00199](https://arxiv.org/abs/2110.00199)"]
    assert "|w\\|" in pugd[1], "a bar in a cell would end it"


def test_every_page_of_a_method_is_in_the_menu():
    menu = with_methods(["index.md", {"Methods": ["methods.md"]}], METHODS)
    assert menu[0] == "index.md" and menu[1]["Methods"][0] == "methods.md"
    pages = [page for part in menu[1]["Methods"][1:] for group in part.values() for page in group]
    assert sorted(pages) == sorted(f"methods/{name}.md" for name in METHODS)
    with pytest.raises(ValueError, match=r"must have a section 'Methods', got \['index.md'\]"):
        with_methods(["index.md"], METHODS)


def test_the_group_of_a_method_comes_from_its_entry():
    found = grouped({name: METHODS[name] for name in ("sam", "pugd", "ugd")})
    assert found == {"Normalised steps": ["ugd"], "Sharpness-aware": ["sam", "pugd"]}
    assert [*grouped(METHODS)] == [*ABOUT] == [*GROUPS]
    assert [name for names in grouped(METHODS).values() for name in names] == [*METHODS]


def build(tmp_path, docs=ROOT):
    pytest.importorskip("mkdocs")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(docs / "mkdocs.yml")]
    return subprocess.run([*command, "-d", str(tmp_path / "site")], capture_output=True, text=True, env=environment)


def test_the_site_is_built_strictly_and_no_marker_is_left(tmp_path):
    pytest.importorskip("mkdocstrings")
    built = build(tmp_path)
    assert built.returncode == 0, built.stderr
    for name in METHODS:
        page = (tmp_path / f"site/methods/{name}/index.html").read_text(encoding="utf-8")
        assert "<!-- measured" not in page and "<!-- cite" not in page
    assert 'href="pugd/"' in (tmp_path / "site/methods/index.html").read_text(encoding="utf-8")


def test_an_unknown_marker_fails_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("<!-- mesured: pugd -->\n")
    hook = ROOT / "docs_hooks/hooks.py"
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\nhooks: ['{hook}']\nnav: [index.md, Methods: [index.md]]\n")
    built = build(tmp_path, tmp_path)
    assert built.returncode != 0
    assert "docs/index.md: <!-- mesured: pugd -->: markers are" in built.stderr

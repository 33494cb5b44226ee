"""Damage: a file of a study that is empty, cut, garbage or missing never ends it, and changes no number.

The protocol is the user's: a damaged study.toml is refused, and the message names it.
"""

import io
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from flatmin.study import comparison, files, progress
from flatmin.study.config import Study
from flatmin.study.minima import run_flatness
from flatmin.study.minima.run_flatness import Measurements
from flatmin.study.report import write
from flatmin.study.training import checkpoints, record
from support import undrawn
from support.command_line import flatmin

#: One process of the test run has all tests, so that what they share is made once.
pytestmark = pytest.mark.xdist_group("damage")

PROTOCOL = Study(
    methods=("sgd",),
    arms=("tuned",),
    noise=(0.4,),
    seeds=5,
    epochs=2,
    subset=100,
    batch_size=50,
    tune=2,
    tune_finalists=2,
    tune_finalist_seeds=1,
    flatness=20,
)
#: A final run for each file of a run, and three runs of the search for the three files of those.
RUN_FILES = ("config.toml", "metrics.jsonl", "result.json", "flatness.json", "weights.pt")
RUNS = {name: f"runs/tuned/noise-0.4/sgd/seed-{seed}/{name}" for seed, name in enumerate(RUN_FILES)}
TRIALS = (
    "tune/trial-000/noise-0.4/sgd/seed-1000/config.toml",
    "tune/trial-001/noise-0.4/sgd/seed-1000/metrics.jsonl",
    "tune/trial-001/noise-0.4/sgd/seed-1001/result.json",
)

GARBAGE = bytes(range(256)) * 4
DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut-at-a-line": lambda path: path.write_bytes(_half_of_the_lines(path.read_bytes())),
    "garbage": lambda path: path.write_bytes(GARBAGE),
    "other": lambda path: path.write_bytes(b"[1]\n"),
    "missing": lambda path: path.unlink(),
}


def _half_of_the_lines(content):
    lines = content.splitlines(keepends=True)
    return b"".join(lines[: len(lines) // 2])


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Pictures, pages and measures take most of the time. One test is enough for them; its loss tells a network."""
    with pytest.MonkeyPatch.context() as patch:
        undrawn.leave_out(patch, pages=False)
        patch.setattr(run_flatness, "measure", lambda risk, names: Measurements(20, "train", 7530, risk.value()))
        yield patch


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a complete study with a search, finalists and flatness. Do not write into it."""
    out = tmp_path_factory.mktemp("studies") / "whole"
    comparison.compare(PROTOCOL, out, command="flatmin compare --whole")
    return out


@pytest.fixture
def study(whole, tmp_path):
    """A copy of it to damage."""
    return Path(shutil.copytree(whole, tmp_path / "study"))


def numbers(out):
    """What `results.json` and `tuning.json` say that does not depend on the clock."""
    results, tuning = files.read_json(out / "results.json"), files.read_json(out / "tuning.json")
    for row in [*results["table"], *results["runs"]]:
        del row["seconds"]
    return results["table"], results["runs"], tuning


def again(out):
    """Do the study again; what it said."""
    said = io.StringIO()
    comparison.compare(PROTOCOL, out, command="again", console=Console(file=said, width=1000))
    return said.getvalue()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_runs_are_done_again_to_the_same_numbers(damage, study, whole):
    for path in RUNS.values():
        DAMAGE[damage](study / path)
    if damage != "missing":
        assert write.refresh(study).missing == 3  # a report leaves them out
    said = again(study)
    assert numbers(study) == numbers(whole)
    for name, path in RUNS.items():
        needed = name != "weights.pt"  # weights are not needed once flatness is measured
        unfinished = damage == "missing" and name in ("result.json", "flatness.json")
        assert (name in said or " more" in said) if needed and not unfinished else str(study / path) not in said
    assert "done again" not in again(study)


@pytest.mark.parametrize("damage", [*DAMAGE, "another network"])
def test_damaged_weights_without_flatness_are_trained_again(damage, study, whole):
    weights = study / RUNS["weights.pt"]
    weights.with_name("flatness.json").unlink()
    if damage in DAMAGE:
        DAMAGE[damage](weights)
    else:
        torch.save({"weight": torch.zeros(3)}, weights)
    said = again(study)
    assert numbers(study) == numbers(whole)
    assert (f"done again, because of damaged files: {weights}\n" in said) == (damage != "missing")


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_runs_of_a_search_are_done_again(damage, study, whole):
    for journal in study.glob("tune/**/journal.log"):  # so that the search looks at its runs again
        journal.unlink()
    for path in TRIALS:
        DAMAGE[damage](study / path)
    said = again(study)
    assert numbers(study) == numbers(whole)
    for path in TRIALS:
        assert (str(study / path) in said) == (damage != "missing" or "result" not in path)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("folder", ["tune", "tune/finalists"])
def test_a_damaged_journal_is_made_again_or_named(folder, damage, study, whole):
    journal = study / folder / "journal.log"
    DAMAGE[damage](journal)
    if damage in ("garbage", "other"):  # of several lines, or what Optuna does not ignore: not ours to repair
        with pytest.raises(ValueError, match="is damaged") as refused:
            again(study)
        assert str(refused.value).startswith(f"{journal} is damaged")
        journal.unlink()
    again(study)
    assert numbers(study) == numbers(whole)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_of_a_study_are_written_again(damage, study, whole):
    names = ("env.json", "tuning.json", "results.json")
    for name in names:
        DAMAGE[damage](study / name)
    again(study)
    assert numbers(study) == numbers(whole)
    assert record.head(study)["command"] == "again"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_protocol_is_refused_by_name(damage, study, capsys):
    DAMAGE[damage](study / "study.toml")
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"study\.toml"):
        again(study)
    assert flatmin("report", str(study)) == 2
    errors = capsys.readouterr().err
    assert "study.toml" in errors and errors.count("\n") == 1
    after = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {study / ".lock", study / ".owner"}


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "other"])
@pytest.mark.parametrize("name", ["env.json", "tuning.json"])
def test_a_report_names_the_file_that_it_cannot_do_without(name, damage, study, capsys):
    DAMAGE[damage](study / name)
    assert flatmin("report", str(study)) == 2
    errors = capsys.readouterr().err
    assert f"cannot read {study / name}" in errors and "anew" in errors and errors.count("\n") == 1


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.filterwarnings("ignore:.*is damaged and is not used")
def test_a_damaged_checkpoint_is_not_used(damage, study, whole, monkeypatch):
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    monkeypatch.setattr(checkpoints.Checkpoints, "clear", lambda self: None)
    result = study / RUNS["result.json"]
    result.unlink()
    again(study)
    result.unlink()
    result.with_name("checkpoint.previous.pt").unlink()
    DAMAGE[damage](result.with_name("checkpoint.pt"))
    again(study)
    assert numbers(study) == numbers(whole)


def test_one_line_names_a_few_of_many_damaged_files(capsys):
    progress.say_damage([Path(f"run-{i}") for i in range(5)], Console(width=40))
    assert capsys.readouterr().out == "done again, because of damaged files: run-0, run-1, run-2 and 2 more\n"


def test_damaged_pictures_and_pages_are_written_again(study, quick):
    """The last test of this file, since it needs the pictures."""
    quick.undo()
    names = ("report.html", "forest.png", "accuracy.png", "curves.png", "cost.png", "sensitivity.png")
    for name in names:
        (study / name).write_bytes(GARBAGE)
    write.refresh(study)
    assert all((study / name).read_bytes()[:4].lower() in (b"\x89png", b"<!do") for name in names)

"""The search: the same trials whoever does them, none of them twice, and what it says of the settings."""

import dataclasses
import json
import math
import shutil
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from flatmin.registry import METHODS, Range
from flatmin.study import config, contender, files, settings
from flatmin.study import tuning as tuning_file
from flatmin.study.comparison import compare
from flatmin.study.config import Study
from flatmin.study.contender import Contender
from flatmin.study.pool import RunError
from flatmin.study.report.sensitivity import Point, near_best, sensitivity
from flatmin.study.search import rounds, tuner, winners
from flatmin.study.search.trials import Trial
from flatmin.study.tasks import runs
from flatmin.study.training import record
from flatmin.study.tuning import Case
from support import searchers
from support.searchers import begun, wait_until

#: One process of the test run has all tests that fork, see support.forked, and starts the ranks once.
pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.usefixtures("undrawn")]

SMALL = Study(methods=("sgd", "sam"), arms=("tuned",), noise=(0.4,), seeds=1, epochs=1, tune=3)
#: The protocol of the published searches: weight decay fixed, one winner for all conditions.
OLD = {"fix": ("wd",), "tune_per_condition": False}
NOISY = {"sgd": Case("sgd", 0.4), "sam": Case("sam", 0.4)}
PUBLISHED = Path(__file__).parents[3] / "results/digits_tuning.json"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a complete small search. Do not write into it."""
    out = tmp_path_factory.mktemp("searches") / "small"
    tuner.search(SMALL, out, command="flatmin tune --small")
    return out


@pytest.fixture
def search(small, tmp_path):
    """A copy of it to write into."""
    return Path(shutil.copytree(small, tmp_path / "small"))


def tuning(out):
    return files.read_json(out / "tuning.json")


def entries(out):
    """The contenders of the one condition."""
    (condition,) = tuning(out)["conditions"]
    assert condition["noise"] == 0.4
    return condition["contenders"]


def design(name, trials, **options):
    study = Study(methods=(name,), tune=trials, **options)
    return rounds.design(settings.default(study, name), settings.space(study, name), trials)


def no_repeat(monkeypatch):
    monkeypatch.setattr(runs, "perform", lambda run, folder: pytest.fail(f"{folder} was repeated"))


# -- the design --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "adamw", "sam", "s-sgd@adamw", "sam+ema", "adamw+swa"])
def test_the_search_is_fixed_starts_at_the_default_and_stays_in_range(name):
    entrant = Contender.parse(name)
    points = design(name, 12)
    assert points == design(name, 12) and points[:5] == design(name, 5) and len(points) == 12
    assert points[0] == entrant.default() and design(name, 1) == [entrant.default()]
    for point in points[1:]:
        assert point.keys() == entrant.space().keys()
        assert all(entrant.space()[key].low <= value <= entrant.space()[key].high for key, value in point.items())
    rates = sorted(math.log(point["lr"]) for point in points[1:])
    low, high = math.log(entrant.space()["lr"].low), math.log(entrant.space()["lr"].high)
    gaps = [b - a for a, b in zip([low, *rates], [*rates, high], strict=True)]
    assert max(gaps) < 0.25 * (high - low), "the points leave a hole"


def test_everybody_searches_the_same_learning_rates():
    one, other = (design(name, 9)[1:] for name in ("sam", "asam"))
    for name in ("lr", "wd"):
        assert [point[name] for point in one] == [point[name] for point in other]


def test_the_published_search_is_this_one():
    published = files.read_json(PUBLISHED)
    names = tuple(published["contenders"])
    protocol = Study(methods=names, tune=32, tune_seeds=2, **OLD)
    first = rounds.first(protocol)
    trials = [
        Trial(
            case, number, without_decay(case, point), published["contenders"][case.contender]["trials"][number]["score"]
        )
        for case, points in first.points.items()
        for number, point in points.items()
    ]
    assert len(trials) == 32 * len(names)
    found = winners.choose(first, trials)
    assert found == published
    tuned = {name: Contender.parse(name).tuned() for name in names}
    assert tuning_file.winners(found, [0.0, 0.4]) == {0.0: tuned, 0.4: tuned}


def without_decay(case, point):
    """The settings as the published file has them."""
    assert point["wd"] == (1e-2 if case.contender == "adamw" else 5e-4)
    return {name: value for name, value in point.items() if name != "wd"}


# -- scores and winners ------------------------------------------------------------------------------------------------


def fake(accuracy, diverged=None):
    return record.Result(None, accuracy, 1, 1, 1.0, diverged, "", 1)


def test_a_score_is_the_mean_over_conditions_and_seeds():
    protocol = Study(noise=(0.0, 0.4), tune=3, tune_seeds=2)
    runs = rounds.first(protocol).runs(protocol, Trial(Case("sam", 0.4), 2, {"lr": 0.3}))
    assert [(run.noise, run.seed) for run in runs.values()] == [(0.4, 1000), (0.4, 1001)]
    protocol = dataclasses.replace(protocol, tune_per_condition=False)
    runs = rounds.first(protocol).runs(protocol, Trial(Case("sam"), 2, {"lr": 0.3}))
    assert [(run.noise, run.seed) for run in runs.values()] == [(0.0, 1000), (0.0, 1001), (0.4, 1000), (0.4, 1001)]
    assert all(run.settings == {"lr": 0.3} and not run.test for run in runs.values())
    assert next(iter(runs)) == "tune/trial-002/noise-0.0/sam/seed-1000"
    assert winners.score([fake(0.9), fake(0.5), fake(0.1, diverged=1.0)]) == pytest.approx(0.5)


def test_the_best_score_wins_the_earlier_wins_a_tie_and_a_failure_never():
    scores = [0.5, None, 0.75, 0.75]
    case = Case("sgd")
    trials = [Trial(case, k, {"lr": k}, score, error=None if score else "boom") for k, score in enumerate(scores)]
    first = rounds.first(Study(methods=("sgd",), tune=4, tune_per_condition=False))
    found = winners.choose(first, trials)["contenders"]["sgd"]
    assert found["winner"] == {"lr": 2} and found["score"] == 0.75
    assert [trial["score"] for trial in found["trials"]] == scores
    assert found["trials"][1]["error"] == "boom" and "error" not in found["trials"][0]


# -- a search ----------------------------------------------------------------------------------------------------------


def test_a_search_folder_holds_every_trial(small):
    assert config.load(Study, small / "study.toml") == SMALL
    assert files.read_json(small / "env.json")["command"] == "flatmin tune --small"
    storage = JournalStorage(JournalFileBackend(str(small / "tune/journal.log")))
    for name in SMALL.methods:
        held = optuna.load_study(storage=storage, study_name=str(NOISY[name])).trials
        assert [trial.params for trial in held] == design(name, 3)
        assert all(trial.state == TrialState.COMPLETE for trial in held)
        assert [trial.value for trial in held] == [t["score"] for t in entries(small)[name]["trials"]]
        for number, trial in enumerate(held):
            run, result = record.read(small / f"tune/trial-{number:03d}/noise-0.4/{name}/seed-1000")
            assert run.settings == trial.params and result.validation == trial.value
            assert not run.test and result.test is None


def test_a_second_search_repeats_nothing(search, monkeypatch):
    no_repeat(monkeypatch)
    before = tuning(search)
    (search / "tuning.json").unlink()
    shutil.rmtree(search / "tune/trial-001")  # its scores are in the record
    assert tuner.search(SMALL, search) == before == tuning(search)


def test_two_processes_of_one_search_give_the_same_numbers(small, tmp_path):
    assert tuner.search(SMALL, tmp_path / "two", jobs=2) == tuning(small)


def test_a_lost_record_is_made_again_from_the_runs(search, monkeypatch):
    no_repeat(monkeypatch)
    (search / "tune/journal.log").unlink()
    assert tuner.search(SMALL, search) == tuning(search)


def test_a_record_that_ends_in_half_a_line_is_continued(search):
    journal = search / "tune/journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # the last trial was not told
    assert tuner.search(SMALL, search) == tuning(search)
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_damaged_record_is_refused(search):
    journal = search / "tune/journal.log"
    journal.write_text("years of work\n" + journal.read_text())
    with pytest.raises(ValueError, match=r"journal\.log is damaged .*; delete it and search again: complete runs are"):
        tuner.search(SMALL, search)
    assert journal.read_text().startswith("years of work")


def test_a_search_over_other_ranges_is_refused(search, monkeypatch):
    known = contender.BASES["sgd"]
    base = contender.Base(known.make, {**known.settings, "lr": contender.Setting(0.1, Range(0.01, 1.0))})
    monkeypatch.setitem(contender.BASES, "sgd", base)
    with pytest.raises(
        ValueError,
        match=r"trial 1 of sgd noise-0.4 was made with settings = \{'lr': 0.00198, .*\}; now asked: .* --out",
    ):
        tuner.search(SMALL, search)


@pytest.mark.parametrize(
    ("change", "jobs", "message"),
    [
        ({"tune": 0}, 1, "tune must be >= 1 for a search, got 0; write --tune 32"),
        ({}, 0, "jobs must be >= 1, got 0"),
        ({"methods": ("sgdd",)}, 1, "did you mean sgd"),
    ],
)
def test_bad_searches_are_refused_before_anything_is_written(change, jobs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tuner.search(dataclasses.replace(SMALL, **change), tmp_path / "new", jobs)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_another_process_makes_its_own_first_is_refused(tmp_path, monkeypatch):
    check, other = record.check_folder, dataclasses.replace(SMALL, epochs=2)

    def slow(study, out):
        check(study, out)
        monkeypatch.setattr(record, "check_folder", check)
        record.begin_study(other, out, None)

    monkeypatch.setattr(record, "check_folder", slow)
    with pytest.raises(ValueError, match="was made with epochs = 2; now asked: epochs = 1"):
        tuner.search(SMALL, tmp_path / "out")
    assert config.load(Study, tmp_path / "out/study.toml") == other


def test_a_study_goes_on_from_its_search(search, monkeypatch):
    done = []
    perform = runs.perform
    monkeypatch.setattr(runs, "perform", lambda *task: (done.append(task[0]), perform(*task)))
    before = tuning(search)
    monkeypatch.setattr(tuner, "_do_free", lambda *task: pytest.fail("a trial was repeated"))
    found = compare(SMALL, search)
    assert len(done) == 2 and all(run.test and run.seed == 0 for run in done) and tuning(search) == before
    assert {row.contender: row.settings for row in found.rows} == tuning_file.winners(before, [0.4])[0.4]


# -- failures ----------------------------------------------------------------------------------------------------------


def fail_at(monkeypatch, rate, error):
    perform = runs.perform

    def failing(run, folder):
        if run.settings["lr"] == rate:
            raise error
        perform(run, folder)

    monkeypatch.setattr(runs, "perform", failing)


ONE = dataclasses.replace(SMALL, methods=("sgd",))


def test_a_failed_trial_counts_and_stays_in_the_record(tmp_path, monkeypatch):
    rate = design("sgd", 3)[1]["lr"]
    fail_at(monkeypatch, rate, ArithmeticError("no convergence"))
    tuner.search(ONE, tmp_path / "out")
    found = entries(tmp_path / "out")["sgd"]
    assert [trial["score"] is None for trial in found["trials"]] == [False, True, False]
    assert found["trials"][1]["error"] == "ArithmeticError: no convergence"
    with monkeypatch.context() as patch:
        no_repeat(patch)
        tuner.search(ONE, tmp_path / "out")
    assert entries(tmp_path / "out")["sgd"] == found
    assert len(sensitivity(ONE, tuning(tmp_path / "out"))[0].points) == 2
    assert compare(ONE, tmp_path / "out").rows[0].settings == found["winner"], "and the report takes it"


@pytest.mark.parametrize(("number", "error"), [(0, ArithmeticError("boom")), (1, OSError(28, "No space left"))])
def test_a_failure_that_settings_do_not_explain_ends_the_search_and_costs_nothing(number, error, tmp_path, monkeypatch):
    rate = design("sgd", 3)[number]["lr"]
    with monkeypatch.context() as patch:
        fail_at(patch, rate, error)
        with pytest.raises(RunError, match=str(error.args[-1])):
            tuner.search(ONE, tmp_path / "out")
    assert not (tmp_path / "out/tuning.json").exists()
    tuner.search(ONE, tmp_path / "out")
    found = entries(tmp_path / "out")["sgd"]
    assert all(trial["score"] is not None for trial in found["trials"])


# -- several processes -------------------------------------------------------------------------------------------------


@pytest.fixture
def helpers(tmp_path):
    with searchers.starter(tmp_path) as start:
        yield start


def test_processes_share_a_search_and_nothing_is_done_twice(helpers, tmp_path):
    protocol = dataclasses.replace(SMALL, methods=("sgd", "ugd"), tune=5)
    processes = helpers(protocol, "", "")
    assert [process.wait() for process in processes] == [0, 0]
    folders = [folder for _, folder in begun(tmp_path)]
    assert len(folders) == len(set(folders)) == 10
    assert {pid for pid, _ in begun(tmp_path)} == {process.pid for process in processes}
    trials = entries(tmp_path / "out")
    assert [len(trials[name]["trials"]) for name in protocol.methods] == [5, 5]
    assert tuner.search(protocol, tmp_path / "alone") == tuning(tmp_path / "out")


def test_what_a_killed_process_leaves_is_taken_up_and_nothing_else(helpers, small, tmp_path):
    (victim,) = helpers(SMALL, "noise-")  # in every folder's name: it hangs in its first run
    wait_until(lambda: begun(tmp_path), [victim])
    (heir,) = helpers(SMALL, "")
    wait_until(lambda: len(begun(tmp_path)) >= 6 or heir.poll() is not None, [victim, heir])
    time.sleep(0.3)
    assert heir.poll() is None, "it must wait for the trial that the other one holds"
    victim.kill()
    victim.wait()
    assert heir.wait() == 0
    stuck = [folder for pid, folder in begun(tmp_path) if pid == victim.pid][-1]
    assert (heir.pid, stuck) in begun(tmp_path)
    again = [folder for _, folder in begun(tmp_path)]
    assert sorted(again) == sorted([*set(again), stuck]) and len(again) == 7
    assert tuning(tmp_path / "out") == tuning(small)


# -- sensitivity -------------------------------------------------------------------------------------------------------


def test_sensitivity_has_every_trial_against_every_hyper_parameter(search):
    found = {(one.contender, one.name): one for one in sensitivity(SMALL, tuning(search))}
    assert list(found) == [("sgd", "lr"), ("sgd", "wd"), ("sam", "lr"), ("sam", "wd"), ("sam", "rho")]
    assert {one.noise for one in found.values()} == {0.4}
    trials = entries(search)["sam"]["trials"]
    assert sorted(point.score for point in found["sam", "rho"].points) == sorted(t["score"] for t in trials)
    default = next(point for point in found["sam", "rho"].points if point.score == trials[0]["score"])
    assert default.value == METHODS["sam"].make().rho
    assert found["sam", "lr"].points == sorted(found["sam", "lr"].points)
    again = sensitivity(SMALL, tuning(search), compare(SMALL, search))[0]
    assert [point.source for point in again.points].count("tuned") == 1 and len(again.points) == 4
    assert again.near_best == found["sgd", "lr"].near_best


def test_sensitivity_of_a_study_without_a_search(tmp_path):
    protocol = dataclasses.replace(SMALL, arms=("default",), tune=0)
    lr, *_ = sensitivity(protocol, summary=compare(protocol, tmp_path / "out"))
    assert [(point.value, point.source) for point in lr.points] == [(0.1, "default")] and lr.near_best is None
    assert not any(one.points for one in sensitivity(protocol))


def test_near_best_is_the_share_of_the_range_that_good_trials_speak_for():
    def trial(value, score):
        return Point(value, score, False, "trial")

    points = [trial(1e-3, 0.5), trial(1e-2, 0.995), trial(1e-1, 1.0), trial(1.0, 0.98)]
    assert near_best(points, Range(1e-3, 1.0)) == pytest.approx(2 / 3)
    assert near_best([trial(0.2, 0.9), trial(0.6, 0.1)], Range(0.0, 1.0, log=False)) == pytest.approx(0.4)
    assert near_best([trial(0.5, 0.0)], Range(0.0, 1.0, log=False)) == 1.0 and near_best([], Range(0.1, 1.0)) is None

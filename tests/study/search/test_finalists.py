"""The second round of a search: the best trials again, on seeds that did not choose them."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from flatmin.study import config, files
from flatmin.study import tuning as tuning_file
from flatmin.study.comparison import compare
from flatmin.study.config import Study
from flatmin.study.pool import RunError
from flatmin.study.report import experimental_setup
from flatmin.study.search import rounds, tuner, winners
from flatmin.study.search.trials import Trial
from flatmin.study.tasks import runs
from flatmin.study.training import record
from flatmin.study.tuning import Case
from support import searchers
from support.searchers import begun, wait_until

#: One process of the test run has all tests that fork, see support.forked, and starts the ranks once.
pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.usefixtures("undrawn")]

SMALL = Study(
    methods=("sgd", "sam"),
    arms=("tuned",),
    noise=(0.4,),
    seeds=1,
    epochs=1,
    subset=128,
    tune=4,
    tune_finalists=2,
    tune_finalist_seeds=2,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a complete small search. Do not write into it."""
    out = tmp_path_factory.mktemp("searches") / "small"
    tuner.search(SMALL, out)
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


def trials(*scores, contender="sgd"):
    """One trial per score; those without have failed."""
    return [
        Trial(Case(contender), k, {"lr": k}, score, error=None if score else "boom") for k, score in enumerate(scores)
    ]


def decided(study, scores, further):
    """What becomes of first-round scores when the finalists then have the further ones, by number."""
    found = trials(*scores)
    second = rounds.second(study, found)
    assert set(second.points[SGD]) == set(further)
    again = [dataclasses.replace(found[k], score=further[k], error=None if further[k] else "boom") for k in further]
    return winners.decide(winners.choose(rounds.first(study), found), second, again)


#: One winner for all conditions.
ONE = Study(methods=("sgd",), tune=5, tune_per_condition=False, tune_seeds=2, tune_finalists=2, tune_finalist_seeds=6)
SGD = Case("sgd")


# -- who gets in, who wins ---------------------------------------------------------------------------------------------


def test_the_best_trials_get_in_the_best_first_the_earlier_of_equals_and_no_failure():
    second = rounds.second(dataclasses.replace(ONE, tune_finalists=3), trials(0.5, 0.7, None, 0.5, 0.9))
    assert list(second.points[SGD].items()) == [(4, {"lr": 4}), (1, {"lr": 1}), (0, {"lr": 0})]
    assert list(rounds.second(ONE, trials(None, 0.1, None)).points[SGD]) == [1]


def test_everybody_gets_as_many_runs_on_the_same_seeds_which_nothing_else_uses():
    study = dataclasses.replace(ONE, methods=("sgd", "sam"), noise=(0.0, 0.4), seeds=1000)
    found = [*trials(0.1, 0.2, 0.3), *trials(0.3, 0.2, 0.1, contender="sam")]
    second = rounds.second(study, found)
    first = rounds.first(study)
    assert second.total == 4 and [*second.seeds] == [*range(1002, 1008)]
    assert not {*second.seeds} & {*first.seeds, *range(study.seeds)}
    for name, numbers in {"sgd": [2, 1], "sam": [0, 1]}.items():
        for place, number in enumerate(numbers):
            runs = second.runs(study, Trial(Case(name), place, {"lr": number}))
            assert len(runs) == 12 and not any(run.test for run in runs.values())
            assert {folder.split("/")[1] for folder in runs} == {f"trial-{number:03d}"}
            assert sorted({run.seed for run in runs.values()}) == [*second.seeds]


def test_the_best_mean_over_all_seeds_wins():
    found = decided(ONE, (0.5, 0.9, 0.8), {1: 0.4, 2: 0.7})["contenders"]["sgd"]
    assert found["winner"] == {"lr": 2} and found["score"] == pytest.approx((2 * 0.8 + 6 * 0.7) / 8)
    assert [one["trial"] for one in found["finalists"]] == [1, 2]
    assert [one["score"] for one in found["finalists"]] == pytest.approx([(2 * 0.9 + 6 * 0.4) / 8, found["score"]])
    assert [one["further_score"] for one in found["finalists"]] == [0.4, 0.7]
    assert [one["score"] for one in found["trials"]] == [0.5, 0.9, 0.8]


def test_the_first_round_counts_too():
    assert decided(ONE, (0.5, 0.9, 0.1), {1: 0.5, 0: 0.6})["contenders"]["sgd"]["winner"] == {"lr": 1}


def test_the_earlier_trial_wins_a_tie():
    """Also if the later one was ahead in the first round."""
    study = dataclasses.replace(ONE, tune_finalist_seeds=2)
    assert decided(study, (0.25, 0.5), {1: 0.25, 0: 0.5})["contenders"]["sgd"]["winner"] == {"lr": 0}


def test_a_finalist_that_fails_cannot_win():
    found = decided(ONE, (0.5, 0.9, 0.1), {1: None, 0: 0.2})["contenders"]["sgd"]
    assert found["winner"] == {"lr": 0}
    assert found["finalists"][0]["score"] is None and found["finalists"][0]["error"] == "boom"
    with pytest.raises(RunError, match="all finalists of sgd failed, the best one with boom; delete tune/finalists"):
        decided(ONE, (0.5, 0.9, 0.1), {1: None, 0: None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tune_finalists": 0}, "tune_finalists must be >= 1, got 0"),
        ({"tune_finalists": 2, "tune_finalist_seeds": 0}, "tune_finalist_seeds must be >= 1, got 0"),
        ({"tune_finalists": 6}, "tune_finalists = 6 are the best of more trials, but tune = 5; write --tune 24, or"),
        ({"tune_finalists": 2, "tune": 0}, "but tune = 0; write --tune 8, or --tune-finalists 1"),
    ],
)
def test_finalists_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ONE, **change)


# -- a search ----------------------------------------------------------------------------------------------------------


def test_the_record_holds_both_rounds(small):
    held = tuning(small)
    assert held["seeds"] == [1000] and held["finalist_seeds"] == [1001, 1002]
    for name, found in entries(small).items():
        assert len(found["trials"]) == 4 and len(found["finalists"]) == 2
        best = sorted(found["trials"], key=lambda one: (-one["score"], one["trial"]))[:2]
        assert [one["settings"] for one in found["finalists"]] == [one["settings"] for one in best]
        for one in found["finalists"]:
            folder = small / f"tune/trial-{one['trial']:03d}/noise-0.4/{name}"
            assert sorted(path.name for path in folder.iterdir()) == ["seed-1000", "seed-1001", "seed-1002"]
            runs = [record.read(folder / f"seed-{seed}") for seed in (1000, 1001, 1002)]
            assert all(run.settings == one["settings"] and result.test is None for run, result in runs)
            scores = [result.validation for _, result in runs]
            assert one["score"] == pytest.approx(sum(scores) / 3)
            assert one["further_score"] == pytest.approx(sum(scores[1:]) / 2)


def test_the_first_round_is_the_search_without_finalists(small, tmp_path):
    plain = tuner.search(dataclasses.replace(SMALL, tune_finalists=1), tmp_path / "plain")
    assert "finalist_seeds" not in plain and not (tmp_path / "plain/tune/finalists").exists()
    assert plain == tuning(tmp_path / "plain")
    for name, found in entries(tmp_path / "plain").items():
        assert found.keys() == {"winner", "score", "trials"}
        assert found["trials"] == entries(small)[name]["trials"]


def test_several_processes_give_the_same_numbers(small, tmp_path):
    assert tuner.search(SMALL, tmp_path / "two", jobs=2) == tuning(small)


@pytest.mark.parametrize("lost", ["tuning.json", "tune/finalists/journal.log", "tune/journal.log"])
def test_nothing_is_repeated(lost, search, monkeypatch):
    monkeypatch.setattr(runs, "perform", lambda run, folder: pytest.fail(f"{folder} was repeated"))
    before = tuning(search)
    (search / lost).unlink()
    assert tuner.search(SMALL, search) == before == tuning(search)


def test_a_study_goes_on_from_the_finalist_that_won_and_says_so(search):
    found = compare(SMALL, search)
    assert {row.contender: row.settings for row in found.rows} == tuning_file.winners(tuning(search), [0.4])[0.4]
    assert "repeated with 2 seeds from 1001 on" in dict(experimental_setup.in_words(found))["Selection"]
    assert "before the finalists were repeated on further seeds" in (search / "report.html").read_text()


def test_a_failure_in_the_second_round_is_in_the_record_whoever_comes_first(search, small, monkeypatch):
    """The first round has shown that the contender works, so even its first finalist may fail."""
    perform = runs.perform
    bad = {name: found["finalists"][0]["settings"] for name, found in entries(small).items()}

    def failing(run, folder):
        if run.seed > 1000 and run.settings == bad[run.contender]:
            raise ArithmeticError("no convergence")
        perform(run, folder)

    monkeypatch.setattr(runs, "perform", failing)
    shutil.rmtree(search / "tune/finalists")
    for folder in search.glob("tune/*/*/*/seed-100[12]"):
        shutil.rmtree(folder)
    tuner.search(SMALL, search)
    for found in entries(search).values():
        failed, other = found["finalists"]
        assert failed["error"] == "ArithmeticError: no convergence" and failed["score"] is None
        assert found["winner"] == other["settings"] and found["score"] == other["score"]


def test_a_full_disk_in_the_second_round_costs_nothing(search, small, monkeypatch):
    shutil.rmtree(search / "tune/finalists")
    for folder in search.glob("tune/*/*/*/seed-1002"):
        shutil.rmtree(folder)

    def full(run, folder):
        raise OSError(28, "No space left")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "perform", full)
        with pytest.raises(RunError, match="No space left"):
            tuner.search(SMALL, search)
    assert tuner.search(SMALL, search) == tuning(small)


# -- several searches of one folder ------------------------------------------------------------------------------------


@pytest.fixture
def helpers(tmp_path):
    with searchers.starter(tmp_path) as start:
        yield start


def test_processes_share_both_rounds_and_nothing_is_done_twice(helpers, small, tmp_path):
    processes = helpers(SMALL, "", "")
    assert [process.wait() for process in processes] == [0, 0]
    folders = [folder for _, folder in begun(tmp_path)]
    assert len(folders) == len(set(folders)) == 8 + 8
    assert {pid for pid, _ in begun(tmp_path)} == {process.pid for process in processes}
    assert tuning(tmp_path / "out") == tuning(small)


def test_what_a_killed_process_leaves_in_the_second_round_is_taken_up(helpers, small, tmp_path):
    (victim,) = helpers(SMALL, "seed-1001")
    wait_until(lambda: any(folder.name == "seed-1001" for _, folder in begun(tmp_path)), [victim])
    (heir,) = helpers(SMALL, "")
    wait_until(lambda: len(begun(tmp_path)) >= 8 + 1 + 6 or heir.poll() is not None, [victim, heir])
    assert heir.poll() is None, "it must wait for the finalist that the other one holds"
    victim.kill()
    victim.wait()
    assert heir.wait() == 0
    stuck = begun(tmp_path)[8][1]
    again = [folder for _, folder in begun(tmp_path)]
    assert sorted(again) == sorted([*set(again), stuck]) and len(again) == 17
    assert tuning(tmp_path / "out") == tuning(small)


def test_recipes_from_before_there_were_finalists_mean_what_they_meant(tmp_path):
    (tmp_path / "old.toml").write_text("tune = 32\ntune_seeds = 2\n")
    assert config.load(Study, tmp_path / "old.toml").tune_finalists == 1

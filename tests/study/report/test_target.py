"""Time to a target: AlgoPerf's published numbers, and curves that can be read off by hand."""

import dataclasses
import json
import math
import shutil

import pytest

from flatmin.study import files
from flatmin.study.comparison import compare
from flatmin.study.config import Study
from flatmin.study.report import summary, target
from flatmin.study.report.target import Reach, Times, TimeToTarget
from flatmin.study.training import record
from support import undrawn

#: One process of the test run has all tests, so that what they share is made once.
pytestmark = pytest.mark.xdist_group("target")

MISS = math.inf
#: Seconds on criteo, fastmri, resnet, vit, conformer, deepspeech, ogbg and wmt, from the logs of AlgoPerf v0.6.
SHAMPOO = dict(enumerate([7692, 641, MISS, 41095, MISS, MISS, 2868, 33605]))
BASELINE = dict(enumerate([7491, 873, MISS, MISS, MISS, MISS, 4576, 35319]))


def test_the_score_is_algoperfs():
    best = target.fastest([SHAMPOO, BASELINE])
    assert best == {0: 7491, 1: 641, 2: MISS, 3: 41095, 4: MISS, 5: MISS, 6: 2868, 7: 33605}
    assert target.score(SHAMPOO, best) == pytest.approx(0.6239, abs=5e-5)
    assert target.score(BASELINE, best) == pytest.approx(0.4580, abs=5e-5)


def test_the_closed_form_is_the_integral_of_the_performance_profile():
    best, steps = target.fastest([SHAMPOO, BASELINE]), 30_000
    ratios = [time / best[workload] for workload, time in SHAMPOO.items() if time < MISS]
    taus = [1 + 3 * (k + 0.5) / steps for k in range(steps)]
    profile = [sum(ratio <= tau for ratio in ratios) / len(SHAMPOO) for tau in taus]
    assert target.score(SHAMPOO, best) == pytest.approx(sum(profile) / steps, abs=1e-4)


@pytest.mark.parametrize(
    ("time", "reference", "share"),
    [
        (50, 100, 1),
        (100, 100, 1),
        (250, 100, 0.5),
        (400, 100, 0),
        (9000, 100, 0),
        (MISS, 100, 0),
        (MISS, MISS, 0),
        (5, MISS, 1),
    ],
)
def test_shares_of_one_workload(time, reference, share):
    assert target.score({"w": time}, {"w": reference}) == share


def test_scores_need_the_same_workloads():
    with pytest.raises(ValueError, match=r"the same workloads, got \['a'\] and \['b'\]"):
        target.score({"a": 1.0}, {"b": 1.0})
    with pytest.raises(ValueError, match="the same workloads"):
        target.score({}, {})


def curve(*accuracies):
    return [
        {"validation_accuracy": accuracy, "gradient_evaluations": 20 * k, "seconds": 1.5 * k}
        for k, accuracy in enumerate(accuracies, start=1)
    ]


def test_the_first_row_at_the_target_counts():
    found = curve(0.5, 0.8, 0.7, 0.9)
    assert target.first(found, 0.8, 0.5) == Times(40, 20, 3.0)
    assert target.first(found, 0.81, 0.5) == Times(80, 40, 6.0)
    assert target.first(found, 0.91) == Times(MISS, MISS, MISS)


def test_the_target_is_the_lower_median_of_the_best():
    assert target.goal([curve(0.5, 0.9), curve(0.8, 0.7), curve(0.6)]) == 0.8
    assert target.goal([curve(0.5, 0.9), curve(0.7), curve(0.8, 0.7), curve(0.6)]) == 0.7


def test_medians_keep_misses():
    fast, slow, missed = Times(10, 5, 1.0), Times(30, 15, 3.0), Times()
    for runs, median, reached in (
        ([fast, slow], Times(20, 10, 2.0), 2),
        ([fast, missed, slow], slow, 2),
        ([fast, missed], missed, 1),
        ([missed, missed], missed, 0),
    ):
        reach = Reach("tuned", 0.0, "sgd", dict(enumerate(runs)))
        assert (reach.median, reach.reached) == (median, reached)


def test_scores_are_relative_to_the_baseline_or_to_the_pool():
    def row(arm, noise, name, steps):
        return Reach(arm, noise, name, {0: Times(2 * steps, steps, steps / 10)})

    rows = [
        row("default", 0.0, "sgd", MISS),
        row("default", 0.4, "sgd", 200),
        row("tuned", 0.0, "sgd", 100),
        row("tuned", 0.4, "sgd", 100),
        row("tuned", 0.0, "pugd", 50),
        row("tuned", 0.4, "pugd", 175),
        row("tuned", 0.0, "sam", 100),
    ]
    found = TimeToTarget("tuned", "sgd", {0.0: 0.9, 0.4: 0.8}, rows)
    assert found.score("tuned", "sgd", "steps") == 1.0
    assert found.score("tuned", "pugd", "steps") == pytest.approx((1 + 0.75) / 2)
    assert found.score("default", "sgd", "seconds") == pytest.approx((0 + 2 / 3) / 2)
    assert found.score("tuned", "sgd", "steps", "pool") == pytest.approx((2 / 3 + 1) / 2)
    assert found.score("tuned", "sam", "steps") is None, "it has not run under all conditions"
    text = json.dumps(found.as_json(), allow_nan=False)
    assert json.loads(text)["table"][0] == {
        **{"arm": "default", "noise": 0.0, "contender": "sgd", "reached": 0, "n": 1},
        **{"gradient_evaluations": None, "steps": None, "seconds": None},
        "runs": [{"seed": 0, "gradient_evaluations": None, "steps": None, "seconds": None}],
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "study"
    with pytest.MonkeyPatch.context() as patch:
        undrawn.leave_out(patch)
        compare(Study(methods=("sgd", "pugd"), noise=(0.0, 0.4), seeds=2, epochs=3), out)
    return out


def test_a_study_knows_its_times(study):
    found = target.time_to_target(summary.summarise(study))
    assert (found.arm, found.baseline, list(found.targets)) == ("tuned", "sgd", [0.0, 0.4])
    for noise, goal in found.targets.items():
        curves = [record.metrics(study / f"runs/tuned/noise-{noise}/sgd/seed-{seed}") for seed in (0, 1)]
        assert goal == min(max(row["validation_accuracy"] for row in rows) for rows in curves)
    assert len(found.rows) == 8 and all(
        row.reached == 2 for row in found.rows if (row.arm, row.contender) == ("tuned", "sgd")
    )
    times = [(row, t) for row in found.rows for t in row.runs.values() if t.steps < MISS]
    assert all(t.gradient_evaluations == t.steps * (2 if row.contender == "pugd" else 1) for row, t in times)
    assert found.score("tuned", "sgd", "gradient_evaluations") == 1.0
    assert files.read_json(study / "results.json")["time_to_target"] == json.loads(json.dumps(found.as_json()))


def test_a_study_whose_baseline_has_not_run_has_no_targets_yet(study, tmp_path):
    copy = shutil.copytree(study, tmp_path / "copy")
    shutil.rmtree(copy / "runs/tuned/noise-0.4/sgd")
    found = target.time_to_target(summary.summarise(copy))
    assert list(found.targets) == [0.0] and {row.noise for row in found.rows} == {0.0}
    shutil.rmtree(copy / "runs/tuned/noise-0.0/sgd")
    found = target.time_to_target(summary.summarise(copy))
    assert found.as_json() == {"arm": "tuned", "baseline": "sgd", "targets": [], "table": [], "scores": []}


def test_studies_of_the_default_arm_take_their_target_from_it(tmp_path):
    protocol = Study(methods=("pugd",), arms=("default",), noise=(0.0,), seeds=1, epochs=1)
    found = target.time_to_target(compare(dataclasses.replace(protocol), tmp_path / "out"))
    assert (found.arm, found.baseline) == ("default", "pugd") and found.score("default", "pugd", "seconds") == 1.0

"""The cost of a study before it starts."""

import dataclasses

import pytest

from flatmin.study import estimate
from flatmin.study.comparison import compare
from flatmin.study.config import Study
from flatmin.study.search import rounds
from flatmin.study.tasks import images
from flatmin.study.training import robust

STUDY = Study(methods=("sgd", "sam"), seeds=1, epochs=1, noise=(0.0, 0.4), tune=3, tune_finalists=2)


def test_runs_and_gradients_are_counted_and_nothing_starts(tmp_path):
    sgd, sam = estimate.estimate(STUDY, tmp_path / "out")
    assert sgd.runs == (3 * 2, 2 * 2 * 4, 2 * 2) and sgd.trials == rounds.first(STUDY).total / 2 == 6
    assert (sgd.gradients, sam.gradients) == (26 * 16, 26 * 32)
    assert [*sam.searched] == ["lr", "wd", "rho"] and sam.measured and sgd.seconds > 0
    assert not (tmp_path / "out").exists()
    study = dataclasses.replace(STUDY, methods=("sam@adamw",), arms=("tuned",), tune=0, tune_finalists=1)
    with pytest.raises(ValueError, match="no tuned settings are known for sam@adamw"):
        estimate.estimate(study, tmp_path / "out")
    with pytest.raises(ValueError, match="fix: unknown name"):
        estimate.estimate(dataclasses.replace(STUDY, fix=("wdd",)), tmp_path / "out")


def test_the_speed_is_that_of_complete_runs_where_there_are_any(tmp_path):
    study = dataclasses.replace(STUDY, methods=("sgd",), arms=("default",), tune=0, tune_finalists=1, noise=(0.0,))
    compare(study, tmp_path / "out")
    (cost,) = estimate.estimate(study, tmp_path / "out")
    assert cost.runs == (0, 0, 1) and cost.trials == 0 and not cost.searched and not cost.measured


def test_the_passes_of_robustness_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_calibrated", lambda run: 2.0)  # seconds per step
    study = dataclasses.replace(STUDY, tune=0, tune_finalists=1, methods=("sgd",), arms=("default",), seeds=3)
    without, with_it = (
        estimate.estimate(dataclasses.replace(study, robustness=measured), tmp_path / "out")[0].seconds
        for measured in (False, True)
    )
    runs, count = 2 * 3, 360
    assert robust.PASSES == 3 + 5 * 3 + 2 + 2 + 1
    assert with_it - without == pytest.approx(runs * count * robust.PASSES / 64 * images.FORWARD * 2.0)

"""What a search ranges over, what a study fixes, and a winner for each condition."""

import dataclasses

import pytest
import torch
from torch import nn

from flatmin.registry import Range
from flatmin.study import config, files, plan, settings
from flatmin.study import tuning as tuning_file
from flatmin.study.config import Run, Study
from flatmin.study.search import rounds, winners
from flatmin.study.search.trials import Trial
from flatmin.study.training import record
from flatmin.study.training.average import Average
from flatmin.study.training.loop import train
from flatmin.study.training.torchrun import Processes
from flatmin.study.tuning import Case

BOTH = Study(methods=("sgd", "adamw", "sam+ema"), tune=4)


# -- what is searched --------------------------------------------------------------------------------------------------


def test_learning_rate_and_decay_are_searched_and_momentum_on_request():
    assert [*settings.space(BOTH, "sgd")] == ["lr", "wd"]
    assert [*settings.space(BOTH, "sam+ema")] == ["lr", "wd", "rho", "ema_decay"]
    more = dataclasses.replace(BOTH, search=("momentum",))
    assert [*settings.space(more, "sam+ema")] == ["lr", "wd", "momentum", "rho", "ema_decay"]
    assert [*settings.space(dataclasses.replace(BOTH, average="swa"), "sgd")] == ["lr", "wd", "swa_start"]
    assert settings.default(BOTH, "sam+ema") == {"lr": 0.1, "wd": 5e-4, "ema_decay": 0.999}


def test_what_is_fixed_is_fixed_for_all_that_have_it_in_all_arms():
    study = plan.canonical(dataclasses.replace(BOTH, fix=("wd=0.01", "rho")))
    assert [*settings.space(study, "sam+ema")] == ["lr", "ema_decay"]
    assert settings.default(study, "sam+ema") == {"lr": 0.1, "wd": 0.01, "rho": 0.05, "ema_decay": 0.999}
    tuned = {noise: {name: {"lr": 0.3, "wd": 0.1} for name in study.methods} for noise in study.noise}
    for run in plan.resolve(study, tuned).runs.values():
        assert run.settings["wd"] == 0.01 and run.settings.get("rho", 0.05) == 0.05
    for points in rounds.first(study).points.values():
        assert {point["wd"] for point in points.values()} == {0.01}
    old = dataclasses.replace(BOTH, fix=("wd",))
    assert [settings.fixed(old, name)["wd"] for name in BOTH.methods] == [5e-4, 1e-2, 5e-4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fix": ("wd=much",)}, "fix must be name=value with a number, or a name, got 'wd=much'; write wd=5e-4"),
        ({"fix": ("wd", "wd=1")}, "fix must not name anything twice, got wd wd=1"),
        ({"fix": ("wdd",)}, "fix: unknown name 'wdd'; did you mean wd"),
        ({"search": ("sigma",)}, "search: unknown name 'sigma'"),
        ({"search": ("momentum",), "fix": ("momentum",)}, "momentum cannot be both searched and fixed"),
        ({"fix": ("rho=-1",)}, "fix: rho must be >= 0, got -1"),
        ({"fix": ("ema_decay=1",)}, r"fix: ema_decay must be in \[0, 1\), got 1.0"),
        ({"fix": ("momentum=1.5",)}, r"fix: momentum must be in \[0, 1\), got 1.5"),
        ({"methods": ("sgd+swa",), "fix": ("swa_start=1",)}, r"fix: swa_start must be in \[0, 1\), got 1.0"),
        ({"fix": ("lr", "wd")}, "fix leaves nothing to search for sgd; leave out --tune 4"),
    ],
)
def test_what_cannot_be_fixed_or_searched_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        plan.canonical(dataclasses.replace(BOTH, **change))


def test_a_range_towards_one_is_even_in_the_distance():
    axis = Range(0.9, 0.999, to_one=True)
    assert [axis.at(u) for u in (0.0, 0.5, 1.0)] == [0.9, 0.99, 0.999]
    assert axis.place(0.99) - axis.place(0.9) == pytest.approx(axis.place(0.999) - axis.place(0.99))


def test_studies_of_before_keep_their_meaning(tmp_path):
    (tmp_path / "study.toml").write_text("methods = ['sgd']\narms = ['tuned']\nnoise = [0.0]\nseeds = 1\ntune = 4\n")
    study = record.read_study(tmp_path)
    assert study.fix == ("wd",) and not study.tune_per_condition
    config.save(dataclasses.replace(study, fix=(), tune_per_condition=True), tmp_path / "study.toml")
    assert record.read_study(tmp_path).fix == ()


# -- a winner for each condition ---------------------------------------------------------------------------------------


def test_each_condition_has_its_own_winner_and_finalists(tmp_path):
    study = Study(methods=("sgd",), noise=(0.0, 0.4), tune=3, tune_finalists=2, tune_finalist_seeds=3)
    first = rounds.first(study)
    assert [*first.points] == [Case("sgd", 0.0), Case("sgd", 0.4)]
    assert first.points[Case("sgd", 0.0)] == first.points[Case("sgd", 0.4)], "the same design"
    scores = {0.0: (0.9, 0.8, 0.1), 0.4: (0.1, 0.6, 0.7)}
    trials = [Trial(case, k, {"lr": k}, scores[case.noise][k]) for case in first.points for k in range(3)]
    second = rounds.second(study, trials)
    assert {case.noise: [*points] for case, points in second.points.items()} == {0.0: [0, 1], 0.4: [2, 1]}
    again = [Trial(Case("sgd", 0.0), 0, {"lr": 0}, 0.5), Trial(Case("sgd", 0.0), 1, {"lr": 1}, 0.8)]
    again += [Trial(Case("sgd", 0.4), 2, {"lr": 2}, 0.7), Trial(Case("sgd", 0.4), 1, {"lr": 1}, 0.6)]
    runs = second.runs(study, dataclasses.replace(again[2], number=0))  # the first of its list
    assert [(run.noise, run.seed) for run in runs.values()] == [(0.4, 1001), (0.4, 1002), (0.4, 1003)]
    tuning = winners.decide(winners.choose(first, trials), second, again)
    files.write_json(tmp_path / "tuning.json", tuning)
    found = tuning_file.read_winners(tmp_path / "tuning.json", study.noise)
    assert found == {0.0: {"sgd": {"lr": 1}}, 0.4: {"sgd": {"lr": 2}}}
    planned = plan.resolve(study, found)
    rates = {run.noise: run.settings["lr"] for name, run in planned.runs.items() if "/tuned/" in name}
    assert rates == {0.0: 1, 0.4: 2}
    with pytest.raises(ValueError, match="no tuned settings are known for sgd"):
        plan.resolve(dataclasses.replace(study, noise=(0.2,)), tuning_file.winners(tuning, (0.2,)))


# -- averages, and what a final run has learned ------------------------------------------------------------------------


def test_an_average_has_the_decay_and_the_start_that_it_is_given():
    net = nn.Linear(1, 1, bias=False)
    ema = Average("ema", {"ema_decay": 0.75}, net, Processes())
    swa = Average("swa", {"swa_start": 0.5}, net, Processes())
    for step in range(1, 5):
        with torch.no_grad():
            net.weight.fill_(float(step))
        ema.update(net, step / 4)
        swa.update(net, step / 4)
    assert swa.network(net).weight.item() == 3.5
    assert ema.network(net).weight.item() == pytest.approx(((1 * 0.75 + 2 * 0.25) * 0.75 + 3 * 0.25) * 0.75 + 4 * 0.25)


def test_a_contender_with_an_average_is_the_average_of_the_study():
    one = train(Run("sam+ema", {"lr": 0.05, "ema_decay": 0.9}, epochs=1))
    other = train(Run("sam", {"lr": 0.05, "ema_decay": 0.9}, epochs=1, average="ema"))
    plain = train(Run("sam", {"lr": 0.05}, epochs=1))
    assert one.test_correct == other.test_correct != plain.test_correct


def test_a_final_run_says_what_it_has_learned():
    noisy = train(Run("sgd", {"lr": 0.02}, noise=1.0, epochs=12, batch_size=32))
    assert 0.11 < noisy.others["memorised"] < noisy.others["train_accuracy"] + 0.01 < 1
    clean = train(Run("sgd", {"lr": 0.05}, epochs=2))
    assert clean.others["memorised"] is None and clean.others["train_accuracy"] > 0.9
    correct = record.which(clean)
    assert len(correct) == 360 and sum(correct) / 360 == clean.test
    tuning = train(Run("sgd", {"lr": 0.05}, epochs=1, test=False))
    assert tuning.others["train_accuracy"] is tuning.others["memorised"] is None and tuning.test_correct == ""

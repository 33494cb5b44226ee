"""Estimators in studies: their names, what they cost, and a run."""

import pytest
import torch
from torch import nn

from flatmin.estimators import ESTIMATORS
from flatmin.registry import METHODS
from flatmin.study.config import Run
from flatmin.study.contender import Contender
from flatmin.study.training.loop import train


def test_no_option_of_an_estimator_is_one_of_a_method():
    """A contender has both in one list of settings."""
    searched = {name for entry in METHODS.values() for name in entry.space} | {"lr", "wd", "momentum"}
    assert not searched & {name for entry in ESTIMATORS.values() for name in entry.space}


@pytest.mark.parametrize("name", ["forward", "pugd~zeroth", "sam~hybrid-zeroth+ema@adamw", "plain~forward@sgd"])
def test_names_are_read_and_shown(name):
    parsed = Contender.parse(name)
    assert Contender.parse(str(parsed)) == parsed
    assert parsed.gradient in name


def test_unknown_names_list_the_nearest():
    with pytest.raises(ValueError, match="estimator: unknown name 'zerothh'; did you mean zeroth"):
        Contender.parse("sam~zerothh")
    with pytest.raises(ValueError, match="did you mean forward"):
        Contender.parse("forwards")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_cost_is_counted_in_forward_passes(name):
    """What a budget is divided by is what the run counts."""
    contender = Contender.parse(f"pugd~{name}")
    settings = contender.default()
    run = Run(contender=str(contender), settings=settings, epochs=1, subset=128, batch_size=64, budget="steps")
    result = train(run)
    assert result.steps == 2
    assert result.gradient_evaluations == pytest.approx(2 * contender.gradients(settings), abs=0.01)
    assert contender.gradients(settings) == pytest.approx(2 * ESTIMATORS[name].gradients)


def test_settings_reach_the_estimator():
    contender = Contender.parse("zeroth")
    assert contender.space()["lr"].low == 1e-6
    assert "mu" in contender.space()
    _, method = contender.parts([{"params": [nn.Parameter(torch.zeros(2))]}], {"lr": 0.1, "mu": 0.5}, {})
    assert method.gradient.mu == 0.5
    with pytest.raises(ValueError, match="mu must be > 0"):
        contender.check({"mu": 0.0})

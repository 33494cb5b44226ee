"""The implementations that times are compared with compute the same steps as the library."""

import sys
from pathlib import Path

import pytest
import torch

import flatmin
from flatmin.testing import Problem
from flatmin.vectors.blocks import CPU_BLOCK

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import optimizer_step
import peers
import whole_step

#: Eight tensors of several blocks each: small temporaries do not hide a parameter copy.
SHAPES = [(1000, 1000)] * 8
METHODS = {"sam composer": flatmin.SAM(), "sam davda54": flatmin.SAM(), "pugd official": flatmin.PUGD()}


@pytest.mark.parametrize("name", METHODS)
def test_a_peer_takes_the_steps_of_the_library(name):
    theirs, ours = Problem(torch.float64), Problem(torch.float64)
    learning = [theirs.weights[n] for n in ("kernel", "inner", "bias", "scalar")]
    base, state = torch.optim.SGD(learning, lr=0.05, momentum=0.9), {}

    def backward():
        with torch.enable_grad():
            theirs.loss().backward()

    opt = flatmin.FlatOptimizer(torch.optim.SGD(ours.weights.parameters(), lr=0.05, momentum=0.9), METHODS[name])
    for _ in range(3):
        optimizer_step.PEERS[name](learning, base, backward, state)
        opt.step(ours.closure(opt))
    for a, b in zip(theirs.snapshot(), ours.snapshot(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "tensors", "millions"), [("resnet18", 62, 11.2), ("vit_b", 152, 86.6)], ids=["resnet18", "vit_b"]
)
def test_parameter_lists_have_the_published_sizes(model, tensors, millions):
    shapes = optimizer_step.MODELS[model]()
    assert len(shapes) == tensors
    assert sum(torch.Size(s).numel() for s in shapes) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("name", ["pugd foreach", "pugd fused", "sam foreach", "sam fused", "asam foreach"])
def test_one_parameter_copy_at_the_peak_and_none_kept(name, capfd):
    """The allocator's own record of one step: two-gradient methods need one copy beyond plain training."""
    stage = optimizer_step.Stage(SHAPES)
    steps = optimizer_step.contenders(stage)
    steps[name]()  # momentum
    stage.clear()
    memory = optimizer_step.extra_copies(stage, steps[name])
    blocks = 2 * CPU_BLOCK / sum(p.numel() for p in stage.params)  # the temporaries of one block
    assert memory["peak"] <= 1 + blocks
    assert memory["kept"] <= 0.001


def test_a_peer_keeps_a_copy(capfd):
    """Composer's SAM holds its displacement from one step to the next."""
    stage = optimizer_step.Stage(SHAPES)
    base, state = torch.optim.SGD(stage.params, lr=1e-6), {}
    peers.composer_sam(stage.params, base, stage.backward, state)
    assert sum(value.numel() for value in state.values()) == sum(p.numel() for p in stage.params)


def test_whole_steps_are_those_of_the_library():
    """Every contender steps from where the last one stood, at a rate that moves nothing."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 4), torch.nn.Linear(4, 10))
    seconds = whole_step.measure(whole_step.Setup(net, batch=2), ["head-sam", "sam"], repeats=2)
    assert {name: len(taken) for name, taken in seconds.items()} == {"sgd": 2, "head-sam": 2, "sam": 2}
    assert whole_step.ratios({"sgd": [1.0, 2.0], "sam": [2.0, 4.0]}, "sam") == (2.0, 2.0, 2.0)

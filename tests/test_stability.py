"""Cosines and norms of gradients while training, and dormant units."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import flatmin


def test_cosines_and_norms_are_those_of_numpy():
    """Of all parameters together, and of each; one without a gradient is left out."""
    a, b, unused = (nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (3, 2, 4))
    opt = flatmin.FlatOptimizer(torch.optim.SGD([a, b, unused], lr=0.1, momentum=0.9), flatmin.Plain())
    rng, seen = np.random.default_rng(0), []
    with flatmin.GradientTrace(opt, [("a", a), ("b", b), ("unused", unused)]) as trace:
        for _ in range(4):
            g, h = rng.normal(size=3), rng.normal(size=2)
            seen.append(np.concatenate([g, h]))
            for _ in opt.probes():
                (a @ torch.tensor(g) + b @ torch.tensor(h)).backward()
            opt.step()
    pairs = zip(seen[1:], seen[:-1], strict=True)
    expected = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in pairs]
    np.testing.assert_allclose(trace.cosines, expected)
    np.testing.assert_allclose(trace.norms["a"], [np.linalg.norm(x[:3]) for x in seen])
    np.testing.assert_allclose(trace.norms["b"], [np.linalg.norm(x[3:]) for x in seen])
    assert set(trace.norms) == {"a", "b"}
    opt.step(lambda: (opt.zero_grad(), a.sum().backward()))
    assert len(trace.cosines) == 3


def test_half_precision_and_zero_gradients_are_finite():
    p = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    opt = torch.optim.SGD([p], lr=0.1)
    with flatmin.GradientTrace(opt) as trace:
        for scale in (1.0, 0.0, 1.0):
            p.grad = torch.full_like(p, scale)
            opt.step()
    assert trace.cosines == [0.0, 0.0]
    assert trace.norms["0"] == pytest.approx([3**0.5, 0.0, 3**0.5])


def test_units_that_no_example_activates():
    """Units of a linear layer, and channels of a convolution, over all batches and positions."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU())
    with torch.no_grad():
        net[0].bias[:1] = -100.0
        net[4].bias[:] = torch.tensor([-100.0] * 6 + [100.0] * 2)
    batches = [torch.randn(3, 1, 4, 4), (torch.randn(2, 1, 4, 4),)]
    assert flatmin.dormant_units(net, batches) == {"1": 0.25, "5": 0.75}
    assert net.training
    assert not net[1]._forward_hooks
    assert flatmin.dormant_units(net, batches, layers=[net[4]]) == {"4": 0.75}
    assert flatmin.dormant_units(net, batches, layers=[net[4]], threshold=1e6) == {"4": 1.0}


def test_a_unit_that_one_example_activates_is_not_dormant():
    net = nn.Sequential(nn.Identity(), nn.ReLU())
    batches = [torch.tensor([[-1.0, -1.0]]), torch.tensor([[-1.0, 1.0]])]
    assert flatmin.dormant_units(net, batches) == {"1": 0.5}
    signed = [torch.tensor([[-3.0, -1.0], [1.0, -1.0]])]  # the largest counts, not the mean
    assert flatmin.dormant_units(net, signed, layers=[net[0]]) == {"0": 0.5}


def test_the_study_of_labels_that_are_drawn_anew_runs(monkeypatch):
    """A row of metrics for each drawing, with its columns."""
    pytest.importorskip("sklearn")
    from flatmin.study import Trial
    from flatmin.study.config import Run
    from flatmin.study.tasks.task import Attempt

    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    import reshuffled_labels

    monkeypatch.setattr(reshuffled_labels, "DRAWINGS", 2)
    monkeypatch.setattr(reshuffled_labels, "EPOCHS", 2)
    rows = []
    run = Run(contender="pugd", settings={"lr": 0.05})
    outcome = reshuffled_labels.train(Trial(run, Attempt(log=rows.append)))
    assert len(rows) == 2
    assert {"validation", "cosine", "dormant"} <= set(rows[0])
    assert outcome.validation == rows[1]["validation"] > 0.05


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer, got Linear"):
        flatmin.GradientTrace(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no module of activations that ran; write"):
        flatmin.dormant_units(nn.Linear(2, 2), [torch.zeros(1, 2)])
    with pytest.raises(ValueError, match="threshold must be >= 0, got -1"):
        flatmin.dormant_units(nn.ReLU(), [], threshold=-1)

"""Sharpness: against quadratic bowls whose maxima are known, and under scalings that change nothing."""

import copy
import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import flatmin
from flatmin import flatness
from flatmin.flatness import (
    Ascent,
    Risk,
    Updates,
    adaptive,
    average,
    eigenvalues,
    gap,
    lipschitz,
    m_sharpness,
    trace,
    unit_ball,
    worst_case,
)
from flatmin.study.config import Run
from flatmin.study.training import loop as study_train
from support import small_risks

#: ½ Σ λ w² at a point where the slope is not zero.
SPECTRUM, START = [1.0, 2.0, 4.0], [0.3, -0.2, 0.1]
FINE = {"steps": 500, "tol": 1e-13}


def bowl():
    return small_risks.bowl(SPECTRUM, START)


def on_a_grid(rise, points=400):
    """The largest rise over directions of unit length, by brute force."""
    theta = torch.linspace(0, math.pi, points, dtype=torch.float64)[:, None]
    phi = torch.linspace(0, 2 * math.pi, 2 * points, dtype=torch.float64)
    u = torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos() * torch.ones_like(phi)])
    return float(rise(u.reshape(3, -1)).max())


def rise(delta):
    """Of the bowl, for displacements (3, n)."""
    spectrum, w = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (SPECTRUM, START))
    return (0.5 * spectrum * ((w + delta) ** 2 - w**2)).sum(0)


def test_the_worst_case_of_a_ball():
    found = worst_case(bowl(), 0.5, **FINE)
    assert found.value == pytest.approx(on_a_grid(lambda u: rise(0.5 * u)), rel=1e-4)
    assert found.value == pytest.approx(float(rise(found.delta[:, None])), rel=1e-12)
    assert float(found.delta.norm()) == pytest.approx(0.5) and found.converged


def test_the_worst_case_of_a_cube_is_a_corner():
    corners = 0.5 * torch.tensor([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]).double().T
    assert worst_case(bowl(), 0.5, p=math.inf, **FINE).value == pytest.approx(float(rise(corners).max()), rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.1])
def test_the_adaptive_ball_scales_with_the_weights(eta):
    T = torch.tensor(START, dtype=torch.float64).abs()[:, None] + eta
    found = adaptive(bowl(), 0.5, eta=eta, **FINE)
    assert found.value == pytest.approx(on_a_grid(lambda u: rise(0.5 * T * u)), rel=1e-4)
    cube = adaptive(bowl(), 0.5, p=math.inf, eta=eta, **FINE)
    assert cube.value == pytest.approx(float(rise(0.5 * T * torch.tensor(START).double().sign()[:, None])), rel=1e-12)


def test_the_unit_sphere_leaves_weights_of_zero():
    risk = small_risks.bowl([1.0, 2.0, 100.0], [0.3, -0.2, 0.0])
    theta = torch.linspace(0, 2 * math.pi, 100_000, dtype=torch.float64)
    circle = torch.stack([theta.cos(), theta.sin()])
    w = torch.tensor([[0.3], [-0.2]], dtype=torch.float64)
    lam = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    truth = float((0.5 * lam * ((w + circle) ** 2 - w**2)).sum(0).max())
    found = unit_ball(risk, restarts=6, **FINE)
    assert found.value == pytest.approx(truth, rel=1e-6) == max(found.starts)
    assert float(found.delta[2]) == 0.0 and float(found.delta.norm()) == pytest.approx(1)
    assert len(found.starts) == 6


class Valley(nn.Module):
    """A line with a slope up to the right at 0, and a wall that is three times as high on the left."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))

    def forward(self, x):
        w = self.w
        return 0.1 * w + torch.where(w < 0, 3 * w**2, w**2) + 0 * x[:, 0]


HILLS = {
    "sam": lambda r, **k: worst_case(r, 1.0, **k),
    "sam inf": lambda r, **k: worst_case(r, 1.0, p=math.inf, **k),
    "asam": lambda r, **k: adaptive(r, 1.0, eta=1.0, **k),
}


@pytest.mark.parametrize("measure", HILLS.values(), ids=HILLS)
def test_restarts_leave_a_local_maximum_and_their_spread_is_the_error(measure):
    x = torch.ones(2, 1, dtype=torch.float64)
    risk = Risk(Valley(), lambda outputs, y: outputs.mean(), [(x, x)])
    one = measure(risk, restarts=1)
    assert one.value == pytest.approx(1.1) and one.converged and one.error == math.inf  # the wrong wall
    found = measure(risk)
    assert found.value == pytest.approx(2.9) and found.converged
    assert len(found.starts) == 5 and found.error == pytest.approx(2.9 - 1.1)
    for seed in range(10):  # a random start, and the one opposite to it
        assert measure(risk, restarts=3, seed=seed).value == pytest.approx(2.9)


def test_an_ascent_is_described_once_or_by_keywords():
    risk, ascent = small_risks.risk(), Ascent(steps=3, restarts=2, tol=1e-6, seed=5)
    for measure in (worst_case, adaptive, unit_ball, lipschitz):
        named, described = measure(risk, steps=3, restarts=2, tol=1e-6, seed=5), measure(risk, ascent=ascent)
        assert named.starts == described.starts and len(named.starts) == 2 and named.tol == 1e-6
        assert len(measure(risk, ascent=ascent, restarts=1).starts) == 1
    with pytest.raises(TypeError, match=r"'stesp' is no argument of this measure; .* steps, restarts, tol, seed"):
        worst_case(risk, stesp=3)


METHODS = {
    "sam": (flatmin.SAM(0.1), lambda r, **k: worst_case(r, 0.1, **k), 0.1),
    "sam inf": (flatmin.SAM(0.1, p=math.inf), lambda r, **k: worst_case(r, 0.1, p=math.inf, **k), None),
    "asam": (flatmin.ASAM(0.5, eta=0.0), lambda r, **k: adaptive(r, 0.5, **k), None),
    "pugd": (flatmin.PUGD(), lambda r, **k: unit_ball(r, **k), 1.0),
}


@pytest.mark.parametrize(("method", "measure", "length"), METHODS.values(), ids=METHODS)
def test_what_a_method_sees_is_where_its_ascent_begins(method, measure, length):
    risk = small_risks.risk()
    seen, far = gap(risk, method), measure(risk, steps=30, restarts=2)
    first = measure(risk, steps=1, restarts=1)
    assert seen.value > 0
    assert first.value == pytest.approx(seen.value, rel=1e-9)
    assert far.value >= first.value * (1 - 1e-12)
    assert seen.length == pytest.approx(float(first.delta.norm()))
    assert length is None or seen.length == pytest.approx(length)


class Gated:
    """Looks at a number, so that it cannot be rehearsed."""

    def direction(self, w, memory):
        g = yield
        return (yield g.unit()) if g.norm() > 0 else g


@pytest.mark.parametrize("method", [flatmin.Plain(), flatmin.UGD(), flatmin.MomentumSAM()])  # without momentum
def test_methods_that_stay_at_the_weights_see_no_gap(method):
    assert (gap(small_risks.risk(), method).value, gap(small_risks.risk(), method).length) == (0, 0)


@pytest.mark.parametrize("method", [flatmin.AMP(), flatmin.SymmetricNoise(), flatmin.Every(flatmin.SAM(), 2), Gated()])
def test_every_kind_of_method_can_be_asked(method):
    seen = gap(small_risks.risk(), method)
    assert math.isfinite(seen.value) and seen.length > 0
    assert gap(small_risks.risk(), method).value == seen.value


def test_gap_refuses_what_is_no_method_and_what_needs_a_batch():
    class Picky:
        def direction(self, w, memory):
            return (yield flatmin.Ask(rows=slice(2)))

    with pytest.raises(TypeError, match=r"method must be one such as flatmin.PUGD\(\), got the class SAM"):
        gap(bowl(), flatmin.SAM)
    with pytest.raises(ValueError, match="chooses or weighs the examples of a batch"):
        gap(bowl(), Picky())


# -- on average, in chunks, of the gradient ----------------------------------------------------------------------------


def test_gaussian_noise_on_a_bowl_sees_its_trace():
    found = average(small_risks.bowl([1.0] * 300 + [3.0] * 50), 0.1, tol=0.01, max_pairs=500)
    assert found.converged
    assert abs(found.value - 0.5 * 0.01 * 450) < 3 * found.error


def test_pairs_cancel_the_slope():
    steep = small_risks.bowl([1.0] * 50, [1000.0] * 50)
    assert average(steep, 0.01, max_pairs=10).error < 0.01  # a slope of 7000 would give 70


def test_filter_noise_is_as_long_as_the_filters_and_leaves_vectors():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double()
    lengths = []

    def loss(outputs, y):
        lengths.append((model[0].weight - home).norm(dim=1))
        assert torch.equal(model[0].bias, bias)
        return (outputs**2).mean()

    home, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    risk = Risk(model, loss, [(torch.randn(6, 5).double(), torch.zeros(6))])
    average(risk, 0.3, noise="filter", max_pairs=2)
    torch.testing.assert_close(lengths[-1], 0.3 * home.norm(dim=1))


def test_m_sharpness_is_the_mean_over_chunks():
    model, (x, y) = small_risks.net(), small_risks.examples(11)
    risk = Risk(model, nn.CrossEntropyLoss(), small_risks.batched(x, y, 4))
    found = m_sharpness(risk, 5, lambda part: worst_case(part, 0.1, steps=3))
    parts = [Risk(model, nn.CrossEntropyLoss(), [(x[i : i + 5], y[i : i + 5])]) for i in (0, 5)]
    values = [worst_case(part, 0.1, steps=3).value for part in parts]
    assert found.samples == 2 and found.value == pytest.approx(sum(values) / 2, rel=1e-12)
    assert found.error == pytest.approx(abs(values[0] - values[1]) / 2 * 12.706 / 1.96, rel=1e-3)  # Student's t
    assert m_sharpness(risk, 1).value > m_sharpness(risk, 11).value
    assert m_sharpness(risk, 11).value == pytest.approx(worst_case(risk).value, rel=1e-9)


def test_m_sharpness_refuses_more_examples_than_there_are():
    with pytest.raises(ValueError, match="m must be at most the number of examples, 10, got 11; write m=10"):
        m_sharpness(small_risks.risk(), 11)


def test_the_lipschitz_constant_of_a_bowl_is_its_sharpest_curvature():
    found = lipschitz(small_risks.bowl([1.0, -6.0, 4.0]), 0.1, **FINE)
    assert found.value == pytest.approx(6, rel=1e-6) and found.converged
    near = lipschitz(small_risks.risk(), 1e-4, **FINE)
    assert near.value == pytest.approx(abs(eigenvalues(small_risks.risk(), which="LM", tol=1e-9).values[0]), rel=1e-3)


def test_losses_that_overflow_are_infinitely_sharp():
    risk = small_risks.bowl([1e300, 1.0], [0.0, 1.0])
    assert worst_case(risk, 1e10, steps=5, restarts=2).value == math.inf


REFUSED = {
    "rho": (lambda r: worst_case(r, 0.0), "rho must be a number > 0, got 0.0"),
    "p": (lambda r: worst_case(r, p=1), "p must be 2 or inf, got 1"),
    "eta": (lambda r: adaptive(r, eta=-1), "eta must be a number >= 0, got -1"),
    "radius": (lambda r: unit_ball(r, -1.0), "radius must be a number > 0, got -1.0"),
    "steps": (lambda r: lipschitz(r, steps=0), "steps must be a whole number >= 1, got 0"),
    "restarts": (lambda r: worst_case(r, restarts=0), "restarts must be a whole number >= 1, got 0"),
    "sigma": (lambda r: average(r, math.nan), "sigma must be a number > 0, got nan"),
    "noise": (lambda r: average(r, noise="signs"), "noise must be 'gaussian' or 'filter', got 'signs'"),
    "m": (lambda r: m_sharpness(r, 0), "m must be a whole number >= 1, got 0"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_say_what_to_write(call, message):
    with pytest.raises(ValueError, match=message):
        call(bowl())


# -- scalings that change nothing --------------------------------------------------------------------------------------


def rectified():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def rescaled(model, factor=4.0):
    """The same function: what goes into the rectifier is scaled up, what comes out is scaled down."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight *= factor
        other[0].bias *= factor
        other[2].weight /= factor
    return other


INVARIANT = {
    "adaptive": lambda r: adaptive(r, 0.2, **FINE).value,
    "adaptive inf": lambda r: adaptive(r, 0.1, p=math.inf).value,
    "filter noise": lambda r: average(r, 0.2, noise="filter").value,
    "asam's gap": lambda r: gap(r, flatmin.ASAM(0.2, eta=0.0)).value,
}
PLAIN = {
    "worst case": lambda r: worst_case(r, 0.2).value,
    "worst case inf": lambda r: worst_case(r, 0.05, p=math.inf).value,
    "unit ball": lambda r: unit_ball(r).value,
    "gaussian noise": lambda r: average(r, 0.05).value,
    "largest eigenvalue": lambda r: eigenvalues(r).values[0],
    "trace": lambda r: trace(r).value,
    "lipschitz": lambda r: lipschitz(r, 0.01).value,
    "pugd's gap": lambda r: gap(r, flatmin.PUGD()).value,
}


@pytest.mark.parametrize(("name", "measure"), [*INVARIANT.items(), *PLAIN.items()], ids=[*INVARIANT, *PLAIN])
def test_adaptive_measures_do_not_move_and_plain_ones_do(name, measure):
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = [(x, torch.arange(12) % 3)]
    before, after = (measure(Risk(m, nn.CrossEntropyLoss(), data)) for m in (rectified(), rescaled(rectified())))
    if name in INVARIANT:
        assert after == pytest.approx(before, rel=1e-6)
    else:
        assert abs(after - before) > 0.1 * abs(before)


def test_weights_come_back_bit_for_bit():
    risk = small_risks.risk(dtype=torch.float32)
    before = copy.deepcopy(risk.model.state_dict())
    measures = [adaptive, average, unit_ball, lipschitz, lambda r: m_sharpness(r, 3), lambda r: gap(r, flatmin.PUGD())]
    for measure in measures:
        measure(risk)
        torch.testing.assert_close(risk.model.state_dict(), before, rtol=0, atol=0)


# -- updates ----------------------------------------------------------------------------------------------------------


def train(make, steps=5):
    torch.manual_seed(0)
    model = nn.Linear(4, 2).double()
    opt = make(list(model.parameters()))
    x, y = torch.randn(8, 4).double(), torch.randn(8, 2).double()
    path = [torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()])]
    with Updates(opt) as updates:
        for _ in range(steps):
            for _ in opt.probes() if isinstance(opt, flatmin.FlatOptimizer) else [0]:
                opt.zero_grad()
                mse_loss(model(x), y).backward()
            opt.step()
            path.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    opt.step() if not isinstance(opt, flatmin.FlatOptimizer) else None  # no longer seen
    return updates, path


def flat(method, **options):
    return lambda params: flatmin.FlatOptimizer(torch.optim.SGD(params, lr=0.1, **options), method)


OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01, fused=True),
    "sam": flat(flatmin.SAM(0.1), momentum=0.9),
    "pugd": flat(flatmin.PUGD()),
    "bypass": flat(flatmin.MomentumSAM(), momentum=0.9),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_updates_are_how_far_the_weights_went(make):
    updates, path = train(make)
    moves = [float((b - a).norm()) for a, b in itertools.pairwise(path)]
    assert updates.absolute == pytest.approx(moves, rel=1e-9)
    assert updates.relative == pytest.approx([m / float(a.norm()) for m, a in zip(moves, path, strict=False)], rel=1e-9)


def test_updates_of_pugd_are_bounded_by_the_learning_rate():
    assert train(OPTIMIZERS["pugd"])[0].absolute == pytest.approx([0.1] * 5)
    assert max(train(OPTIMIZERS["sgd"])[0].absolute) > 0.1


def test_updates_of_a_run_of_a_study():
    seen = []

    def attend(optimizer):
        seen.append(Updates(optimizer))
        return seen[0]

    run = Run("pugd", epochs=2, settings={"lr": 0.02})
    result = study_train.train(run, attend=attend)
    assert len(seen[0].absolute) == result.steps and max(seen[0].absolute) < 0.02 / (1 - 0.9) * 1.01  # and weight decay
    assert result.test == study_train.train(run).test


def test_updates_refuse_what_is_no_optimizer():
    with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer, got list"):
        Updates([])
    assert Updates(torch.optim.SGD([torch.ones(1)], lr=0.1)).absolute == []


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_of_flatness_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "flatness.md").read_text(encoding="utf-8")
    torch.manual_seed(0)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "docs/flatness.md", "exec"), names)
    assert names["top"].values[0] > 0 and names["updates"].absolute == pytest.approx([0.1] * 4, rel=1e-5)
    assert "SAM(rho=0.05, p=2)" in capsys.readouterr().out
    for name in flatness.__all__:
        assert f"::: flatmin.flatness.{name}\n" in page, name

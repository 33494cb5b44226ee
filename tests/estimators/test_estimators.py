"""Estimated gradients: against numpy twins, their expectation and error, and the promises of the engine."""

import copy
import io
import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import flatmin
from flatmin.engine.reads import DisplacedReads
from flatmin.estimators import Estimated
from flatmin.testing import CHECKS
from flatmin.vectors.blocks import Scope
from flatmin.vectors.tangents import flat, projection
from flatmin.vectors.vector import Tensors
from flatmin.vectors.weights import Weights
from reference import Problem, twin_of
from reference import estimators as reference
from support.common import small_net
from support.side_by_side import HYPER, library, twin

ESTIMATORS = {
    "forward": flatmin.ForwardGradient(tangents=3),
    "forward-rademacher": flatmin.ForwardGradient(tangents=2, distribution="rademacher"),
    "forward-sphere": flatmin.ForwardGradient(distribution="sphere"),
    "multi-tangent": flatmin.MultiTangent(tangents=3),
    "multi-tangent-mean": flatmin.MultiTangent(tangents=2, aggregate="mean"),
    "multi-tangent-unbiased": flatmin.MultiTangent(tangents=2, scale="unbiased"),
    "multi-tangent-simulated": flatmin.MultiTangent(tangents=3, simulate=True),
    "zeroth": flatmin.ZerothOrder(directions=2),
    "zeroth-one-sided": flatmin.ZerothOrder(directions=2, sides=1, mu=1e-4),
    "hybrid": flatmin.HybridZerothOrder(directions=2, coordinates=3),
}
N = sum(t.size for t in Problem().start)
#: Name -> the estimate in numpy, the number of tangents, their kind, and their shape.
TWINS = {
    "forward": (reference.forward_gradient, 3),
    "forward-rademacher": (reference.forward_gradient, 2, "random_signs"),
    "forward-sphere": (reference.forward_gradient, 1, "randn", reference.sphere),
    "multi-tangent": (reference.multi_tangent, 3),
    "multi-tangent-mean": (partial(reference.multi_tangent, aggregate="mean"), 2),
    "multi-tangent-unbiased": (partial(reference.multi_tangent, factor=N / 2), 2),
    "multi-tangent-simulated": (reference.multi_tangent, 3),
    "zeroth": (reference.zeroth_order, 2),
    "zeroth-one-sided": (partial(reference.zeroth_order, sides=1, mu=1e-4), 2),
}
METHODS = {"plain": flatmin.Plain(), "sam": flatmin.SAM(), "pugd": flatmin.PUGD()}


def assert_same_weights(ours, theirs):
    np.testing.assert_allclose([s.after for s in ours], [s.after for s in theirs], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TWINS)
def test_a_method_on_estimates_equals_its_twin(name, method):
    """With the same tangents at both points of SAM and PUGD."""
    ours = library(Estimated(METHODS[method], ESTIMATORS[name]), **HYPER)
    assert_same_weights(ours, twin(reference.estimated(twin_of(method), *TWINS[name]), **HYPER))


@pytest.mark.parametrize(("directions", "coordinates"), [(2, 3), (0, 4), (3, 0), (1, 200)])
def test_the_hybrid_equals_its_twin(directions, coordinates):
    estimator = flatmin.HybridZerothOrder(directions, coordinates, beta=0.5)

    def step(w, see, memory):
        point = reference.join(w)
        options = {"directions": directions, "coordinates": coordinates, "beta": 0.5}
        return reference.split(reference.hybrid(w, see, memory, point, **options), w)

    assert_same_weights(library(Estimated(flatmin.Plain(), estimator), **HYPER), twin(step, **HYPER))


# -- expectation and error ---------------------------------------------------------------------------------------------


def draws(estimator, n, count):
    """Tangents of some steps, (count, k, n)."""
    params = [torch.zeros(n, dtype=torch.float64, requires_grad=True)]
    scope = Scope(params, [0])

    def of_step(t):
        w = Weights(scope, params, (3, t))
        return np.stack([flat(v, w).numpy() for v in estimator.draw(w, {})])

    return np.stack([of_step(t) for t in range(count)])


@pytest.mark.parametrize(("distribution", "plus"), [("gaussian", 1), ("rademacher", -1), ("sphere", -1)])
def test_expectation_is_the_gradient_and_the_error_is_known(distribution, plus):
    """E[v vᵀ] = 1, and E‖g − ∇f‖² = (n ± 1) / k ‖∇f‖²."""
    n, count = 8, 1000
    v = draws(flatmin.ForwardGradient(distribution=distribution), n, count)[:, 0]
    g = np.linspace(-1, 2, n)
    estimates = (v @ g)[:, None] * v
    spread = np.linalg.norm(g) * math.sqrt((n + 1) / count)
    assert np.linalg.norm(estimates.mean(0) - g) < 2.5 * spread
    error = np.sum((estimates - g) ** 2, axis=1).mean() / (g @ g)
    assert error == pytest.approx(n + plus, rel=0.15 if distribution == "gaussian" else 0.06)


@pytest.mark.parametrize(("scale", "error"), [("none", lambda n, k: 1 - k / n), ("unbiased", lambda n, k: n / k - 1)])
def test_error_of_the_projection(scale, error):
    n, k, count = 12, 3, 150
    g = np.linspace(-1, 2, n)
    estimates = np.stack([estimate(flatmin.MultiTangent(k, scale=scale), g, t) for t in range(count)])
    assert np.sum((estimates - g) ** 2, axis=1).mean() / (g @ g) == pytest.approx(error(n, k), rel=0.12)


def estimate(estimator, g, step=0):
    """What an estimator makes of the gradient g of a linear loss."""
    params = [torch.zeros(len(g), dtype=torch.float64, requires_grad=True)]
    opt = flatmin.FlatOptimizer(torch.optim.SGD(params, lr=0.0), flatmin.Plain(), gradient=estimator, seed=step)
    for probe in opt.probes():
        probe.backward(params[0] @ torch.tensor(g))
    return params[0].grad.numpy()


@pytest.mark.parametrize("simulate", [False, True])
@pytest.mark.parametrize("tangents", [6, 9])
def test_as_many_tangents_as_parameters_are_exact(tangents, simulate):
    g = np.array([1.0, -2.0, 0.5, 3.0, 0.0, 7.0])
    np.testing.assert_allclose(estimate(flatmin.MultiTangent(tangents, simulate=simulate), g), g, atol=1e-8)


def test_length_of_the_projection_can_be_that_of_the_gradient():
    g = np.linspace(-1, 2, 12)
    lengths = [np.linalg.norm(estimate(flatmin.MultiTangent(3, scale="length"), g, t)) for t in range(100)]
    assert np.mean(lengths) == pytest.approx(np.linalg.norm(g), rel=0.12)


def test_dependent_tangents_are_projected_on_once():
    params = [torch.zeros(3, dtype=torch.float64)]
    scope = Scope(params, [0])
    v = Tensors(scope, [torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)])
    g = Tensors(scope, [torch.tensor([2.0, 0.0, 5.0], dtype=torch.float64)])
    np.testing.assert_allclose(flat(projection([v.dot(g)] * 2, [v, v]), v), [1.0, 1.0, 0.0], atol=1e-12)


def test_two_points_average_the_loss_over_a_gaussian():
    """Odd terms cancel, so it is exact on a quadratic; one point alone is off by ½ μ vᵀHv."""
    params, h = [torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)], torch.tensor([1.0, 10.0])
    slopes = {}
    for sides in (1, 2):
        estimator = flatmin.ZerothOrder(mu=0.5, sides=sides, distribution="rademacher")
        opt = flatmin.FlatOptimizer(torch.optim.SGD(params, lr=0.0), flatmin.Plain(), gradient=estimator, seed=1)
        for probe in opt.probes():
            probe.backward((0.5 * h * params[0] ** 2).sum())
        slopes[sides] = params[0].grad
    v = slopes[2] / slopes[2].abs()
    exact = float((h * params[0]).detach() @ v.double())
    assert abs(slopes[2][0]) == pytest.approx(abs(exact))
    assert (slopes[1] * v)[0] - (slopes[2] * v)[0] in (pytest.approx(0.5 * 0.5 * 11), pytest.approx(-0.5 * 0.5 * 11))


def test_important_coordinates_have_the_smallest_variance():
    """Σ (1/pᵢ − 1) gᵢ² at pᵢ = min(1, c |gᵢ|) is below that of uniform and of perturbed probabilities."""
    rng = np.random.default_rng(0)
    g = np.abs(rng.standard_cauchy(200))
    p = flatmin.HybridZerothOrder(coordinates=20, floor=1e-6)._probabilities(torch.tensor(g)).numpy()

    def variance(p):
        return np.sum((1 / p - 1) * g**2)

    assert p.sum() == pytest.approx(20)
    assert variance(p) < variance(np.full(200, 0.1)) / 3
    for _ in range(20):
        other = p * np.exp(0.3 * rng.normal(size=200))
        other = reference.water_fill(other, 20, 1e-6)
        assert variance(p) < variance(other)


def test_chosen_coordinates_follow_what_was_seen():
    """All importance goes to the one parameter that matters, as far as the floor lets it."""
    g = np.array([0.0] * 9 + [5.0])
    params = [torch.zeros(10, dtype=torch.float64, requires_grad=True)]
    estimator = flatmin.HybridZerothOrder(0, 2, beta=1.0)
    opt = flatmin.FlatOptimizer(torch.optim.SGD(params, lr=0.0), flatmin.Plain(), gradient=estimator)
    for _ in range(30):
        opt.step(lambda: params[0] @ torch.tensor(g))
    assert opt.memory["gradient"]["p"]["9"] == 1.0
    assert opt.memory["gradient"]["s"][0][9] == pytest.approx(5.0)


# -- the engine --------------------------------------------------------------------------------------------------------

#: With enough tangents to learn in thirty steps.
LEARNING = {
    "forward": flatmin.ForwardGradient(tangents=16, distribution="rademacher"),
    "multi-tangent": flatmin.MultiTangent(tangents=16, scale="length"),
    "zeroth": flatmin.ZerothOrder(directions=16, distribution="sphere"),
    "hybrid": flatmin.HybridZerothOrder(directions=8, coordinates=8),
}
#: The first runs complex weights, which are refused; the last is below.
KEPT = [check for check in CHECKS if check.__name__ not in ("weights_come_back", "learns")]
LEARNS = next(check for check in CHECKS if check.__name__ == "learns")


@pytest.mark.parametrize("name", ["multi-tangent", "zeroth"])
@pytest.mark.parametrize("check", KEPT, ids=lambda check: check.__name__)
def test_the_contract_of_methods_holds_on_estimates(check, name):
    check(Estimated(flatmin.PUGD(radius=0.1), ESTIMATORS[name]))


@pytest.mark.parametrize("name", LEARNING)
def test_a_method_learns_from_estimates(name):
    LEARNS(Estimated(flatmin.Plain(), LEARNING[name]))


def batch_and_net(dtype=torch.float32, **options):
    net = small_net(**options).to(dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 1, 8, 8, generator=generator).to(dtype)
    return net, x, torch.randint(10, (16,), generator=generator)


def optimizer(net, estimator, method=None, lr=0.01, **options):
    base = torch.optim.SGD(net.parameters(), lr=lr)
    return flatmin.FlatOptimizer(base, method or flatmin.SAM(), gradient=estimator, model=net, seed=1, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_weights_are_never_written_by_a_probe(name, dtype):
    """Not even the version of a weight changes, so nothing has to be restored; a simulation restores."""
    net, x, y = batch_and_net(dtype)
    opt = optimizer(net, ESTIMATORS[name], lr=0.0)
    before = copy.deepcopy(net.state_dict())
    versions = [p._version for p in net.parameters()]
    for probe in opt.probes():
        probe.backward(F.cross_entropy(net(x).float(), y))
    if "simulated" not in name:
        assert versions == [p._version for p in net.parameters()]
    opt.step()
    opt.step(lambda: _closure(net, x, y))
    for key, p in net.named_parameters():
        assert torch.equal(p, before[key]) and p.isfinite().all()


def _closure(net, x, y):
    loss = F.cross_entropy(net(x).float(), y)
    if loss.requires_grad:
        loss.backward()
    return loss


@pytest.mark.parametrize("name", ["forward", "zeroth"])
def test_statistics_and_dropout_are_held_still(name):
    """BatchNorm moves once, as by the first pass; all passes see the same masks."""
    net, x, y = batch_and_net(dropout=0.5)
    masks = []
    net[3].register_forward_hook(lambda module, args, out: masks.append((out == 0).clone()))
    torch.manual_seed(7)
    opt = optimizer(net, ESTIMATORS[name], lr=0.0)
    opt.step(lambda: F.cross_entropy(net(x), y))
    alone, *_ = batch_and_net(dropout=0.5)
    torch.manual_seed(7)
    alone(x)
    assert int(net[1].num_batches_tracked) == 1
    tolerance = 0 if name == "forward" else 1e-2
    torch.testing.assert_close(net[1].running_mean, alone[1].running_mean, atol=tolerance, rtol=tolerance)
    assert len(masks) > 3
    differing = [int((mask != masks[0]).sum()) for mask in masks]  # a few zeros come from ReLU
    assert max(differing) < 0.05 * masks[0].numel()
    assert torch.equal(torch.rand(3), _next_after(alone, x)), "the generator goes on as after one pass"


def _next_after(net, x):
    torch.manual_seed(7)
    net(x)
    return torch.rand(3)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if "simulated" not in name])
def test_queries_are_counted(name):
    """In thirds of a gradient for a loss, in gradients for a derivative."""
    forward = {"forward": 3, "forward-rademacher": 2, "forward-sphere": 1, "multi-tangent": 3}
    forward |= {"multi-tangent-mean": 2, "multi-tangent-unbiased": 2}
    losses = {"zeroth": 4, "zeroth-one-sided": 3, "hybrid": 10}
    net, x, y = batch_and_net()
    opt, calls, cost = optimizer(net, ESTIMATORS[name]), 0, 0.0
    for probe in opt.probes():
        probe.backward(F.cross_entropy(net(x), y))
        calls, cost = calls + 1, cost + probe.cost
    assert calls == 2 * (forward | losses)[name]  # SAM asks for two gradients
    assert cost == pytest.approx(calls if name in forward else calls / 3)


def test_both_forms_and_micro_batches_agree_with_batchnorm_off():
    net, x, y = batch_and_net(torch.float64, norm=lambda c: nn.GroupNorm(2, c))
    nets = [copy.deepcopy(net) for _ in range(3)]
    opts = [optimizer(each, ESTIMATORS["forward"]) for each in nets]
    opts[0].step(lambda: F.cross_entropy(nets[0](x), y))
    for probe in opts[1].probes():
        probe.backward(F.cross_entropy(nets[1](x), y, reduction="none"))
    opts[1].step()
    for probe in opts[2].probes():
        for rows, share in ((slice(4), 0.25), (slice(4, 16), 0.75)):
            probe.backward(F.cross_entropy(nets[2](x[rows]), y[rows]), share=share)
    opts[2].step()
    for a, b, c in zip(*(each.parameters() for each in nets), strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adafactor])
@pytest.mark.parametrize("method", [flatmin.PUGD(), flatmin.IVON(ess=100)], ids=lambda m: type(m).__name__)
def test_a_step_in_parts_is_the_whole_step(base, method):
    """The closure hands the direction over part by part; the loop all at once."""
    options = {"momentum": 0.9, "weight_decay": 0.01} if base is torch.optim.SGD else {}
    found = []
    for parts in (True, False):
        net, x, y = batch_and_net()
        made = base(net.parameters(), lr=0.01, **options)
        opt = flatmin.FlatOptimizer(made, method, gradient=ESTIMATORS["zeroth"], model=net, seed=1)
        calls = []
        step = made.step
        made.step = lambda step=step, calls=calls: (calls.append(1), step())[1]
        for _ in range(3):
            if parts:
                opt.step(lambda net=net, x=x, y=y: F.cross_entropy(net(x), y))
            else:
                for probe in opt.probes():
                    probe.backward(F.cross_entropy(net(x), y))
                opt.step()
        assert (len(calls) > 3) == parts
        assert all((p.grad is None) == parts for p in net.parameters())
        found.append([p.detach() for p in net.parameters()])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_a_base_of_ones_own_or_with_hooks_is_called_once():
    class Mine(torch.optim.SGD):
        pass

    for make in (Mine, torch.optim.SGD):
        net, x, y = batch_and_net()
        base, calls = make(net.parameters(), lr=0.01), []
        base.register_step_pre_hook(lambda *_, calls=calls: calls.append(1))
        opt = flatmin.FlatOptimizer(base, flatmin.Plain(), gradient=ESTIMATORS["zeroth"], model=net)
        opt.step(lambda net=net, x=x, y=y: F.cross_entropy(net(x), y))
        assert len(calls) == 1


def peak(act):
    """The most bytes allocated on the CPU at a time while `act` runs, beyond those before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        act()
    events = profile.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()) if event.name() == "[memory]"]
    return max(np.cumsum(sizes))


def test_two_points_need_the_memory_of_inference():
    """And of three times the largest parameter: w + δ, the noise in it, and the part of the direction."""
    width, depth = 256, 12
    net = nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])
    x, y = torch.randn(4, width), torch.randint(width, (4,))
    layer = 4 * width * width
    opt = flatmin.FlatOptimizer(
        torch.optim.SGD(net.parameters(), lr=0.0), flatmin.Plain(), gradient=flatmin.ZerothOrder()
    )

    def closure():
        return F.cross_entropy(net(x), y)

    with torch.no_grad():
        inference = peak(closure)
    assert peak(lambda: opt.step(closure)) < inference + 3.5 * layer

    def loop():
        for probe in opt.probes():
            probe.backward(closure())

    assert peak(loop) > depth * layer  # p.grad holds the direction


def take(net, opt, x, y):
    for _ in range(2):
        opt.step(lambda: F.cross_entropy(net(x), y))


def test_a_checkpoint_goes_on_bit_for_bit():
    for name in ("multi-tangent", "hybrid"):
        net, x, y = batch_and_net()
        opt = optimizer(net, ESTIMATORS[name], flatmin.IVON(ess=100, beta2=0.9))
        take(net, opt, x, y)
        file = io.BytesIO()
        torch.save((net.state_dict(), opt.state_dict()), file)
        file.seek(0)
        other, *_ = batch_and_net()
        weights, state = torch.load(file, weights_only=True)
        other.load_state_dict(weights)
        second = optimizer(other, ESTIMATORS[name], flatmin.IVON(ess=100, beta2=0.9))
        second.load_state_dict(state)
        third = pickle.loads(pickle.dumps((net, opt)))
        for each in ((net, opt), (other, second), third):
            take(*each, x, y)
        for a, b, c in zip(net.parameters(), other.parameters(), third[0].parameters(), strict=True):
            assert torch.equal(a, b) and torch.equal(a, c)


class Odd(nn.Module):
    """Weights read in other ways than by their own module's forward."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.memory = nn.LSTM(8, 8, batch_first=True)
        self.scale = nn.Parameter(torch.ones(2, 4))

    def forward(self, x):
        h = self.words(x)
        h = self.memory(h + self.attention(h, h, h, need_weights=False)[0])[0]
        h = torch.cat([h[..., :4] * self.scale[0], h[..., 4:] * self.scale.T[:, 1]], -1)
        return F.linear(h.mean(1), weight=self.words.weight)


@pytest.mark.parametrize("name", ["forward", "zeroth"])
def test_weights_are_displaced_wherever_they_are_read(name):
    """Tied weights, a recurrent network, attention, views, keywords: as a displacement in memory gives."""
    torch.manual_seed(0)
    net, x, y = Odd().double(), torch.randint(11, (5, 7)), torch.randint(11, (5,))
    estimator = {"forward": ESTIMATORS["forward"], "zeroth": flatmin.ZerothOrder(directions=2, mu=1e-5)}[name]
    base = torch.optim.SGD(net.parameters(), lr=0.0)
    opt = flatmin.FlatOptimizer(base, flatmin.Plain(), gradient=estimator, seed=2)
    for probe in opt.probes():
        probe.backward(F.cross_entropy(net(x), y))
    found = [p.grad.clone() for p in net.parameters()]
    exact = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
    k = 3 if name == "forward" else 2
    w = Weights(Scope(list(net.parameters()), range(len(found))), list(net.parameters()), (2, 0))
    with torch.no_grad():
        tangents = [flat(w.randn(), w) for _ in range(k)]
    g = torch.cat([t.flatten() for t in exact])
    expected = sum((g @ v) * v for v in tangents) / k
    found = torch.cat([t.flatten() for t in found])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_a_network_writes_into_its_weights_stays_written():
    """A layer that keeps its weights positive does so in every pass, also where they are displaced when read."""
    weight = nn.Parameter(torch.tensor([-1.0, 2.0]))

    def closure():
        with torch.no_grad():
            weight.clamp_(min=0)
            weight[1] = 3.0
        weight.grad = None
        seen.append(torch.zeros(2).add_(weight).tolist())
        return (weight * torch.tensor([1.0, 5.0])).sum()

    seen = []
    opt = flatmin.FlatOptimizer(torch.optim.SGD([weight], lr=0.0), flatmin.Plain(), gradient=flatmin.ZerothOrder())
    opt.step(closure)
    assert weight.tolist() == [0.0, 3.0]
    assert len({tuple(values) for values in seen}) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_part_is_displaced_in_memory():
    """Its weights are seen by no function of torch. They come back bit for bit."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    scripted = copy.deepcopy(net)
    scripted[2] = torch.jit.trace(scripted[2], torch.zeros(1, 6))
    x, y = torch.randn(5, 4), torch.randint(3, (5,))
    for each in (net, scripted):
        opt = optimizer(each, flatmin.ZerothOrder(), flatmin.Plain())
        for _ in range(3):
            opt.step(lambda each=each: F.cross_entropy(each(x), y))
    for a, b in zip(net.parameters(), scripted.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    opt = optimizer(scripted, flatmin.ForwardGradient())
    with pytest.raises(
        RuntimeError, match=r"impossible because a part of it is TorchScript; write\s+gradient=flatmin.Zero"
    ):
        opt.step(lambda: F.cross_entropy(scripted(x), y))


def test_groups_that_are_not_perturbed_take_part_in_the_estimate():
    net, x, y = batch_and_net()
    groups = [
        {"params": list(net[0].parameters())},
        {"params": [*net[1].parameters(), *net[5].parameters()], "perturb": False},
    ]
    opt = flatmin.FlatOptimizer(torch.optim.SGD(groups, lr=0.1), flatmin.SAM(), gradient=ESTIMATORS["zeroth"])
    for probe in opt.probes():
        probe.backward(F.cross_entropy(net(x), y))
    assert all(p.grad is not None for p in net.parameters())


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: flatmin.ForwardGradient(tangents=0), "tangents must be >= 1, got 0"),
        (
            lambda: flatmin.ForwardGradient(distribution="cauchy"),
            "distribution must be one of 'gaussian', 'rademacher'",
        ),
        (lambda: flatmin.MultiTangent(aggregate="sum"), "aggregate must be one of 'orthogonal', 'mean', got 'sum'"),
        (lambda: flatmin.MultiTangent(aggregate="mean", scale="length"), "scale must be 'none' with aggregate='mean'"),
        (lambda: flatmin.MultiTangent(scale="big"), "scale must be one of 'none', 'length', 'unbiased', got 'big'"),
        (lambda: flatmin.ZerothOrder(mu=0), "mu must be > 0, got 0"),
        (lambda: flatmin.ZerothOrder(sides=3), "sides must be one of 1, 2, got 3"),
        (lambda: flatmin.HybridZerothOrder(0, 0), "directions and coordinates must not both be 0"),
        (lambda: flatmin.HybridZerothOrder(floor=0.0), r"floor must be in \(0, 1\], got 0.0"),
        (
            lambda: _opt(flatmin.ForwardGradient),
            "an estimator such as flatmin.ForwardGradient\\(\\), got the class Forw",
        ),
        (lambda: _opt(flatmin.SAM()), "gradient must be an estimator"),
        (lambda: _opt(flatmin.ZerothOrder(), ascent="per-worker"), 'write ascent="synchronised"'),
        (lambda: _opt(flatmin.ZerothOrder(), noise="per-worker"), 'write noise="shared"'),
        (lambda: _opt(flatmin.ZerothOrder(), scaler=torch.amp.GradScaler("cpu")), "leave scaler out"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def _opt(estimator, **options):
    weight = nn.Parameter(torch.ones(2))
    return flatmin.FlatOptimizer(torch.optim.SGD([weight], lr=0.1), flatmin.Plain(), gradient=estimator, **options)


@pytest.mark.parametrize(
    ("method", "estimator", "body", "message"),
    [
        (
            flatmin.Plain(),
            flatmin.ZerothOrder(),
            lambda p, loss: loss.backward(),
            r"Write probe.backward\(loss\) in the loop",
        ),
        (flatmin.Plain(), flatmin.ZerothOrder(), lambda p, loss: None, "needs the loss of probe 0, and was not told"),
        (
            flatmin.Plain(),
            flatmin.ForwardGradient(),
            lambda p, loss: p.backward(loss.detach()),
            "has no derivative along",
        ),
        (
            flatmin.TiltedUGD(),
            flatmin.ZerothOrder(),
            lambda p, loss: p.backward(loss),
            "write gradient=flatmin.ForwardG",
        ),
        (flatmin.FunctionalSAM(), flatmin.ZerothOrder(), lambda p, loss: p.backward(loss), "leave gradient out"),
    ],
)
def test_bodies_that_do_something_else_are_told_what_to_write(method, estimator, body, message):
    net, x, y = batch_and_net()
    opt = optimizer(net, estimator, method)

    def loop():
        for probe in opt.probes():
            body(probe, F.cross_entropy(net(x), y))

    with pytest.raises(RuntimeError, match=message):
        loop()
    assert torch.is_grad_enabled()


def test_a_closure_that_runs_backward_is_told_what_to_write():
    net, x, y = batch_and_net()
    opt = optimizer(net, flatmin.ZerothOrder())
    with pytest.raises(RuntimeError, match=r"in a closure return the loss without it"):
        opt.step(lambda: F.cross_entropy(net(x), y).backward())


def test_what_has_no_forward_derivative_is_named():
    net, x, y = batch_and_net()
    net[5] = nn.utils.parametrizations.weight_norm(net[5])
    opt = optimizer(net, flatmin.ForwardGradient())
    with pytest.raises(
        RuntimeError, match=r"no forward-mode derivative of _weight_norm.*\n*.*gradient=flatmin.ZerothOrder"
    ):
        opt.step(lambda: F.cross_entropy(net(x), y))
    optimizer(net, flatmin.ZerothOrder()).step(lambda: F.cross_entropy(net(x), y))


def test_some_groups_that_maximize_are_refused():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    base = torch.optim.SGD([{"params": [a]}, {"params": [b], "maximize": True}], lr=0.1)
    opt = flatmin.FlatOptimizer(base, flatmin.Plain(), gradient=flatmin.ZerothOrder())
    with pytest.raises(ValueError, match="maximize must be the same in all parameter groups"):
        opt.step(lambda: (a * b).sum())


def test_a_loss_that_reads_no_weight_is_refused():
    opt = _opt(flatmin.ZerothOrder())
    with pytest.raises(RuntimeError, match="read no parameter of the optimizer"):
        opt.step(lambda: torch.ones(()))


def test_a_left_loop_leaves_no_mode_behind():
    net, x, y = batch_and_net()
    opt = optimizer(net, flatmin.ForwardGradient())
    for _ in opt.probes():
        assert not torch.is_grad_enabled()
        break
    assert torch.is_grad_enabled()
    stack = torch.overrides._get_current_function_mode_stack()
    assert not any(isinstance(mode, DisplacedReads) for mode in stack)
    opt.step(lambda: F.cross_entropy(net(x), y))


def test_complex_weights_are_refused():
    weight = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    opt = flatmin.FlatOptimizer(torch.optim.SGD([weight], lr=0.1), flatmin.Plain(), gradient=flatmin.ForwardGradient())
    with pytest.raises(TypeError, match="real parameters only"):
        opt.step(lambda: weight.abs().sum())

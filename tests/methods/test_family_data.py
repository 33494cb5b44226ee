"""Noise at several points, chosen and weighed examples, steps that read the loss: twins, promises, equalities."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

import flatmin
from flatmin.engine.probe import Probe
from flatmin.protocol import Ask, Gradient
from flatmin.testing import Problem as Regression
from flatmin.testing.problem import backward
from flatmin.vectors.blocks import Scope
from flatmin.vectors.expression import NotYetKnown
from reference import Problem, join, norm
from support.side_by_side import EXACT, HYPER, TWINS, assert_same_run, library, twin

COUNTS = (3, 2, 1)  # of Problem's labels
CASES = [
    (flatmin.AdaptiveRandomNoise, {}),
    (flatmin.AdaptiveRandomNoise, {"sigma": 0.1, "eta": 2.0, "beta": 0.5, "power": 0.5}),
    (flatmin.AdaptiveRandomNoise, {"sigma": 0.1, "eta": 0.0}),
    (flatmin.MixedRandomNoise, {}),
    (flatmin.MixedRandomNoise, {"sigma": 0.1, "lam": 0.3}),
    (flatmin.MixedRandomNoise, {"sigma": 0.1, "eta": 0.7, "lam": 0.8, "halves": False}),
    (flatmin.TiltedSAM, {}),
    (flatmin.TiltedSAM, {"tilt": 20.0, "radius": 0.4, "n": 4}),
    (flatmin.TiltedSAM, {"n": 2, "rho": 0.3}),
    (flatmin.EntropySGD, {}),
    (flatmin.EntropySGD, {"steps": 3, "gamma": 2.0, "scoping": 0.3, "noise": 0.1, "alpha": 0.4, "inner_lr": 0.2}),
    (flatmin.ESAM, {}),
    (flatmin.ESAM, {"rho": 0.5, "gamma": 0.3, "per": "element"}),
    (flatmin.ESAM, {"rho": 0.5, "beta": 1.0}),
    (flatmin.ESAM, {"rho": 0.5, "gamma": 1.0}),
    (flatmin.KSAM, {}),
    (flatmin.KSAM, {"rho": 0.5, "share": 0.3}),
    (flatmin.FocalSAM, {"counts": COUNTS}),
    (flatmin.FocalSAM, {"counts": COUNTS, "rho": 0.5, "gamma": 1.0, "lam": 0.9}),
    (flatmin.ImbSAM, {"counts": COUNTS, "rho": 0.5, "rare": 3}),
    (flatmin.PolyakStep, {}),
    (flatmin.PolyakStep, {"target": 2.0, "cap": 0.1}),
]


@pytest.mark.parametrize(("method", "hyper"), CASES, ids=str)
def test_library_equals_twin(method, hyper):
    step = partial(TWINS[method.__name__], **hyper)
    assert_same_run(library(method(**hyper), **HYPER), twin(step, **HYPER))


def assert_same_weights(method, other):
    for left, right in zip(library(method, **HYPER), library(other, **HYPER), strict=True):
        np.testing.assert_array_equal(left.after, right.after)


@pytest.mark.parametrize(
    "method",
    [
        flatmin.AdaptiveRandomNoise(sigma=0.0),
        flatmin.MixedRandomNoise(sigma=0.2, lam=0.0, halves=False),
        flatmin.TiltedSAM(radius=0.0, n=1),
        flatmin.FocalSAM(COUNTS, lam=0.0),
        flatmin.ImbSAM(COUNTS, rare=0),
    ],
    ids=repr,
)
def test_what_is_the_base(method):
    assert_same_weights(method, flatmin.Plain())


@pytest.mark.parametrize(
    "method",
    [
        flatmin.ESAM(rho=0.3, beta=1.0, gamma=1.0),
        flatmin.KSAM(rho=0.3, share=1.0),
        flatmin.FocalSAM(COUNTS, rho=0.3, gamma=0.0, lam=1.0),
        flatmin.ImbSAM(COUNTS, rho=0.3, rare=4),
    ],
    ids=repr,
)
def test_what_is_sam(method):
    assert_same_weights(method, flatmin.SAM(rho=0.3))


# -- random weight perturbation ----------------------------------------------------------------------------------------


def test_noise_is_as_large_as_its_filter():
    small, large = Problem(), Problem()
    large.start = (3 * small.start[0], *small.start[1:])
    shares = []
    for problem in (small, large):
        (step,) = library(flatmin.AdaptiveRandomNoise(sigma=0.1), steps=1, problem=problem)
        kernel = step.deltas[0][:48].reshape(4, 12)
        shares.append(kernel / np.linalg.norm(problem.start[0].reshape(4, 12), axis=1, keepdims=True))
    np.testing.assert_allclose(*shares, **EXACT)
    assert np.std(shares[0]) == pytest.approx(0.1, rel=0.3)


def test_past_gradients_shrink_the_noise():
    still = {"lr": 0.0, "steps": 4}
    plain = library(flatmin.AdaptiveRandomNoise(eta=0.0), **still)
    adaptive = library(flatmin.AdaptiveRandomNoise(eta=1.0), **still)
    np.testing.assert_allclose(adaptive[0].deltas, plain[0].deltas, **EXACT)
    for before, now in zip(plain[1:], adaptive[1:], strict=True):
        assert (np.abs(now.deltas[0]) < np.abs(before.deltas[0])).all()


def test_the_perturbed_share_of_one_is_random_weight_perturbation():
    mixed = flatmin.MixedRandomNoise(sigma=0.2, lam=1.0, halves=False)
    assert_same_weights(mixed, flatmin.AdaptiveRandomNoise(sigma=0.2, eta=0.0))


def test_half_a_batch_of_one_is_refused():
    problem = Regression()
    opt = problem.optimizer(flatmin.MixedRandomNoise())
    for probe in opt.probes():
        with pytest.raises(ValueError, match=r"write DataLoader\(..., drop_last=True\)"):
            probe.backward(problem.losses()[:1][probe.rows])
        break


# -- tilted ------------------------------------------------------------------------------------------------------------


def test_every_point_is_on_the_sphere():
    for step in library(flatmin.TiltedSAM(radius=0.7, n=4), **HYPER):
        assert [norm(delta) for delta in step.deltas] == pytest.approx([0.7] * 4)


@pytest.mark.parametrize("tilt", [0.0, 1e6])
def test_no_tilt_is_the_mean_and_much_is_the_worst_point(tilt):
    problem = Problem()
    (step,) = library(flatmin.TiltedSAM(radius=2.0, tilt=tilt), steps=1, problem=problem)
    points = [[part.reshape(t.shape) for part, t in zip(_parts(p), problem.start, strict=True)] for p in step.points]
    gradients = [join(problem.grad(w)) / 6 for w in points]
    worst = max(range(3), key=lambda i: problem.loss(points[i]))
    expected = gradients[worst] if tilt else np.mean(gradients, axis=0)
    np.testing.assert_allclose(step.u, expected, **EXACT)


def _parts(point):
    return np.split(point, [48, 68])


# -- entropy -----------------------------------------------------------------------------------------------------------


def test_one_inner_step_without_noise_is_the_base():
    method = flatmin.EntropySGD(steps=1, alpha=0.0, noise=0.0, gamma=5.0)
    for left, right in zip(library(method, **HYPER), library(flatmin.Plain(), **HYPER), strict=True):
        np.testing.assert_allclose(left.after, right.after, **EXACT)


def test_the_ports_outer_step_ends_at_the_mean():
    method = flatmin.EntropySGD(steps=2, alpha=0.0, noise=0.0, gamma=0.0, inner_lr=0.3)
    plain = library(flatmin.Plain(), steps=2, lr=0.3)
    (step,) = library(method, steps=1, lr=0.3)
    np.testing.assert_allclose(step.after, plain[1].after, **EXACT)


# -- chosen examples ---------------------------------------------------------------------------------------------------


def test_a_tensor_is_perturbed_by_more_or_not_at_all():
    seen = set()
    for step in library(flatmin.ESAM(rho=0.3, beta=0.5, gamma=1.0), **HYPER):
        (sam,) = library(flatmin.SAM(rho=0.3), steps=1, problem=_problem_at(step.before))
        for ours, theirs in zip(_parts(step.deltas[1]), _parts(sam.deltas[1]), strict=True):
            kept = bool(ours.any())
            np.testing.assert_allclose(ours, 2 * theirs if kept else 0 * theirs, **EXACT)
            seen.add(kept)
    assert seen == {True, False}


def _problem_at(point):
    problem = Problem()
    problem.start = tuple(part.reshape(t.shape) for part, t in zip(_parts(point), problem.start, strict=True))
    return problem


@pytest.mark.parametrize(
    ("method", "cost"),
    [
        (flatmin.ESAM(), 1 + 1 / 3 + 1 / 2),
        (flatmin.ESAM(gamma=1.0), 2),
        (flatmin.KSAM(), 1 / 3 + 2 * 1 / 2),
        (flatmin.MixedRandomNoise(), 1),
        (flatmin.MixedRandomNoise(halves=False), 2),
        (flatmin.FocalSAM(COUNTS), 3),
    ],
    ids=repr,
)
def test_cost_is_counted_in_passes_over_the_batch(method, cost):
    problem, spent = Regression(), 0.0
    opt = problem.optimizer(method)
    for probe in opt.probes():
        spent += probe.cost * len(problem.x[probe.rows]) / len(problem.x)
        problem.answer(opt, probe)
    assert spent == pytest.approx(cost)
    for name in ("esam", "k-sam", "m-rwp"):
        entry = flatmin.registry.lookup(name)
        if entry.make() == method:
            assert entry.gradients == pytest.approx(cost, abs=0.005)


def test_the_examples_are_those_whose_loss_rises_most():
    problem = Regression()
    opt = problem.optimizer(flatmin.ESAM(rho=1.0, beta=1.0, gamma=0.25))
    losses = []
    for probe in opt.probes():
        if probe == 2:
            rise = losses[1] - losses[0]
            assert sorted(rise.argsort()[-4:].tolist()) == probe.rows.tolist()
        losses.append(problem.losses().detach())
        problem.answer(opt, probe)
    assert len(losses) == 3


@pytest.mark.parametrize("method", [flatmin.ESAM(), flatmin.KSAM(), flatmin.FocalSAM((6, 5, 5))], ids=repr)
def test_a_loss_scale_changes_no_step(method):
    plain, scaled = Regression(torch.float64), Regression(torch.float64)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    opt, other = plain.optimizer(method), scaled.optimizer(method)
    other.scaler = scaler
    for _ in range(3):
        plain.step(opt)
        for probe in other.probes():
            scaled.answer(other, probe)
        scaler.step(other)
        scaler.update()
    for a, b in zip(scaled.snapshot(), plain.snapshot(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", [flatmin.ESAM(), flatmin.KSAM(), flatmin.FocalSAM(COUNTS)], ids=repr)
def test_a_mean_loss_and_a_plain_backward_pass_are_refused(method):
    problem = Regression()
    opt = problem.optimizer(method)
    with pytest.raises(ValueError, match=r'reduction="none"'):
        next(opt.probes()).backward(problem.losses().mean())
    loop = opt.probes()
    backward(problem.losses(next(loop).rows).mean())
    with pytest.raises(RuntimeError, match=r"probe.backward\(losses, labels"):
        next(loop)


# -- weighed examples --------------------------------------------------------------------------------------------------


def test_classes_of_one_size_mix_sam_with_the_base():
    @dataclass(frozen=True)
    class Mixture:
        lam: float

        def direction(self, w, memory):
            g = yield
            return (1 - self.lam) * g + self.lam * (yield 0.3 * g.unit())

    focal = flatmin.FocalSAM((2, 2, 2), rho=0.3, gamma=1.0, lam=0.6)
    for left, right in zip(library(focal, **HYPER), library(Mixture(0.6 * 2 / 3), **HYPER), strict=True):
        np.testing.assert_allclose(left.after, right.after, **EXACT)


def test_labels_are_asked_for():
    opt = flatmin.FlatOptimizer(torch.optim.SGD([p := torch.ones(3, requires_grad=True)], lr=0.1), flatmin.ImbSAM((1,)))
    for probe in opt.probes():
        with pytest.raises(ValueError, match=r"write probe.backward\(losses, labels=y\[probe.rows\]\)"):
            probe.backward(p**2)
        break


def test_counts_must_be_given():
    with pytest.raises(TypeError, match="counts"):
        flatmin.FocalSAM()


# -- the loss ----------------------------------------------------------------------------------------------------------


def bowl(method, a=1.0, lr=1.0, steps=3):
    """The way from (3, −4) down ½a‖x‖²."""
    x = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
    opt = flatmin.FlatOptimizer(torch.optim.SGD([x], lr=lr), method)
    lengths = []
    for _ in range(steps):
        for probe in opt.probes():
            probe.backward(0.5 * a * x.square().sum())
        opt.step()
        lengths.append(x.norm().item())
    return lengths


@pytest.mark.parametrize("a", [0.1, 1.0, 100.0])
def test_polyak_halves_the_distance_whatever_the_scale(a):
    assert bowl(flatmin.PolyakStep(cap=100.0), a) == pytest.approx([2.5, 1.25, 0.625])


def test_the_learning_rate_is_a_share_of_the_loss():
    assert bowl(flatmin.PolyakStep(), lr=0.2, steps=1) == pytest.approx([4.5])


def test_no_step_below_the_target_and_none_longer_than_the_cap():
    assert bowl(flatmin.PolyakStep(target=13.0)) == [5.0] * 3
    assert bowl(flatmin.PolyakStep(cap=0.1), steps=1) == pytest.approx([4.5])


@pytest.mark.parametrize("method", [flatmin.PolyakStep(), flatmin.TiltedSAM()], ids=repr)
def test_a_loop_that_does_not_tell_the_loss_is_refused(method):
    problem = Regression()
    opt = problem.optimizer(method)

    def train():
        for _ in opt.probes():
            backward(problem.loss())

    with pytest.raises(RuntimeError, match=r"call probe.backward\(losses\) in the loop"):
        train()


# -- what they ask for -------------------------------------------------------------------------------------------------


def test_rows_may_be_known_when_the_probe_begins():
    chosen = torch.tensor([2, 0])
    assert Probe(0, Ask(rows=lambda: chosen)).rows is chosen


def test_losses_outlive_the_gradient_they_came_with():
    params, losses = [torch.ones(2)], torch.ones(3)
    g = Gradient(Scope(params, range(1)))
    with pytest.raises(NotYetKnown):
        g.losses  # noqa: B018  # a property
    g.report(losses, None)
    g.values = None  # its memory is the copy of the weights now
    assert g.losses is losses


def test_esam_refuses_losses_of_other_examples_in_its_second_probe():
    w = torch.ones(3, requires_grad=True)
    x = torch.arange(12.0).view(4, 3)
    opt = flatmin.FlatOptimizer(torch.optim.SGD([w], lr=0.1), flatmin.ESAM(beta=1.0))
    message = r"got 8 losses in probe 0 and 4 in probe 1; call probe.backward\(losses\) once in every probe"
    calls = iter((2, 1, 1))

    def loop():
        for probe in opt.probes():
            for _ in range(next(calls)):
                probe.backward((x[probe.rows] @ w).square())

    with pytest.raises(ValueError, match=message):
        loop()

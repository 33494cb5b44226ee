"""`TiltedUGD`: its twin along a schedule, what it is a gradient of, and what it forgets."""

from functools import partial

import numpy as np
import torch

import flatmin
from reference import Problem, twin_of
from support.side_by_side import HYPER, assert_same_run, library, losses_of, outputs_of, twin

#: A warm-up, a rise and a fall to zero.
RATES = [0.01, 0.04, 0.05, 0.03, 0.005, 0.0]


def scheduled(method, rates=RATES, **options):
    def set_lr(opt, t):
        opt.param_groups[0]["lr"] = rates[t]

    return library(method, before_step=set_lr, steps=len(rates), momentum=0.9, **options)


def test_library_equals_twin_along_a_schedule():
    ours = scheduled(flatmin.TiltedUGD(tilt=2.0))
    assert_same_run(ours, twin(partial(twin_of("tilted-ugd"), tilt=2.0), rates=RATES, momentum=0.9))
    plain = scheduled(flatmin.UGD())
    same = [np.array_equal(left.u, right.u) for left, right in zip(ours, plain, strict=True)]
    assert same == [True, True, True, False, False, False]  # the tilt begins where the rate falls


def test_at_a_constant_rate_it_is_ugd():
    ours, plain = library(flatmin.TiltedUGD(tilt=9.0), **HYPER), library(flatmin.UGD(), **HYPER)
    for left, right in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(left.after, right.after)


def test_the_direction_is_the_unit_gradient_of_the_tilted_mean():
    """The gradient of -(1/t) log mean exp(-t losses), by autograd."""
    rates, tilt = [0.05, 0.02], 3.0
    step = scheduled(flatmin.TiltedUGD(tilt), rates)[-1]
    problem, t = Problem(), tilt * (1 - 0.02 / 0.05)
    sizes = [np.prod(shape) for shape in problem.shapes]
    parts = np.split(step.before, np.cumsum(sizes)[:-1])
    params = [torch.tensor(p.reshape(s), requires_grad=True) for p, s in zip(parts, problem.shapes, strict=True)]
    losses = losses_of(problem, outputs_of(problem, params))
    torch.autograd.backward(-torch.logsumexp(-t * losses, 0) / t)
    g = np.concatenate([p.grad.numpy().ravel() for p in params])
    np.testing.assert_allclose(step.u, g / np.linalg.norm(g), rtol=1e-6, atol=1e-8)


def test_late_in_the_schedule_an_example_of_large_loss_has_no_influence():
    def direction(method, target):
        problem = Problem()
        problem.y[0] = target
        return scheduled(method, [1e-9, 0.0], problem=problem)[-1].u

    method = flatmin.TiltedUGD(tilt=20.0)
    np.testing.assert_allclose(direction(method, 50.0), direction(method, -80.0), atol=1e-12)
    assert not np.allclose(direction(flatmin.UGD(), 50.0), direction(flatmin.UGD(), -80.0), atol=0.1)

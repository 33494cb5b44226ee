"""The library and a twin with memory, side by side: same points visited, same weights, step after step."""

from dataclasses import dataclass

import numpy as np
import torch

import flatmin
from flatmin.registry import METHODS
from flatmin.vectors.blocks import Scope
from flatmin.vectors.expression import pieces
from flatmin.vectors.weights import BaseState, Weights
from reference import Oracle, Problem, join, sgd, twin_of

EXACT = {"rtol": 1e-11, "atol": 1e-11}  # float64, a few steps
HYPER = {"steps": 6, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
SEED = 5
#: Class of a method -> its twin; where several entries make one class, that of the class itself.
TWINS = {
    type(entry.make()).__name__: twin_of(name)
    for name, entry in sorted(METHODS.items(), key=lambda item: isinstance(item[1].make, type))
}


@dataclass
class Step:
    """Where one step started, where the method looked, where it ended, and the direction that the base got."""

    before: np.ndarray
    points: list
    after: np.ndarray
    u: np.ndarray

    @property
    def deltas(self):
        return [point - self.before for point in self.points]


def outputs_of(problem, params):
    """What the network of `Problem` computes, in torch."""
    kernel, matrix, bias = params
    return torch.tanh(torch.tensor(problem.x) @ kernel.reshape(4, 12).T) @ matrix.T + bias


def losses_of(problem, outputs):
    """`Problem.losses` in torch."""
    return torch.log(torch.cosh(outputs - torch.tensor(problem.y))).sum(1)


def library(method, steps=6, lr=0.05, problem=None, base=torch.optim.SGD, before_step=None, **hyper):
    """Some steps of a method on the mean loss of `Problem`, by the loop over probes."""
    problem = problem or Problem()
    params = [torch.tensor(t, requires_grad=True) for t in problem.start]
    opt = flatmin.FlatOptimizer(base(params, lr=lr, **hyper), method, seed=SEED)
    labels, log = torch.tensor(problem.labels), []

    def where():
        return join([p.detach().numpy() for p in params])

    for t in range(steps):
        if before_step is not None:
            before_step(opt, t)
        before, points = where(), []
        for probe in opt.probes():
            points.append(where())
            outputs = outputs_of(problem, params)
            losses = losses_of(problem, outputs)
            probe.backward(losses[probe.rows], labels=labels[probe.rows], outputs=outputs)
        u = join([np.zeros(p.shape) if p.grad is None else p.grad.numpy() for p in params])
        opt.step()
        log.append(Step(before, points, where(), u))
    return log


def twin(step, steps=6, lr=0.05, problem=None, momentum=0.0, weight_decay=0.0, rates=None, **hyper):
    """The same for a twin `step(w, see, memory, **hyper)`, on SGD; `rates` are learning rates by step."""
    problem = problem or Problem()
    w, velocity, memory, log = [np.array(t) for t in problem.start], None, {}, []
    for t in range(steps):
        rate = lr if rates is None else rates[t]
        draws = Draws(w, t)
        see = Oracle(problem, velocity if momentum else None, rate, draws.noise, draws.coin)
        u = step(w, see, memory, **hyper)
        u, bypass = u if isinstance(u, tuple) else (u, None)
        before = w
        w, velocity = sgd(w, u, velocity, rate, momentum, weight_decay)
        if bypass is not None:
            w = [x - rate * v for x, v in zip(w, bypass, strict=True)]
        log.append(Step(join(before), [join(p) for p in see.points], join(w), join(u)))
    return log


class Draws:
    """The library's own random numbers of one step, for a twin: they are tested elsewhere."""

    def __init__(self, like, step):
        params = [torch.tensor(t) for t in like]
        self._scope = Scope(params, range(len(params)))
        base = BaseState(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 0)
        self._w = Weights(self._scope, params, (SEED, step), base)

    def noise(self, kind, *args):
        vec = getattr(self._w, kind)(*args)
        if kind == "uniform":
            return vec
        found = [None] * len(self._scope.params)
        for block, piece in pieces(vec, self._scope):
            for i, tensor in zip(block.indices, piece.tensors, strict=True):
                found[i] = tensor.numpy().copy()
        return found

    def coin(self, p):
        return self._w.coin(p)


def assert_same_run(ours, theirs):
    """Every point and every weight."""
    for t, (left, right) in enumerate(zip(ours, theirs, strict=True)):
        assert len(left.points) == len(right.points), f"step {t}"
        np.testing.assert_allclose(left.points, right.points, **EXACT, err_msg=f"points of step {t}")
        np.testing.assert_allclose(left.after, right.after, **EXACT, err_msg=f"after step {t}")

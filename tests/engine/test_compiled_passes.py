"""Compiled passes over the weights: the same steps, the same promises, and nothing compiled twice."""

import copy
import os
import signal
from functools import partial

import pytest
import torch

import flatmin
from flatmin.registry import METHODS
from flatmin.testing import CHECKS, Problem
from flatmin.vectors.compiled import Compiler
from support.common import every_method

# The compiler makes torch import a module that uses it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

#: Passes that were traced by any of these tests. Not compiled: a trace runs as it is, in milliseconds.
TRACED = {}


def traced(graph, inputs):
    return graph


@pytest.fixture
def compiling(monkeypatch):
    """Every optimizer compiles its passes; tracing stands in for the compiler."""
    monkeypatch.setattr("flatmin.engine.optimizer.Compiler", partial(Compiler, traced, TRACED))
    monkeypatch.setitem(flatmin.FlatOptimizer.__init__.__kwdefaults__, "compile", True)


#: The other methods are made of the same expressions, and take the same steps: see below. `make contract` takes all.
KEPT = {"sam", "pugd", "msam", "looksam", "s-sgd", "gsam"}
METHODS_KEPT = [case for case in every_method() if case.id in KEPT or os.environ.get("FLATMIN_EVERY_METHOD")]


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("method", METHODS_KEPT)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_promise(check, method):
    check(method)


def stepped(method, steps=3, dtype=torch.float64, **options):
    """The weights after some steps, and the optimizer."""
    problem = Problem(dtype)
    base = torch.optim.SGD(problem.weights.parameters(), lr=0.05, momentum=0.9)
    opt = flatmin.FlatOptimizer(base, method, seed=1, **options)
    for _ in range(steps):
        opt.step(problem.closure(opt))
    return problem.snapshot(), opt


@pytest.mark.parametrize("method", [case for case in every_method(per_example=False) if case.id in METHODS])
def test_a_compiled_step_is_the_same_step(method, monkeypatch):
    monkeypatch.setattr("flatmin.engine.optimizer.Compiler", partial(Compiler, traced, TRACED))
    plain, compiled = stepped(method), stepped(method, compile=True)
    for a, b in zip(plain[0], compiled[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "estimator", [flatmin.ZerothOrder(3), flatmin.ForwardGradient(2), flatmin.MultiTangent(2)], ids=repr
)
@pytest.mark.parametrize("method", [flatmin.Plain(), flatmin.SAM(), flatmin.PUGD()], ids=repr)
def test_estimates_are_evaluated_as_without_the_compiler(method, estimator, monkeypatch):
    monkeypatch.setattr("flatmin.engine.optimizer.Compiler", partial(Compiler, traced, TRACED))
    plain, compiled = (stepped(method, gradient=estimator, compile=on) for on in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain[0], compiled[0], strict=True)) and not passes(compiled[1])


def passes(opt):
    """The names of what was compiled."""
    found = {key[0].__name__ for key in opt._compiler._own if opt._compiler._passes[key].function is not None}
    return {name.removeprefix("_compiled").strip("_") for name in found}


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (flatmin.SAM(), {"squares", "displace"}),
        (flatmin.PUGD(), {"squares", "displace", "assign"}),
        (flatmin.UGD(), {"squares", "assign"}),
        (flatmin.GSAM(), {"squares", "displace", "assign", "product"}),
        (flatmin.RandomNoise(), set()),  # noise is drawn block by block
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_compiled(method, expected):
    assert passes(stepped(method)[1]) == expected


@pytest.mark.usefixtures("compiling")
def test_nothing_is_compiled_anew_when_numbers_change():
    problem = Problem(torch.float64)
    base = torch.optim.SGD(problem.weights.parameters(), lr=0.05, momentum=0.9)
    opt = flatmin.FlatOptimizer(base, flatmin.GSAM(0.1), seed=1)
    opt.step(problem.closure(opt))
    before = len(opt._compiler._own)
    for step in range(3):
        opt.method = flatmin.GSAM(0.2 + step, alpha=0.3 + step)
        base.param_groups[0]["lr"] = 0.01 * step
        opt.step(problem.closure(opt))
    assert len(opt._compiler._own) == before > 0


@pytest.mark.usefixtures("compiling")
def test_another_constant_in_a_method_s_own_function_is_another_pass():
    def powered(power):
        class Powered:
            def direction(self, w, memory):
                g = yield
                return g.elementwise(lambda t: t**power)

        return Powered()

    square, cube = stepped(powered(2), steps=1), stepped(powered(3), steps=1)
    expected = stepped(powered(3), steps=1, compile=False)
    assert passes(square[1]) == passes(cube[1]) == {"assign"}
    assert square[1]._compiler._own != cube[1]._compiler._own
    for a, b in zip(cube[0], expected[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("compiling")
def test_weights_that_share_memory_are_not_compiled():
    """Two parameters in one storage: a pass could read what it has written already."""
    memory = torch.arange(6.0)
    params = [torch.nn.Parameter(memory[:4].view(2, 2)), torch.nn.Parameter(memory[4:])]
    opt = flatmin.FlatOptimizer(torch.optim.SGD(params, lr=0.1), flatmin.SAM())
    for _ in opt.probes():
        sum(p.square().sum() for p in params).backward()
    opt.step()
    assert "displace" not in passes(opt)


def test_an_interrupt_waits_for_the_end_of_a_pass(monkeypatch):
    """Ctrl-C in the middle of a move: the weights return, all of them."""
    arrived = []

    def interrupted(graph, inputs):
        def run(*values):
            if any("copy" in str(node.target) for node in graph.graph.nodes):
                os.kill(os.getpid(), signal.SIGINT)
                arrived.append(graph(*values))
            else:
                return graph(*values)

        return run

    monkeypatch.setattr("flatmin.engine.optimizer.Compiler", partial(Compiler, interrupted, {}))
    problem = Problem(torch.float64)
    base = torch.optim.SGD(problem.weights.parameters(), lr=0.05)
    opt = flatmin.FlatOptimizer(base, flatmin.SAM(0.1), compile=True)
    before = [t.clone() for t in problem.snapshot()]
    with pytest.raises(KeyboardInterrupt):
        opt.step(problem.closure(opt))
    assert all(torch.equal(a, b) for a, b in zip(before, problem.snapshot(), strict=True))
    assert arrived == [None], "the pass ran to its end"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_compiler_nothing_is_lost(monkeypatch, caplog):
    def missing(graph, inputs):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr("flatmin.engine.optimizer.Compiler", partial(Compiler, missing, {}))
    plain, compiled = stepped(flatmin.PUGD()), stepped(flatmin.PUGD(), compile=True)
    assert all(torch.equal(a, b) for a, b in zip(plain[0], compiled[0], strict=True))
    assert {record.message for record in caplog.records if record.name == "flatmin"} == {
        "torch could not compile a pass over the weights, which runs uncompiled: RuntimeError: no C++ compiler found"
    }


def test_torch_compiles_the_passes_of_sam():
    """Once with torch's own compiler, in single precision; it keeps what it compiled on disk."""
    plain, compiled = (stepped(flatmin.SAM(), dtype=torch.float32, compile=on) for on in (False, True))
    assert passes(compiled[1]) == {"squares", "displace"}
    for a, b in zip(plain[0], compiled[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    again = copy.deepcopy(compiled[1])
    assert again.compile and again._compiler._own == set()

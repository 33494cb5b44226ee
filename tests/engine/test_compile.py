"""torch.compile: a compiled model trains the same, and no probe or step compiles it anew."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import flatmin
from flatmin.engine.perturbation import Perturbation
from flatmin.engine.state import freeze
from flatmin.testing import Problem
from flatmin.vectors.blocks import Scope
from flatmin.vectors.vector import Tensors
from support.common import closure_of, small_net

# The first compiled optimizer makes torch import a module that uses it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _nothing_compiled_yet():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def train(method, form, batch, steps, backend=None):
    """Weights and running statistics after each step; the model is compiled by `backend`, if one is given."""
    net = small_net()
    run = net if backend is None else torch.compile(net, backend=backend)
    opt = flatmin.FlatOptimizer(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), method, model=net)
    for _ in range(steps):
        if form == "closure":
            opt.step(closure_of(run, opt, batch))
        else:
            for _ in opt.probes():
                nn.functional.cross_entropy(run(batch[0]), batch[1]).backward()
            opt.step()
        yield [t.clone() for t in net.state_dict().values()]


@pytest.mark.parametrize("form", ["closure", "loop"])
@pytest.mark.parametrize("method", [flatmin.PUGD(), flatmin.SAM(0.1)], ids=["pugd", "sam"])
def test_a_compiled_model_trains_the_same_and_is_compiled_once(method, form, batch):
    backend = CompileCounterWithBackend("aot_eager")
    compiled = train(method, form, batch, 6, backend)
    for step, (a, b) in enumerate(zip(compiled, train(method, form, batch, 6), strict=True)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert backend.frame_count == 1, f"step {step} compiled the model again"


def test_a_compiled_part_before_the_head_runs_once_and_a_compiled_whole_twice(batch):
    """HeadSAM: the same weights. A graph would need to be traced again, if `forward` were replaced inside of it."""
    for whole in (True, False):
        backend = CompileCounterWithBackend("aot_eager")
        plain = nn.Sequential(small_net()[:5], small_net()[5])
        net = copy.deepcopy(plain)
        if whole:
            net = torch.compile(net, backend=backend)
        else:
            net[0] = torch.compile(net[0], backend=backend)
        costs = []
        for model in (plain, net):
            opt = flatmin.FlatOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), flatmin.HeadSAM(), model=model)
            with pytest.warns(match="compiled as a whole") if whole and model is net else nullcontext():
                for _ in range(3):
                    costs.append(0.0)
                    for probe in opt.probes():
                        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
                        costs[-1] += probe.cost
                    opt.step()
        torch.testing.assert_close(list(net.state_dict().values()), list(plain.state_dict().values()))
        assert backend.frame_count == 1
        assert costs[3:] == ([2.0] * 3 if whole else costs[:3])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler looks at it
def test_a_compiled_training_step_trains_the_same(batch):
    """Backward passes and the way there and back break its graph, but nothing else."""
    net = small_net()
    opt = flatmin.FlatOptimizer(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), flatmin.PUGD(), model=net)

    @torch.compile(backend="aot_eager")
    def step():
        for _ in opt.probes():
            nn.functional.cross_entropy(net(batch[0]), batch[1]).backward()
        return opt.step()

    for expected in train(flatmin.PUGD(), "loop", batch, 3):
        step()
        torch.testing.assert_close(list(net.state_dict().values()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW], ids=lambda base: base.__name__)
def test_a_compiled_base_takes_the_same_steps_and_is_compiled_once(base):
    expected, problem = Problem(), Problem()
    eager = expected.optimizer(flatmin.PUGD(), base=base)
    opt = problem.optimizer(flatmin.PUGD(), base=base, lr=torch.tensor(0.01))  # a float would be compiled in
    backend = CompileCounterWithBackend("aot_eager")
    opt.base.step = torch.compile(opt.base.step, backend=backend)
    counts = []
    for _ in range(6):
        for a, b in zip(problem.train(opt, 1), expected.train(eager, 1), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        counts.append(backend.frame_count)
    assert 0 < counts[1] == counts[-1], counts  # the first step makes the state


def test_an_expression_is_one_graph_where_its_numbers_stay_on_the_device():
    """On a CPU a norm becomes a float, which no graph holds; elsewhere it is a tensor. This is that path, on a CPU."""
    params = [torch.randn(4, 3), torch.randn(5)]
    g, g_star = ([torch.randn_like(p) for p in params] for _ in range(2))

    def direction(g, g_star):
        scope = Scope(params, range(2))
        scope.on_cpu = False
        u = (Tensors(scope, g) + Tensors(scope, g_star)).unit() + abs(Tensors(scope, g)).clip(0.1)
        return freeze({"u": u}, scope)["u"]

    compiled = torch.compile(direction, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(g, g_star), direction(g, g_star), strict=True):
        torch.testing.assert_close(a, b)


def test_an_excursion_is_one_graph_where_its_numbers_stay_on_the_device():
    params = [torch.randn(4, 3), torch.randn(5)]
    g = [torch.randn_like(p) for p in params]
    home = [p.clone() for p in params]

    def there_and_back(params, g):
        scope = Scope(params, range(2))
        scope.on_cpu = False
        perturbation = Perturbation()
        perturbation.apply(0.1 * Tensors(scope, g).unit(), scope, None, ())
        away = [p.clone() for p in params]
        perturbation.restore()
        return away

    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(params, g), there_and_back(params, g), strict=True):
        torch.testing.assert_close(a, b)
    assert all(torch.equal(p, old) for p, old in zip(params, home, strict=True))


@pytest.mark.parametrize("named", ["network", "compiled"])
def test_a_compiled_network_is_watched(named, batch):
    """Its first forward pass perturbs the weights, whichever of the two the optimizer was given."""

    def train(compiled):
        net = small_net()
        run = torch.compile(net, backend="eager", fullgraph=named == "compiled") if compiled else net
        base = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        model = run if named == "compiled" else net
        opt = flatmin.OneGradientOptimizer(base, flatmin.RandomNoise(), model=model, seed=1)
        for _ in range(4):
            nn.functional.cross_entropy(run(batch[0]), batch[1]).backward()
            opt.step()
            opt.zero_grad()
        return list(net.parameters())

    for a, b in zip(train(compiled=True), train(compiled=False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

"""FlatOptimizer: what the contract suite does not ask of every method."""

import gc
import weakref
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import flatmin
from flatmin.engine.rehearsal import Rehearsal
from flatmin.testing import Problem
from flatmin.vectors.blocks import Scope
from flatmin.vectors.weights import Weights
from support.common import closure_of, small_net

TWO_GRADIENTS = [flatmin.PUGD(), flatmin.SAM(0.1), flatmin.ASAM(), flatmin.SymmetricNoise()]
#: Methods with vectors in their memory, or in a part of the step past the base.
REMEMBERING = [
    flatmin.SAMPa(),
    flatmin.WSAM(),
    flatmin.AELookSAM(lambda_1=0.0, lambda_2=0.0),
    flatmin.VaSSO(rho=0.1, theta=0.5),
    flatmin.S2SAM(rho=0.1),
    flatmin.FisherSAM(rho=0.1, eta=10.0),
]


def sgd(params, **options):
    return torch.optim.SGD(params, **{"lr": 0.05, "momentum": 0.9, **options})


# -- foresight ---------------------------------------------------------------------------------------------------------


def rehearsed(method, memory=None):
    p = [nn.Parameter(torch.ones(3))]
    scope = Scope(p, [0])
    dialogue = Rehearsal(method, lambda: Weights(scope, p, (0, 0)), memory or {})
    return list(dialogue)


@pytest.mark.parametrize(
    ("method", "adds", "freed"),
    [
        (flatmin.PUGD(), [False, True], [0, 0]),
        (flatmin.SymmetricNoise(pairs=2), [False, True, True, True], [0, 0, 0, 0]),
        (flatmin.SAM(), [False, False], [0, 1]),
        (flatmin.ASAM(), [False, False], [0, 1]),
        (flatmin.ChannelDirected(flatmin.PUGD()), [False, True], [0, 0]),
        (flatmin.Every(flatmin.SAM(), k=2), [False, False], [0, 1]),
        (flatmin.UGD(), [False], [0]),
    ],
    ids=repr,
)
def test_rehearsal_finds_the_savings(method, adds, freed):
    probes = rehearsed(method)
    assert [probe.adds for probe in probes] == adds
    assert [len(probe.done) for probe in probes] == freed


@dataclass
class Mixture:
    weight: float

    def direction(self, w, memory):
        g = yield
        g_star = yield 0.1 * g.unit()
        return (1 - self.weight) * g + self.weight * g_star


@dataclass
class UsesBoth:
    def direction(self, w, memory):
        g = yield
        g_star = yield 0.1 * g.unit()
        memory["g"] = g
        return g + g_star


@dataclass
class AsksWithTheSecond:
    """A sum, but a later request needs one of its parts alone."""

    def direction(self, w, memory):
        a = yield
        b = yield 0.1 * a
        c = yield 0.1 * b
        return (a + b) + 2 * (a + b) + c


@pytest.mark.parametrize("method", [Mixture(0.7), UsesBoth(), AsksWithTheSecond()], ids=repr)
def test_gradients_that_are_used_apart_are_kept_apart(method):
    assert not any(probe.adds for probe in rehearsed(method))


@pytest.mark.parametrize("method", [Mixture(0.7), UsesBoth(), AsksWithTheSecond(), *TWO_GRADIENTS], ids=repr)
def test_foresight_changes_no_result(method, monkeypatch):
    seen, blind = Problem(torch.float64), Problem(torch.float64)
    expected = seen.train(seen.optimizer(method), 4)
    monkeypatch.setattr(Rehearsal, "_look_ahead", lambda self, probes: None)
    for a, b in zip(blind.train(blind.optimizer(method), 4), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_nothing_is_kept_between_steps():
    problem = Problem()
    opt = problem.optimizer(flatmin.PUGD())
    kept = []
    for k in opt.probes():
        problem.loss().backward()
        kept += [weakref.ref(p.grad) for p in problem.weights.values() if p.grad is not None and k == 0]
    opt.step()
    opt.zero_grad()
    gc.collect()
    assert kept
    assert all(ref() is None for ref in kept)


# -- zeroing gradients where they should add up ------------------------------------------------------------------------


def pugd_with(zero, problem, opt):
    def closure():
        zero()
        loss = problem.loss()
        loss.backward()
        return loss

    return opt.step(closure)


def test_every_usual_way_to_clear_gradients_gives_the_same_step():
    results = []
    for way in ("opt", "opt, in place", "module", "base", "nobody"):
        problem = Problem()
        opt = problem.optimizer(flatmin.PUGD())
        zero = {
            "opt": opt.zero_grad,
            "opt, in place": lambda opt=opt: opt.zero_grad(set_to_none=False),
            "module": problem.weights.zero_grad,
            "base": opt.base.zero_grad,
            "nobody": lambda: None,
        }[way]
        for _ in range(3):
            pugd_with(zero, problem, opt)
        results.append(problem.snapshot())
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_zeroing_in_place_behind_our_back_is_an_error():
    problem = Problem()
    opt = problem.optimizer(flatmin.PUGD())
    before = problem.snapshot()
    with pytest.raises(RuntimeError, match=r"probe 1 of PUGD.* zeroed in place .*write opt.zero_grad\(\)"):
        pugd_with(lambda: problem.weights.zero_grad(set_to_none=False), problem, opt)
    assert all(torch.equal(a, b) for a, b in zip(problem.snapshot(), before, strict=True))


# -- loops that end early ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", TWO_GRADIENTS, ids=repr)
def test_leaving_the_loop_restores_the_weights(method):
    problem = Problem()
    opt = problem.optimizer(method)
    before = problem.snapshot()
    for k in opt.probes():
        problem.loss().backward()
        if k == 1:
            break
    assert all(torch.equal(a, b) for a, b in zip(problem.snapshot(), before, strict=True))
    with pytest.raises(RuntimeError, match=r"step\(\) was called before the loop over opt.probes\(\) had ended"):
        opt.step()


def test_a_loop_that_somebody_still_holds_is_closed_by_the_next_step():
    problem, untouched = Problem(), Problem()
    opt = problem.optimizer(flatmin.PUGD())
    held = opt.probes()
    next(held)
    problem.loss().backward()
    next(held)
    assert any(not torch.equal(a, b) for a, b in zip(problem.snapshot(), untouched.snapshot(), strict=True))
    expected = untouched.train(untouched.optimizer(flatmin.PUGD()), 1)
    result = problem.train(opt, 1)
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


def test_a_loop_that_was_overtaken_does_not_interfere_when_it_ends():
    problem = Problem()
    opt = problem.optimizer(flatmin.PUGD())
    held = opt.probes()
    next(held)
    problem.loss().backward()
    next(held)
    for k in opt.probes():
        problem.loss().backward()
        if k == 1:
            away = problem.snapshot()
            held.close()
            assert all(torch.equal(a, b) for a, b in zip(problem.snapshot(), away, strict=True))
    opt.step()


def test_a_checkpoint_inside_the_loop_holds_no_displaced_weights():
    problem = Problem()
    opt = problem.optimizer(flatmin.PUGD())
    before = problem.snapshot()
    for k in opt.probes():
        problem.loss().backward()
        if k == 1:
            opt.state_dict()
            assert all(torch.equal(a, b) for a, b in zip(problem.snapshot(), before, strict=True))
            break


# -- parameter groups --------------------------------------------------------------------------------------------------


def displacement(opt, problem, probe=1):
    before = problem.snapshot()
    delta = None
    for k in opt.probes():
        problem.loss().backward()
        if k == probe:
            delta = [a - b for a, b in zip(problem.snapshot(), before, strict=True)]
    return dict(zip(problem.weights, delta, strict=True))


def test_a_group_that_is_not_perturbed_stays_and_does_not_count():
    problem = Problem(torch.float64)
    kernel, rest = problem.weights["kernel"], [p for n, p in problem.weights.items() if n != "kernel"]
    opt = flatmin.FlatOptimizer(sgd([{"params": [kernel], "perturb": False}, {"params": rest}]), flatmin.SAM(rho=0.3))
    delta = displacement(opt, problem)
    assert torch.equal(delta["kernel"], torch.zeros_like(kernel))
    length = sum(d.square().sum() for d in delta.values()).sqrt()
    torch.testing.assert_close(length.item(), 0.3)
    opt.step()
    assert kernel.grad is not None


def test_a_group_scales_the_radius():
    plain, scaled = Problem(torch.float64), Problem(torch.float64)
    names = ["kernel", "inner"]

    def groups(problem, **options):
        first = [problem.weights[n] for n in names]
        return [{"params": first, **options}, {"params": [p for n, p in problem.weights.items() if n not in names]}]

    expected = displacement(flatmin.FlatOptimizer(sgd(groups(plain)), flatmin.SAM(0.3)), plain)
    delta = displacement(flatmin.FlatOptimizer(sgd(groups(scaled, radius_scale=2.0)), flatmin.SAM(0.3)), scaled)
    for name, value in delta.items():
        torch.testing.assert_close(value, (2 if name in names else 1) * expected[name])


def test_only_on_equals_a_group_that_is_not_perturbed():
    by_method, by_group = Problem(torch.float64), Problem(torch.float64)
    opt = flatmin.FlatOptimizer(sgd(by_method.weights.parameters()), flatmin.OnlyOn("matrices", flatmin.ASAM()))
    matrices = [p for p in by_group.weights.values() if p.ndim > 1]
    vectors = [p for p in by_group.weights.values() if p.ndim <= 1]
    other = flatmin.FlatOptimizer(sgd([{"params": matrices}, {"params": vectors, "perturb": False}]), flatmin.ASAM())
    for a, b in zip(by_method.train(opt, 3), by_group.train(other, 3), strict=True):
        torch.testing.assert_close(a, b)


def test_a_selection_of_nothing_perturbs_nothing():
    selected, plain = Problem(), Problem()
    expected = plain.train(plain.optimizer(flatmin.Plain()), 3)
    opt = selected.optimizer(flatmin.OnlyOn(lambda p: False, flatmin.SAM(0.5)))
    assert all(torch.equal(a, b) for a, b in zip(selected.train(opt, 3), expected, strict=True))


def test_compositions_do_what_they_say():
    every, manual = Problem(torch.float64), Problem(torch.float64)
    asked = []
    opt = every.optimizer(flatmin.Every(flatmin.SAM(0.2), k=3))
    for _ in range(7):
        asked.append(sum(1 for _ in every.probes(opt)))
        opt.step()
    assert asked == [2, 1, 1, 2, 1, 1, 2]
    base = sgd(manual.weights.parameters(), lr=0.01, weight_decay=1e-3)
    sam, plain = flatmin.FlatOptimizer(base, flatmin.SAM(0.2)), flatmin.FlatOptimizer(base, flatmin.Plain())
    for opt in (sam, plain, plain, sam, plain, plain, sam):
        opt.step(manual.closure(opt))
    for a, b in zip(every.snapshot(), manual.snapshot(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", TWO_GRADIENTS[:3], ids=repr)
def test_fused_and_foreach_bases_agree_with_the_plain_loop(method):
    results = []
    for options in ({"foreach": False}, {"foreach": True}, {"fused": True}):
        problem = Problem()
        base = torch.optim.SGD(problem.weights.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, **options)
        results.append(problem.train(flatmin.FlatOptimizer(base, method, seed=1), 5))
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_fused_base_takes_over_the_division_and_leaves_the_direction():
    problem = Problem()
    base = torch.optim.AdamW(problem.weights.parameters(), lr=0.01, fused=True)
    opt = flatmin.FlatOptimizer(base, flatmin.PUGD())
    scales = []
    step = base.step
    base.step = lambda: (scales.append(base.grad_scale), step())
    opt.step(problem.closure(opt))
    assert scales[0] is not None
    assert base.grad_scale is None
    grads = [p.grad for p in problem.weights.values() if p.grad is not None]
    torch.testing.assert_close(sum(g.square().sum() for g in grads).item(), 1.0)


def test_a_direction_of_zero_is_zero_on_a_fused_base_too():
    @dataclass
    class Nothing:
        def direction(self, w, memory):
            g = yield
            return 0.0 * g

    problem = Problem()
    before = problem.snapshot()
    base = torch.optim.SGD(problem.weights.parameters(), lr=1.0, fused=True)
    after = problem.train(flatmin.FlatOptimizer(base, Nothing()), 1)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_a_hook_on_a_fused_base_sees_the_direction():
    problem = Problem()
    base = torch.optim.SGD(problem.weights.parameters(), lr=0.01, fused=True)
    opt = flatmin.FlatOptimizer(base, flatmin.PUGD())
    lengths = []

    def look(*_):
        lengths.append(sum(p.grad.square().sum() for p in problem.weights.values() if p.grad is not None).item())

    base.register_step_pre_hook(look)
    opt.step(problem.closure(opt))
    assert lengths == pytest.approx([1.0])


@pytest.mark.parametrize("method", [flatmin.UGD(), flatmin.SignDescent(), *TWO_GRADIENTS, *REMEMBERING], ids=repr)
def test_sparse_gradients_equal_dense_ones(method):
    results = []
    for sparse in (True, False):
        torch.manual_seed(0)
        table, head = nn.Embedding(10, 4, sparse=sparse), nn.Linear(4, 2)
        opt = flatmin.FlatOptimizer(torch.optim.SGD([*table.parameters(), *head.parameters()], lr=0.1), method, seed=0)

        def closure(opt=opt, table=table, head=head):
            opt.zero_grad()
            loss = head(table(torch.tensor([[1, 2, 2], [3, 1, 7]]))).square().mean()
            loss.backward()
            return loss

        for _ in range(3):
            opt.step(closure)
        results.append([p.detach().clone() for p in (*table.parameters(), *head.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_large_tensors_are_cut_without_a_trace(monkeypatch):
    results = []
    for limit in (1 << 17, 7):
        monkeypatch.setattr("flatmin.vectors.blocks.CPU_BLOCK", limit)
        for method in (flatmin.PUGD(), flatmin.ASAM(), flatmin.SymmetricNoise(), flatmin.AMP(0.1, norm="tensor")):
            problem = Problem(torch.float64)
            results.append(problem.train(problem.optimizer(method), 3))
    for whole, cut in zip(results[:4], results[4:], strict=True):
        for a, b in zip(whole, cut, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("limit", [1 << 17, 7])
def test_channels_last_weights_are_restored_and_step_the_same(limit, monkeypatch):
    monkeypatch.setattr("flatmin.vectors.blocks.CPU_BLOCK", limit)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        net.to(memory_format=memory_format)
        x, y = torch.randn(4, 8, 5, 5), torch.tensor([0, 1, 2, 0])
        opt = flatmin.FlatOptimizer(sgd(net.parameters()), flatmin.PUGD())
        for _ in range(3):
            opt.step(closure_of(net, opt, (x.to(memory_format=memory_format), y)))
        results.append([p.detach().clone() for p in net.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_direction_made_of_weights_does_not_move_what_has_no_gradient():
    @dataclass
    class OwnDecay:
        def direction(self, w, memory):
            g = yield
            return g + 0.1 * w

    problem = Problem()
    unused = problem.weights["unused"].detach().clone()
    problem.train(problem.optimizer(OwnDecay(), momentum=0.0), 3)
    assert torch.equal(problem.weights["unused"], unused)
    assert problem.weights["unused"].grad is None


# -- the network -------------------------------------------------------------------------------------------------------


class HomeMadeNorm(nn.Module):
    """A normalisation layer with statistics of its own names."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("seen", torch.zeros(channels))

    def forward(self, x):
        mean = x.mean((0, 2, 3))
        if self.training:
            self.seen.mul_(0.9).add_(0.1 * mean.detach())
        return x - mean[:, None, None]


@pytest.mark.parametrize("method", TWO_GRADIENTS, ids=repr)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_move_once_as_at_the_first_probe(method, momentum, batch):
    net = small_net(lambda channels: nn.BatchNorm2d(channels, momentum=momentum))
    opt = flatmin.FlatOptimizer(sgd(net.parameters()), method, model=net, seed=0)
    for _ in range(3):
        expected = {}
        for k in opt.probes():
            nn.functional.cross_entropy(net(batch[0]), batch[1]).backward()
            if k == 0:
                expected = {name: b.clone() for name, b in net.named_buffers()}
        for name, b in net.named_buffers():
            assert torch.equal(b, expected[name]), name
        opt.step()
    assert net[1].num_batches_tracked == 3


def test_without_the_model_statistics_move_at_every_probe(batch):
    net = small_net()
    opt = flatmin.FlatOptimizer(sgd(net.parameters()), flatmin.PUGD())
    opt.step(closure_of(net, opt, batch))
    assert net[1].num_batches_tracked == 2


def test_registered_layers_are_held_still(batch):
    flatmin.register_statistics(HomeMadeNorm, "seen")
    net = small_net(HomeMadeNorm)
    once = small_net(HomeMadeNorm)
    opt = flatmin.FlatOptimizer(sgd(net.parameters()), flatmin.PUGD(), model=net)
    opt.step(closure_of(net, opt, batch))
    once(batch[0])
    assert torch.equal(net[1].seen, once[1].seen)


def test_statistics_are_held_still_when_a_probe_raises(batch):
    net = small_net()
    opt = flatmin.FlatOptimizer(sgd(net.parameters()), flatmin.PUGD(), model=net)
    calls = iter(range(10))

    def closure():
        value = closure_of(net, opt, batch)()
        if next(calls) == 1:
            raise MemoryError
        return value

    with pytest.raises(MemoryError):
        opt.step(closure)
    assert net[1].num_batches_tracked == 1


def test_the_same_dropout_in_every_probe(batch):
    net = small_net(dropout=0.5)
    masks = []
    net[3].register_forward_hook(lambda module, inputs, output: masks.append(output != 0))
    for same in (True, False):
        masks.clear()
        opt = flatmin.FlatOptimizer(sgd(net.parameters()), flatmin.SAM(rho=0.0), model=net, same_dropout=same)
        torch.manual_seed(0)
        opt.step(closure_of(net, opt, batch))
        after = torch.rand(1)
        assert torch.equal(masks[0], masks[1]) == same
    torch.manual_seed(0)
    net(batch[0])
    opt = flatmin.FlatOptimizer(sgd(net.parameters()), flatmin.SAM(rho=0.0), same_dropout=True)
    torch.manual_seed(0)
    net(batch[0])
    once = torch.rand(1)
    torch.manual_seed(0)
    opt.step(closure_of(net, opt, batch))
    assert torch.equal(torch.rand(1), once), "the generator goes on as after one pass"
    assert not torch.equal(after, once)


def test_random_numbers_go_on_from_where_the_first_probe_left_them(batch):
    net = small_net(dropout=0.5)
    opt = flatmin.FlatOptimizer(sgd(net.parameters()), flatmin.PUGD(), same_dropout=True)
    after_first = None
    for k in opt.probes():
        nn.functional.cross_entropy(net(batch[0]), batch[1]).backward()
        if k == 0:
            after_first = torch.get_rng_state()
        else:
            torch.rand(3)  # a later pass that draws more than the first
    assert torch.equal(torch.get_rng_state(), after_first)


def test_a_compiled_model_trains_the_same(batch):
    results = []
    for backend in (None, "aot_eager"):
        net = small_net()
        run = net if backend is None else torch.compile(net, backend=backend)
        opt = flatmin.FlatOptimizer(sgd(net.parameters()), flatmin.PUGD(), model=net)
        for _ in range(3):
            for _ in opt.probes():
                nn.functional.cross_entropy(run(batch[0]), batch[1]).backward()
            opt.step()
        results.append([t.clone() for t in net.state_dict().values()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# -- an optimizer like any other ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("attach", ["wrapper", "base"])
def test_schedulers_drive_the_base_attached_to_either_also_after_loading(attach):
    problem = Problem()
    opt = problem.optimizer(flatmin.PUGD(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(opt if attach == "wrapper" else opt.base, 1, gamma=0.5)
    rates = []
    for step in range(4):
        problem.train(opt, 1)
        schedule.step()
        if step == 1:
            opt.load_state_dict(opt.state_dict())
        rates.append(opt.base.param_groups[0]["lr"])
    assert rates == [0.05, 0.025, 0.0125, 0.00625]
    assert opt.param_groups is opt.base.param_groups
    assert opt.state is opt.base.state


def test_loading_into_the_base_directly_is_seen_by_the_wrapper():
    problem = Problem()
    opt = problem.optimizer(flatmin.SAM())
    opt.base.load_state_dict(opt.base.state_dict())
    opt.base.param_groups[0]["lr"] = 0.5
    assert opt.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("form", ["closure", "loop"])
def test_step_hooks_run_once_per_update(form):
    problem = Problem()
    opt = problem.optimizer(flatmin.PUGD())
    calls = []
    opt.register_step_pre_hook(lambda *_: calls.append("before"))
    opt.register_step_post_hook(lambda *_: calls.append("after"))
    opt.base.register_step_post_hook(lambda *_: calls.append("base"))
    for _ in range(2):
        if form == "closure":
            opt.step(problem.closure(opt))
        else:
            for _ in problem.probes(opt):
                pass
            opt.step()
    assert calls == ["before", "base", "after"] * 2


def test_state_dict_hooks_run():
    problem = Problem()
    opt = problem.optimizer(flatmin.PUGD())
    calls = []
    opt.register_state_dict_pre_hook(lambda *_: calls.append("save"))
    opt.register_state_dict_post_hook(lambda _, state: {**state, "extra": 1})
    opt.register_load_state_dict_pre_hook(lambda _, state: {k: v for k, v in state.items() if k != "extra"})
    opt.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    state = opt.state_dict()
    assert state["extra"] == 1
    opt.load_state_dict(state)
    assert calls == ["save", "loaded"]


def test_the_state_holds_no_copy_of_the_weights():
    problem = Problem()
    opt = problem.optimizer(flatmin.PUGD())
    problem.train(opt, 2)
    state = opt.state_dict()
    assert state["flatmin"] == {"memory": {}, "seed": 1, "steps": 2, "method": "PUGD"}
    assert {name for entry in state["state"].values() for name in entry} == {"momentum_buffer"}


def test_the_noise_goes_on_after_loading_whatever_seed_the_optimizer_was_made_with():
    straight, second = Problem(), Problem()
    expected = straight.train(straight.optimizer(flatmin.SymmetricNoise()), 4)
    first = Problem()
    opt = first.optimizer(flatmin.SymmetricNoise())
    first.train(opt, 2)
    second.weights.load_state_dict(first.weights.state_dict())
    base = torch.optim.SGD(second.weights.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    other = flatmin.FlatOptimizer(base, flatmin.SymmetricNoise(), seed=99)
    other.load_state_dict(opt.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(second.train(other, 2), expected, strict=True))


def test_memory_grows_with_the_parameters():
    problem = Problem()
    first = [problem.weights["kernel"]]

    @dataclass
    class Momentum:
        def direction(self, w, memory):
            g = yield
            memory["m"] = 0.9 * memory["m"] + g if "m" in memory else g
            return memory["m"]

    opt = flatmin.FlatOptimizer(sgd(first), Momentum())
    problem.train(opt, 2)
    opt.add_param_group({"params": [problem.weights["inner"]]})
    before = problem.snapshot()
    problem.train(opt, 2)
    assert not torch.equal(before[1], problem.weights["inner"])


def test_loss_of_zero_is_a_loss(batch):
    problem = Problem()
    opt = problem.optimizer(flatmin.PUGD())
    before = problem.snapshot()

    def closure():
        opt.zero_grad()
        loss = problem.loss()
        loss.backward()
        return 0.0

    assert opt.step(closure) == 0.0
    assert not torch.equal(before[0], problem.snapshot()[0])


# -- bad input ---------------------------------------------------------------------------------------------------------


@dataclass
class Yields:
    request: object

    def direction(self, w, memory):
        yield self.request


@dataclass
class Returns:
    answer: object

    def direction(self, w, memory):
        yield
        return self.answer


class NoGenerator:
    def direction(self, w, memory):
        return w


class NeverEnds:
    def direction(self, w, memory):
        while True:
            yield


class AsksNothing:
    def direction(self, w, memory):
        return w
        yield


@dataclass
class WrongShape:
    def direction(self, w, memory):
        g = yield
        g_star = yield g.map(lambda t: t.new_ones(7, 7))
        return g_star


@dataclass
class RemembersATensor:
    def direction(self, w, memory):
        g = yield
        memory["x"] = torch.ones(3)
        return g


METHODS_THAT_MISBEHAVE = [
    (Yields(torch.ones(3)), TypeError, "yielded Tensor .* as request 1; write `yield` for the gradient at w"),
    (Yields(0.5), TypeError, "yielded float 0.5 as request 1"),
    (Returns(None), TypeError, "returned None; end it with `return u`"),
    (Returns(3), TypeError, "returned int 3"),
    (NoGenerator(), TypeError, "NoGenerator.direction returned Weights instead of asking .* write `g = yield`"),
    (NeverEnds(), RuntimeError, "asked for 1000 gradients in one step; end with `return`"),
    (AsksNothing(), RuntimeError, "ended without asking for a gradient; write `g = yield` first"),
    (WrongShape(), ValueError, r"returned shape \(7, 7\) for a tensor of shape"),
    (RemembersATensor(), TypeError, r"memory\['x'\] is a Tensor; methods remember Vecs"),
]


@pytest.mark.parametrize(("method", "error", "message"), METHODS_THAT_MISBEHAVE, ids=lambda v: type(v).__name__)
def test_a_misbehaving_method_is_named_and_moves_nothing(method, error, message):
    problem = Problem()
    opt = problem.optimizer(method)
    before = problem.snapshot()
    with pytest.raises(error, match=message):
        opt.step(problem.closure(opt))
    assert all(torch.equal(a, b) for a, b in zip(problem.snapshot(), before, strict=True))


def a_parameter():
    return [nn.Parameter(torch.ones(3))]


BAD_CALLS = [
    (
        lambda: flatmin.FlatOptimizer(torch.optim.SGD, flatmin.PUGD()),
        r"got the class SGD; write SGD\(net.parameters\(\)",
    ),
    (lambda: flatmin.FlatOptimizer("sgd", flatmin.PUGD()), "base must be a torch.optim.Optimizer, got str"),
    (lambda: flatmin.FlatOptimizer(a_parameter(), flatmin.PUGD()), r"\[0\] must be a torch.optim.Optimizer, got Param"),
    (lambda: flatmin.FlatOptimizer(sgd([]), flatmin.PUGD()), "optimizer got an empty parameter list"),
    (lambda: flatmin.FlatOptimizer(torch.optim.LBFGS(a_parameter()), flatmin.PUGD()), "base is LBFGS"),
    (lambda: flatmin.FlatOptimizer(sgd(a_parameter()), flatmin.PUGD), r"got the class PUGD; write PUGD\(\)"),
    (lambda: flatmin.FlatOptimizer(sgd(a_parameter()), "pugd"), r"method must have direction\(w, memory\), got 'pugd'"),
    (
        lambda: flatmin.FlatOptimizer(sgd(a_parameter()), flatmin.PUGD(), model="net"),
        "model must be the network.*got str",
    ),
    (
        lambda: flatmin.FlatOptimizer(flatmin.FlatOptimizer(sgd(a_parameter()), flatmin.UGD()), flatmin.PUGD()),
        "is a FlatOptimizer already; combine methods",
    ),
    (
        lambda: flatmin.FlatOptimizer(sgd([{"params": a_parameter(), "radius_scale": -1}]), flatmin.PUGD()),
        "radius_scale must be a number >= 0 in every parameter group, got -1",
    ),
    (
        lambda: flatmin.FlatOptimizer(sgd([{"params": a_parameter(), "perturb": "no"}]), flatmin.PUGD()),
        "perturb must be True or False in every parameter group, got 'no'",
    ),
    (lambda: flatmin.Every(flatmin.SAM, 2), "inner must be a method such as flatmin.SAM.., got the class SAM"),
    (lambda: flatmin.Every(flatmin.SAM(), 0), "k must be >= 1, got 0"),
    (lambda: flatmin.Unit(3), "inner must be a method such as flatmin.SAM.., got 3"),
    (lambda: flatmin.OnlyOn("conv", flatmin.SAM()), "select must be one of 'matrices', 'vectors', got 'conv'"),
    (lambda: flatmin.register_statistics(nn.BatchNorm2d(3), "x"), r"layer must be a subclass .* write type\(layer\)"),
    (lambda: flatmin.register_statistics(nn.BatchNorm2d), "buffers must be names such as 'running_mean'"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS, ids=[message[:40] for _, message in BAD_CALLS])
def test_bad_calls_say_what_to_write(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_no_gradient_at_all_is_an_error():
    problem = Problem()
    opt = problem.optimizer(flatmin.PUGD())
    before = problem.snapshot()
    with pytest.raises(RuntimeError, match=r"probe 0 of PUGD.* left no gradient .* run loss.backward\(\)"):
        for _ in opt.probes():
            pass
    assert all(torch.equal(a, b) for a, b in zip(problem.snapshot(), before, strict=True))


# -- gradients from before the step -----------------------------------------------------------------------------------


def accumulate(problem, opt, clear=lambda: None):
    """What frameworks do that accumulate: backward on the first half, and the second half in the closure."""
    (problem.loss(slice(0, 8)) / 2).backward()

    def closure():
        clear()
        (problem.loss(slice(8, 16)) / 2).backward()

    opt.step(closure)


def test_micro_batches_from_before_the_closure_are_not_lost_silently():
    problem = Problem()
    opt = problem.optimizer(flatmin.SAM())
    before = problem.snapshot()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="run all of them in the closure: every probe needs them"):
            accumulate(problem, opt)
        opt.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(problem.snapshot(), before, strict=True))
    problem.train(opt, 2)
    opt.zero_grad()
    with pytest.raises(RuntimeError, match="every probe needs them"):
        accumulate(problem, opt)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_closures_that_clear_what_was_there_before_are_fine(set_to_none):
    for clear in ("opt", "weights"):
        problem, other = Problem(), Problem()
        opt = problem.optimizer(flatmin.SAM())
        who = opt if clear == "opt" else problem.weights
        if clear == "weights" and not set_to_none:
            continue  # zeroed in place behind our back: no telling whether it was cleared
        accumulate(problem, opt, clear=lambda who=who: who.zero_grad(set_to_none))

        def closure(other=other):
            (other.loss(slice(8, 16)) / 2).backward()

        other.optimizer(flatmin.SAM()).step(closure)
        assert all(torch.equal(a, b) for a, b in zip(problem.snapshot(), other.snapshot(), strict=True))


@pytest.mark.parametrize("fused", [False, True])
def test_closures_need_not_clear_what_the_step_before_left(fused):
    problem, other = Problem(), Problem()
    opt = problem.optimizer(flatmin.PUGD(), momentum=0.9, fused=fused)
    for _ in range(3):
        opt.step(lambda: problem.loss().backward())
    expected = other.train(other.optimizer(flatmin.PUGD(), momentum=0.9, fused=fused), 3)
    assert all(torch.equal(a, b) for a, b in zip(problem.snapshot(), expected, strict=True))


@pytest.mark.parametrize(
    ("method", "replayable"),
    [
        (flatmin.PUGD(), True),
        (flatmin.ASAM(), True),
        (flatmin.SymmetricNoise(), False),
        (flatmin.Every(flatmin.SAM(), k=2), False),
    ],
    ids=repr,
)
def test_a_cuda_graph_of_what_does_not_repeat_itself_is_refused(monkeypatch, method, replayable):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    problem = Problem()
    opt = problem.optimizer(method)
    if replayable:
        problem.train(opt, 1)
    else:
        with pytest.raises(RuntimeError, match="every replay of a CUDA graph"):
            problem.train(opt, 1)

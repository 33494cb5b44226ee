"""Several base optimizers under one method: one vector of weights, and a step of each base."""

import inspect
import io
import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import flatmin
from flatmin import checkpoint
from flatmin.testing import CHECKS, Problem, contract, problem
from flatmin.testing.contract import shares_checkpoints_with_the_base
from support.common import closure_of, small_net

METHODS = [flatmin.Plain(), flatmin.PUGD(), flatmin.SAM(0.1), flatmin.MomentumSAM(0.3), flatmin.VaSSO(0.1, 0.5)]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def sgd(params, **options):
    return torch.optim.SGD(params, **{"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, **options})


def halves(problem):
    parameters = list(problem.weights.values())
    return parameters[:2], parameters[2:]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# -- one vector of weights ---------------------------------------------------------------------------------------------


@every_method
def test_two_halves_are_the_whole_bit_for_bit(method):
    whole, split = Problem(), Problem()
    first, second = halves(whole)
    frozen = {"params": second, "lr": 0.02, "radius_scale": 0.5}
    expected = whole.train(flatmin.FlatOptimizer(sgd([{"params": first}, frozen]), method, seed=1), 4)
    first, second = halves(split)
    bases = [sgd(first), sgd([{"params": second, "radius_scale": 0.5}], lr=0.02)]
    assert same(split.train(flatmin.FlatOptimizer(bases, method, seed=1), 4), expected)


def test_the_radius_is_that_of_all_and_a_group_may_stay_where_it_is():
    for stays in (False, True):
        split = Problem()
        first, second = halves(split)
        bases = [sgd(first), sgd([{"params": second, "perturb": not stays}])]
        opt = flatmin.FlatOptimizer(bases, flatmin.SAM(0.5))
        home = split.snapshot()
        for probe in split.probes(opt):
            moved = [(a - b).norm() for a, b in zip(split.snapshot(), home, strict=True)]
            if probe == 1:
                assert torch.stack(moved).norm().item() == pytest.approx(0.5, rel=1e-5)
                assert all((shift == 0) == stays for shift in moved[2:4])
        opt.step()


class TwoBases(flatmin.FlatOptimizer):
    """A FlatOptimizer around one base, as if it had been given two of its kind, each with half of the parameters."""

    def __init__(self, base, method, **options):
        groups = base.param_groups
        if len(groups) == 1:
            (group,), ps = groups, groups[0]["params"]
            groups = [{**group, "params": ps[: len(ps) // 2]}, {**group, "params": ps[len(ps) // 2 :]}]
        known = inspect.signature(type(base)).parameters
        settings = {name: value for name, value in base.defaults.items() if name in known}
        cut = len(groups) // 2
        bases = [type(base)(half, **settings) for half in (groups[:cut], groups[cut:])]
        super().__init__(bases, method, **options)

    def add_param_group(self, param_group):
        super().add_param_group({**param_group, "optimizer": self.base.optimizers[-1]})


KEPT = [check for check in CHECKS if check is not shares_checkpoints_with_the_base]  # there the other has one group


@pytest.mark.parametrize(
    "method", [flatmin.PUGD(), flatmin.MomentumSAM(0.3), flatmin.VaSSO(0.1, 0.5), flatmin.KSAM()], ids=repr
)
@pytest.mark.parametrize("check", KEPT, ids=lambda check: check.__name__)
def test_promise(check, method, monkeypatch):
    for module in (contract, problem):
        monkeypatch.setattr(module, "FlatOptimizer", TwoBases)
    check(method)


# -- what the bases keep -----------------------------------------------------------------------------------------------


class Training:
    """A small network, its matrices with one base and the rest with another."""

    def __init__(self, make, method=None):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.x, self.y = torch.randn(16, 6), torch.arange(16) % 3
        matrices = [p for p in self.net.parameters() if p.ndim == 2]
        self.bases = make(matrices, [p for p in self.net.parameters() if p.ndim != 2])
        self.opt = flatmin.FlatOptimizer(self.bases, method or flatmin.PUGD(), model=self.net, seed=0)
        self.rates = torch.optim.lr_scheduler.StepLR(self.opt, 3, gamma=0.5)
        self.opt.base.train()

    def train(self, steps):
        for _ in range(steps):
            for probe in self.opt.probes():
                losses = nn.functional.cross_entropy(self.net(self.x), self.y, reduction="none")
                probe.backward(losses)
            self.opt.step()
            self.rates.step()
        return [p.detach().clone() for p in self.net.parameters()]

    def states(self):
        return [part.state_dict() for part in (self.net, self.opt, self.rates)]

    def load(self, states):
        for part, state in zip((self.net, self.opt, self.rates), states, strict=True):
            part.load_state_dict(state)


def muon_and_adamw(matrices, rest):
    return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(rest, lr=0.01)]


def two_koalas(matrices, rest):
    return [flatmin.KOALA(matrices, lr=0.1), flatmin.KOALA(rest, lr=0.2, sigma=0.5)]


def others(matrices, rest):
    schedulefree, po = pytest.importorskip("schedulefree"), pytest.importorskip("pytorch_optimizer")
    return [po.Lookahead(sgd(matrices), k=2), schedulefree.AdamWScheduleFree(rest, lr=0.01)]


@pytest.mark.parametrize("make", [muon_and_adamw, two_koalas, others], ids=lambda make: make.__name__)
@pytest.mark.parametrize("method", [flatmin.PUGD(), flatmin.VaSSO(0.1, 0.5)], ids=lambda method: type(method).__name__)
def test_saved_and_loaded_it_goes_on_bit_for_bit(make, method):
    straight, first, second = (Training(make, method) for _ in range(3))
    start = straight.train(0)
    expected = straight.train(6)
    assert not any(torch.equal(a, b) for a, b in zip(start, expected, strict=True))
    first.train(3)
    file = io.BytesIO()
    torch.save(first.states(), file)
    file.seek(0)
    second.load(torch.load(file, weights_only=True))
    assert same(second.train(3), expected)


def test_each_base_takes_its_own_step_along_the_direction():
    one, bare = Training(muon_and_adamw, flatmin.SAM(0.1)), Training(muon_and_adamw)
    for _ in range(3):
        for _ in one.opt.probes():
            nn.functional.cross_entropy(one.net(one.x), one.y).backward()
        for p, q in zip(one.net.parameters(), bare.net.parameters(), strict=True):
            q.grad = p.grad.clone()
        one.opt.step()
        for base in bare.bases:
            base.step()
        assert same(one.net.parameters(), bare.net.parameters())


def test_the_groups_are_the_very_groups_of_the_bases():
    training = Training(muon_and_adamw)
    muon, adamw = training.bases
    training.opt.param_groups[1]["lr"] = 0.25
    assert adamw.param_groups[0]["lr"] == 0.25
    training.load(training.states())  # torch makes new dicts
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(muon, T_max=2)  # one of the bases alone
    training.train(3)
    cosine.step()
    assert [group["lr"] for group in training.opt.param_groups] == [pytest.approx(0.005), 0.125]


def test_a_schedule_that_cycles_momentum_knows_whether_every_group_has_one():
    split = Problem()
    first, second = halves(split)
    torch.optim.lr_scheduler.OneCycleLR(flatmin.MultiOptimizer([sgd(first), sgd(second)]), 0.1, total_steps=9)
    mixed = flatmin.MultiOptimizer([sgd(first), torch.optim.Adagrad(second)])
    with pytest.raises(ValueError, match="must support momentum"):
        torch.optim.lr_scheduler.OneCycleLR(mixed, 0.1, total_steps=9)


def test_the_state_is_that_of_the_bases():
    training = Training(muon_and_adamw)
    muon, adamw = training.bases
    weight, bias = training.net[0].weight, training.net[0].bias
    state = training.opt.state
    assert state.get(bias) is None and bias not in state and not state and not adamw.state
    training.train(1)
    assert state[bias] is adamw.state[bias] and len(state) == len([*state]) == 4
    for p, old in state.items():
        state[p] = dict(old)  # as Lightning moves states to a device
    assert state[weight] is muon.state[weight] and weight not in adamw.state
    del state[weight]
    state[weight] = {"momentum_buffer": None}
    assert weight in muon.state and weight not in adamw.state
    with pytest.raises(KeyError):
        state[torch.ones(1)]


def test_a_plain_optimizer_with_the_same_groups_shares_the_checkpoint():
    split, whole = Problem(), Problem()
    opt = flatmin.FlatOptimizer([sgd(part) for part in halves(split)], flatmin.PUGD())
    split.train(opt, 2)
    plain = sgd([{"params": part} for part in halves(whole)], lr=0.3)
    plain.load_state_dict(opt.state_dict())
    for p, q in zip(split.weights.values(), whole.weights.values(), strict=True):
        assert str(opt.state.get(p)) == str(plain.state.get(q))
    plain.param_groups[1]["lr"] = 0.7
    opt.load_state_dict(plain.state_dict())
    assert [group["lr"] for group in opt.base.optimizers[1].param_groups] == [0.7]


def test_a_checkpoint_of_other_groups_is_refused_and_nothing_is_loaded():
    training = Training(muon_and_adamw)
    training.train(2)
    before = str(training.opt.state_dict())
    ps = [nn.Parameter(torch.ones(1)) for _ in range(4)]
    for other, found in (
        (flatmin.MultiOptimizer([sgd(ps[:2]), sgd([{"params": [p]} for p in ps[2:]])]), "[[2], [1, 1]]"),
        (flatmin.MultiOptimizer([sgd(ps)]), "[[4]]"),
        (sgd([{"params": [p]} for p in ps]), "[[1], [1], [1, 1]]"),
        (sgd([{"params": ps[:2]}, {"params": ps[2:]}, {"params": [nn.Parameter(torch.ones(1))]}]), "[[2], [2], [1]]"),
    ):
        message = re.escape(
            f"groups have {found} parameters, and those of the optimizers (Muon, AdamW) have [[2], [2]]"
        )
        with pytest.raises(ValueError, match=message):
            training.opt.load_state_dict(other.state_dict())
    assert str(training.opt.state_dict()) == before


def test_checkpoints_for_any_number_of_processes(tmp_path):
    first, second = (Training(muon_and_adamw, flatmin.VaSSO(0.1, 0.5)) for _ in range(2))
    first.train(2)
    checkpoint.save(tmp_path / "last", first.net, first.opt)
    checkpoint.load(tmp_path / "last", second.net, second.opt)
    second.rates.load_state_dict(first.rates.state_dict())
    assert same(second.train(3), first.train(3))


def test_hooks_run_once_per_step_and_with_the_state():
    training = Training(muon_and_adamw)
    seen = []
    for optimizer in (training.opt, training.opt.base, *training.bases):
        name = type(optimizer).__name__
        optimizer.register_step_pre_hook(lambda *_, name=name: seen.append(f"{name} steps"))
        optimizer.register_state_dict_post_hook(lambda *_, name=name: seen.append(f"{name} saved"))
        optimizer.register_load_state_dict_post_hook(lambda *_, name=name: seen.append(f"{name} loaded"))
    training.train(1)
    training.load(training.states())
    names = ["FlatOptimizer", "MultiOptimizer", "Muon", "AdamW"]
    assert seen[:4] == [f"{name} steps" for name in names]
    assert seen[4:8] == [f"{name} saved" for name in ("Muon", "AdamW", "MultiOptimizer", "FlatOptimizer")]
    assert seen[8:] == [f"{name} loaded" for name in ("Muon", "AdamW", "MultiOptimizer", "FlatOptimizer")]


def test_under_a_gradient_scaler_halves_are_the_whole_and_an_overflow_skips_both():
    results = []
    for split in (False, True):
        net = small_net()
        x, y = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
        ps = list(net.parameters())
        bases = [sgd(ps[:2]), sgd(ps[2:])] if split else sgd(ps)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        opt = flatmin.FlatOptimizer(bases, flatmin.PUGD(), model=net, scaler=scaler)
        for spoiled in (False, True, False):
            before = [p.detach().clone() for p in ps]
            for _ in opt.probes():
                scaler.scale(nn.functional.cross_entropy(net(x), y) * (float("inf") if spoiled else 1.0)).backward()
            scaler.step(opt)
            scaler.update()
            assert same(ps, before) == spoiled
        results.append(ps)
    assert same(*results)


def test_bases_of_several_dtypes():
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh()).to(torch.bfloat16).append(nn.Linear(8, 3))
    bases = [torch.optim.Muon([net[0].weight], lr=0.02), torch.optim.AdamW([net[0].bias, *net[2].parameters()])]
    opt = flatmin.FlatOptimizer(bases, flatmin.SAM(0.5))
    start = [p.detach().clone() for p in net.parameters()]
    for _ in opt.probes():
        net[2](net[:2](torch.ones(4, 6, dtype=torch.bfloat16)).float()).square().sum().backward()
    assert same(net.parameters(), start)
    opt.step()
    assert not any(torch.equal(a, b) for a, b in zip(net.parameters(), start, strict=True))


# -- alone, and in code that only calls step() -------------------------------------------------------------------------


def test_without_a_method_it_is_the_bases_one_after_the_other():
    def bases(net):
        ps = list(net.parameters())
        return [sgd(ps[:2]), torch.optim.AdamW(ps[2:], lr=0.01)]

    one, two = small_net(), small_net()
    batch = torch.randn(8, 1, 8, 8), torch.arange(8)
    opt, parts = flatmin.MultiOptimizer(bases(one)), bases(two)
    for _ in range(3):
        loss = opt.step(closure_of(one, opt, batch))
        assert loss == closure_of(two, two, batch)()
        for part in parts:
            part.step()
    assert same(one.parameters(), two.parameters())


def test_code_that_only_calls_step():
    def base(params, lr, weight_decay):
        return flatmin.MultiOptimizer([sgd(params[:2], lr=lr), torch.optim.AdamW(params[2:], lr=lr)])

    results = []
    for alone in (True, False):
        net, x, y = small_net(), torch.ones(4, 1, 8, 8), torch.arange(4)
        ps = list(net.parameters())
        if alone:
            opt = flatmin.create_optimizer("msam", net, lr=0.05, base=base, seed=0)
            assert type(opt) is flatmin.OneGradientOptimizer
        else:
            bases = [sgd(ps[:2]), torch.optim.AdamW(ps[2:], lr=0.05)]
            opt = flatmin.FlatOptimizer(bases, flatmin.build("msam"), seed=0)
        for _ in range(3):
            if alone:
                nn.functional.cross_entropy(net(x), y).backward()
                opt.step()
                opt.zero_grad()
            else:
                opt.step(closure_of(net, opt, (x, y)))
        results.append(ps)
    assert same(*results)
    assert type(flatmin.OneGradientOptimizer([sgd(ps)], flatmin.UGD()).base) is flatmin.MultiOptimizer


# -- groups added later ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Averaged:
    """A running mean of the gradients, without a norm that depends on the order of the parameters."""

    def direction(self, w, memory):
        memory["m"] = 0.9 * memory.get("m", w.zero()) + (yield)
        return memory["m"]


def test_a_group_added_in_the_middle_takes_nobodys_memory_and_resumes():
    def run(split, steps, resume):
        p, q, r = (nn.Parameter(torch.full((2,), value)) for value in (1.0, 2.0, 3.0))

        def make():
            base = [sgd([p]), sgd([q])] if split else sgd([{"params": [p]}, {"params": [q]}])
            return flatmin.FlatOptimizer(base, Averaged())

        def add(opt):
            opt.add_param_group({"params": [r], **({"optimizer": opt.base.optimizers[0]} if split else {})})

        def train(opt, count):
            for _ in range(count):
                for _ in opt.probes():
                    (p**2 + q**3 + r**4).sum().backward()
                opt.step()

        opt = make()
        train(opt, 2)
        add(opt)
        train(opt, 2)
        if resume:
            saved, opt = opt.state_dict(), make()
            add(opt)
            opt.load_state_dict(saved)
        train(opt, steps)
        return [t.detach().clone() for t in (p, q, r)]

    expected = run(split=False, steps=2, resume=False)
    assert same(run(split=True, steps=2, resume=False), expected)
    assert same(run(split=True, steps=2, resume=True), expected)


def test_a_group_says_whose_it_is():
    p, q, r = (nn.Parameter(torch.ones(2)) for _ in range(3))
    bases = [sgd([p]), torch.optim.AdamW([q])]
    opt = flatmin.FlatOptimizer(bases, flatmin.PUGD())
    with pytest.raises(ValueError, match=r"\(SGD, AdamW\), got none; write opt.add_param_group.*'optimizer': adamw"):
        opt.add_param_group({"params": [r]})
    with pytest.raises(ValueError, match="got a SGD that is none of them"):
        opt.add_param_group({"params": [r], "optimizer": sgd([r])})
    with pytest.raises(ValueError, match=r"in both optimizers\[0\] \(SGD\) and optimizers\[1\] \(AdamW\)"):
        opt.add_param_group({"params": [p], "optimizer": bases[1]})
    assert len(opt.param_groups) == 2
    opt.add_param_group({"params": r, "lr": 0.5, "optimizer": bases[1]})
    assert opt.param_groups[2] is bases[1].param_groups[1] and "optimizer" not in opt.param_groups[2]
    bases[0].add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    with pytest.raises(
        RuntimeError, match=r"optimizers\[0\] \(SGD\) got a parameter group by its own.*'optimizer': sgd"
    ):
        next(opt.probes())


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_parameter_of_two_bases_is_named():
    net = small_net()
    both = torch.optim.AdamW(net.parameters())
    with pytest.raises(
        ValueError, match=r"'0.weight' is in both optimizers\[0\] \(SGD\) and optimizers\[1\] \(AdamW\)"
    ):
        flatmin.FlatOptimizer([sgd([net[0].weight]), both], flatmin.PUGD(), model=net)
    with pytest.raises(ValueError, match=r"of shape \(4,\), params\[1\] of group 0 of optimizers\[1\], is in both"):
        flatmin.FlatOptimizer([sgd([net[0].bias]), both], flatmin.PUGD())
    named = torch.optim.AdamW(net.named_parameters())
    with pytest.raises(ValueError, match=r"'5\.bias' is in both"):
        flatmin.MultiOptimizer([sgd([net[5].bias]), named])


def test_what_is_no_list_of_optimizers_is_refused():
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    flat = flatmin.FlatOptimizer(sgd([p]), flatmin.SAM())
    for bases, error, message in (
        ([], ValueError, "got none"),
        (
            [sgd([p]), torch.optim.AdamW],
            TypeError,
            r"optimizers\[1\] must be a constructed optimizer, got the class AdamW",
        ),
        ([sgd([p]), [q]], TypeError, r"optimizers\[1\] must be a torch.optim.Optimizer, got list"),
        ([sgd([p]), torch.optim.LBFGS([q])], TypeError, r"optimizers\[1\] is LBFGS"),
        ([flat, sgd([q])], TypeError, r"optimizers\[0\] is a FlatOptimizer already"),
    ):
        with pytest.raises(error, match=message):
            flatmin.FlatOptimizer(bases, flatmin.SAM())

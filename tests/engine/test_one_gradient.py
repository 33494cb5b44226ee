"""Methods of one gradient, trained by code that only calls `step()`: the steps of the loop, and weights that rest."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import flatmin
from flatmin.protocol import asks_about_examples
from flatmin.registry import METHODS
from support.by_hand import assert_same, data
from support.common import small_net

METHOD = flatmin.RandomNoise(sigma=0.3)  # perturbs from the first step on
ONE_GRADIENT = [
    pytest.param(entry.make(**hyperparameters), id="-".join([name, *map(str, hyperparameters.values())]))
    for name, entry in METHODS.items()
    if entry.gradients == 1 and entry.first is None and not asks_about_examples(entry.make())
    for hyperparameters in ({}, *entry.examples)
]


def base_of(net, **options):
    """Two groups that move by different amounts."""
    groups = [{"params": list(net[0].parameters()), "radius_scale": 2.0}, {"params": list(net[1:].parameters())}]
    return torch.optim.SGD(groups, **{"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3} | options)


def batches(count):
    """(images, labels) of each step, in two micro-batches."""
    x, y = data().tensors
    rows = [slice(8 * (step % 3), 8 * (step % 3) + 8) for step in range(count)]
    return [list(zip(x[part].chunk(2), y[part].chunk(2), strict=True)) for part in rows]


def by_loop(method, steps=4, scaler=None, spoil=None):
    """What `FlatOptimizer` makes of the same batches; the gradient of step `spoil` is infinite."""
    net = small_net()
    opt = flatmin.FlatOptimizer(base_of(net), method, model=net, seed=1, scaler=scaler)
    for step, parts in enumerate(batches(steps)):
        for probe in opt.probes():
            for x, y in parts:
                loss = cross_entropy(net(x), y)
                probe.backward(loss * float("inf") if step == spoil else loss, share=0.5)
        if scaler is None:
            opt.step()
        else:
            scaler.step(opt)
            scaler.update()
    return net


def made(method=METHOD, *, known=True, **options):
    """A network and its optimizer, ready to train."""
    net = small_net()
    opt = flatmin.OneGradientOptimizer(base_of(net, **options), method, model=net if known else None, seed=1)
    if not known:
        opt.train()
    return net, opt


def backward(net, parts):
    for x, y in parts:
        (cross_entropy(net(x), y) * 0.5).backward()


def train(net, opt, steps):
    for parts in steps:
        opt.zero_grad()
        backward(net, parts)
        opt.step()


def step_by_closure(net, opt, parts):
    """As Lightning does: all micro-batches but the last before `step(closure)`."""
    opt.zero_grad()
    backward(net, parts[:1])

    def closure():
        loss = cross_entropy(net(parts[1][0]), parts[1][1]) * 0.5
        loss.backward()
        return 2 * loss

    return opt.step(closure)


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("known", [True, False], ids=["model", "params"])
@pytest.mark.parametrize("method", [p for p in ONE_GRADIENT if "polyak" not in p.id])
def test_steps_are_those_of_the_loop_also_resumed(method, known):
    """With two micro-batches, two groups, weight decay; saved and loaded in the middle."""
    net, opt = made(method, known=known)
    train(net, opt, batches(4)[:2])
    if not known:
        opt.eval()
    file = io.BytesIO()
    torch.save([net.state_dict(), opt.state_dict()], file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    net, opt = made(method, known=known)
    opt.load_state_dict(state[1])
    net.load_state_dict(state[0])
    if not known:
        opt.train()
    train(net, opt, batches(4)[2:])
    if not known:
        opt.eval()
    assert_same(net, by_loop(method))


@pytest.mark.parametrize("method", [METHOD, flatmin.MomentumSAM(0.3)], ids=repr)
def test_a_closure_may_run_the_last_micro_batch(method):
    net, opt = made(method)
    losses = [step_by_closure(net, opt, parts) for parts in batches(4)]
    assert_same(net, by_loop(method))
    assert all(loss.item() > 0 for loss in losses)


@pytest.mark.parametrize("method", [p for p in ONE_GRADIENT if "polyak" in p.id])
def test_a_method_that_reads_the_loss_needs_a_closure(method):
    net, opt = made(method)
    x, y = data().tensors

    def closure():
        opt.zero_grad()
        loss = cross_entropy(net(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        opt.step(closure)
    other = small_net()
    flat = flatmin.FlatOptimizer(base_of(other), method, model=other)
    for _ in range(3):
        for probe in flat.probes():
            probe.backward(cross_entropy(other(x), y))
        flat.step()
    assert_same(net, other)
    before = weights(net)
    backward(net, batches(1)[0])
    with pytest.raises(RuntimeError, match="return the loss from the closure"):
        opt.step()
    assert same(weights(net), before)


# -- where the weights are --------------------------------------------------------------------------------------------


def test_with_the_network_weights_are_perturbed_from_its_forward_pass_to_the_step():
    net, opt = made()
    (parts,) = batches(1)
    before = weights(net)
    with torch.no_grad():
        net(parts[0][0])
    assert same(weights(net), before), "a pass without gradients"
    backward(net, parts[:1])
    perturbed = weights(net)
    assert not same(perturbed, before)
    net.eval()
    net(parts[0][0])
    assert same(weights(net), before), "an evaluation between micro-batches"
    net.train()
    backward(net, parts[1:])
    assert same(weights(net), perturbed)
    assert same(list(net.state_dict().values())[:2], before[:2]), "a checkpoint between micro-batches"
    opt.step()
    assert same(weights(net), weights(by_loop(METHOD, 1)))


def test_without_the_network_weights_are_perturbed_between_train_and_eval():
    net, opt = made(known=False)
    before = weights(small_net())
    perturbed = weights(net)
    assert not same(perturbed, before)
    opt.eval()
    assert same(weights(net), before)
    opt.train()
    assert same(weights(net), perturbed)
    train(net, opt, batches(1))
    assert not same(weights(net), weights(by_loop(METHOD, 1)))
    opt.eval()
    assert same(weights(net), weights(by_loop(METHOD, 1)))


def script(create, probes=lambda opt: (0,)):
    """The shape of timm's training script: accumulation, clipping, an average of weights, validation, checkpoints.

    Everything that it computes and saves; the last argument is for the same script with a loop over probes.
    """
    net = small_net()
    average = copy.deepcopy(net)
    optimizer = create(net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    images, labels = data().tensors
    losses, saved = [], []
    for _ in range(2):
        net.train()
        optimizer.zero_grad()
        for parts in batches(3):
            for _ in probes(optimizer):
                for x, y in parts:
                    (cross_entropy(net(x), y) / 2).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            for a, p in zip(average.parameters(), net.parameters(), strict=True):
                a.data.lerp_(p.data, 0.1)
            scheduler.step()
        net.eval()
        with torch.no_grad():
            losses.append(cross_entropy(net(images), labels).item())
        file = io.BytesIO()
        torch.save([net.state_dict(), average.state_dict(), optimizer.state_dict()], file)
        file.seek(0)
        saved.append(torch.load(file, weights_only=True))
    return losses, saved


def test_a_script_that_knows_nothing_of_it_evaluates_averages_and_saves_at_the_weights():
    def create(net):
        return flatmin.create_optimizer("msam", net, lr=0.1, weight_decay=1e-3, rho=0.3, seed=1)

    def create_for_the_loop(net):
        base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        return flatmin.FlatOptimizer(base, flatmin.MomentumSAM(0.3), model=net, seed=1)

    losses, saved = script(create)
    expected_losses, expected = script(create_for_the_loop, lambda opt: opt.probes())
    assert losses == expected_losses
    for states, others in zip(saved, expected, strict=True):
        for state, other in zip(states[:2], others[:2], strict=True):
            assert same(state.values(), other.values())
        assert states[2]["flatmin"] == others[2]["flatmin"]


def test_copies_of_the_network_have_nothing_to_do_with_the_optimizer():
    net, opt = made()
    train(net, opt, batches(1))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        before = weights(twin)
        backward(twin, batches(1)[0])
        assert same(weights(twin), before) and same(weights(net), before)
    backward(net._replicate_for_data_parallel(), batches(1)[0])  # shares its hooks and weights
    assert same(weights(net), before)


@pytest.mark.parametrize("known", [True, False], ids=["model", "params"])
def test_network_and_optimizer_are_copied_together(known):
    net, opt = made(known=known)
    train(net, opt, batches(2))
    if not known:
        opt.eval()
    twins = [copy.deepcopy((net, opt)), pickle.loads(pickle.dumps((net, opt)))]
    for twin, its in twins:
        if not known:
            its.train()
        train(twin, its, batches(4)[2:])
        if not known:
            its.eval()
        assert_same(twin, by_loop(METHOD))


@pytest.mark.parametrize("known", [True, False], ids=["model", "params"])
def test_another_optimizer_begins_after_eval_or_when_the_first_is_gone(known):
    net, first = made(known=known)
    x, y = data().tensors

    def begin(opt):
        opt.train()
        cross_entropy(net(x), y).backward()

    begin(first)
    second = flatmin.OneGradientOptimizer(base_of(net), METHOD, model=net)
    with pytest.raises(RuntimeError, match=r"Of a OneGradientOptimizer call eval\(\)"):
        second._perturb()
    first.eval()
    begin(second)
    second.step()
    second.eval()
    with pytest.raises(RuntimeError, match=r"found no direction|not taken at the perturbed weights"):
        first.step()
    begin(first)
    first.step()  # it begins anew
    first.eval()
    before = weights(net)
    begin(first)
    assert not same(weights(net), before)
    del first
    assert same(weights(net), before)


def test_weights_are_sampled_between_forward_pass_and_step():
    net, opt = made(flatmin.IVON(ess=10))
    x, y = data().tensors
    cross_entropy(net(x), y).backward()
    net.eval()
    flatmin.predict(opt, lambda: net(x), samples=2)
    opt.step()
    net, opt = made(flatmin.IVON(ess=10), known=False)
    opt.train()
    with pytest.raises(RuntimeError, match=r"sampled_weights\(\) met perturbed weights. Call opt.eval\(\)"):
        flatmin.predict(opt, lambda: net(x), samples=2)


def test_a_network_that_training_step_calls_is_watched():
    """As in Lightning, which does not call the module itself."""

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_net()

        def training_step(self, parts):
            backward(self.net, parts)

    module = Module()
    opt = flatmin.OneGradientOptimizer(base_of(module.net), METHOD, model=module, seed=1)
    for parts in batches(4):
        module.training_step(parts)
        opt.step()
        opt.zero_grad()
    assert_same(module.net, by_loop(METHOD))


def test_parts_of_a_network_may_join_later():
    """As in finetuning: the optimizer has the last layer at first."""

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            net = small_net()
            self.body, self.head = net[:-1], net[-1]

        def training_step(self, parts):
            for x, y in parts:
                (cross_entropy(self.head(self.body(x)), y) * 0.5).backward()

    module, (parts,) = Module(), batches(1)
    opt = flatmin.OneGradientOptimizer(torch.optim.SGD(module.head.parameters(), lr=0.1), METHOD, model=module)
    module.training_step(parts)
    with pytest.raises(RuntimeError, match="add_param_group was called between"):
        opt.add_param_group({"params": list(module.body.parameters())})
    opt.step()
    opt.add_param_group({"params": list(module.body.parameters())})
    before = weights(module)
    module.training_step(parts)
    assert not torch.equal(module.body[0].weight, before[0])
    opt.step()
    assert len(module.head._forward_pre_hooks) == 1


def test_without_the_network_groups_join_at_unperturbed_weights():
    net = small_net()
    opt = flatmin.OneGradientOptimizer(torch.optim.SGD(net[0].parameters(), lr=0.1), METHOD, seed=1)
    opt.train()
    with pytest.raises(RuntimeError, match=r"add_param_group\(\) met perturbed weights. Call opt.eval\(\)"):
        opt.add_param_group({"params": list(net[-1].parameters())})
    opt.eval()
    opt.add_param_group({"params": list(net[-1].parameters())})
    before = weights(net)
    opt.train()
    assert not torch.equal(net[-1].weight, before[-2])


def test_weights_loaded_between_micro_batches_are_kept():
    net, opt = made()
    other = small_net(seed=1)
    backward(net, batches(1)[0])
    net.load_state_dict(other.state_dict())
    opt.zero_grad()
    assert same(weights(net), weights(other))


# -- steps that do not end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["model", "params"])
def test_a_failure_between_steps_changes_nothing(known):
    net, opt = made(known=known)
    train(net, opt, batches(4)[:1])
    x, y = batches(1)[0][0]
    hook = net[-1].register_full_backward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cross_entropy(net(x), y).backward()
    hook.remove()
    opt.eval()
    assert same(weights(net), weights(by_loop(METHOD, 1)))
    opt.train()
    train(net, opt, batches(4)[1:])
    opt.eval()
    assert same(weights(net), weights(by_loop(METHOD)))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("known", [True, False], ids=["model", "params"])
def test_a_scaler_skips_a_step_that_overflows(known, clip):
    net, opt = made(known=known)
    ours, theirs = (torch.amp.GradScaler("cpu", init_scale=1024.0) for _ in range(2))
    for step, parts in enumerate(batches(4)):
        for x, y in parts:
            loss = cross_entropy(net(x), y) * 0.5
            ours.scale(loss * float("inf") if step == 2 else loss).backward()
        if clip:
            ours.unscale_(opt)
            nn.utils.clip_grad_norm_(net.parameters(), 1e9)
        ours.step(opt)
        ours.update()
        opt.zero_grad()
        if known and step == 2:
            assert same(weights(net), weights(by_loop(METHOD, 2))), "after an overflow"
    opt.eval()
    assert same(weights(net), weights(by_loop(METHOD, scaler=theirs, spoil=2)))
    assert ours.get_scale() == theirs.get_scale() == 512.0
    assert opt.steps == 3


def test_clearing_gradients_between_forward_and_backward_takes_nothing_back():
    net, opt = made()
    for parts in batches(4):
        losses = [cross_entropy(net(x), y) * 0.5 for x, y in parts]
        opt.zero_grad()
        for loss in losses:
            loss.backward()
        opt.step()
    assert_same(net, by_loop(METHOD))


def test_gradients_of_other_parameters_are_left_alone():
    """A second optimizer accumulates them for longer."""
    net, (parts,) = small_net(), batches(1)
    opt = flatmin.OneGradientOptimizer(torch.optim.SGD(net[0].parameters(), lr=0.0), METHOD, model=net, seed=1)
    train(net, opt, [parts])
    once = net[-1].bias.grad.clone()
    train(net, opt, [parts])
    assert net[-1].bias.grad.norm() > 1.5 * once.norm()


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (flatmin.SAM(), "asks for 2 gradients per step"),
        (flatmin.GraphSAM(), "asks for 2 gradients per step"),
        (flatmin.MixedRandomNoise(), "asks about single examples"),
        (flatmin.KSAM(), "asks about single examples"),
    ],
    ids=repr,
)
def test_methods_of_more_gradients_are_refused(method, message):
    with pytest.raises(ValueError, match=rf"{message}.*FlatOptimizer\(base, method, model=net\)"):
        made(method)


class Curious:
    """Asks for a second gradient only where the first is long."""

    def direction(self, w, memory):
        g = yield 0.1 * w
        if g.norm() > 0:
            g = yield None
        return g


def test_a_second_gradient_is_refused_when_it_is_asked_for():
    net, opt = made(Curious())
    before = weights(net)
    backward(net, batches(1)[0])
    with pytest.raises(RuntimeError, match=r"asks for a second gradient in step 0.*FlatOptimizer"):
        opt.step()
    assert same(weights(net), before)


@pytest.mark.parametrize(
    ("known", "spoil", "message"),
    [
        (False, lambda net, opt: opt.eval(), r"Call opt.train\(\) before training"),
        (True, lambda net, opt: opt.eval(), r"opt.eval\(\) was called"),
        (True, lambda net, opt: net.eval(), "was not called in training mode"),
    ],
    ids=["params, eval", "model, opt.eval", "model, net.eval"],
)
def test_gradients_of_the_weights_themselves_are_refused(known, spoil, message):
    net, opt = made(known=known)
    before = weights(by_loop(METHOD, 0))
    spoil(net, opt)
    backward(net, batches(1)[0])
    assert same(weights(net), before)
    with pytest.raises(RuntimeError, match=message):
        opt.step()
    assert same(weights(net), before)


def test_a_method_that_does_not_perturb_needs_no_network():
    net = small_net()
    opt = flatmin.OneGradientOptimizer(base_of(net), flatmin.UGD())
    train(net, opt, batches(4))
    assert_same(net, by_loop(flatmin.UGD()))


def test_without_the_network_perturbed_weights_are_neither_saved_nor_copied():
    _, opt = made(known=False)
    for act in (opt.state_dict, lambda: copy.deepcopy(opt), lambda: pickle.dumps(opt)):
        with pytest.raises(RuntimeError, match=r"met perturbed weights. Call opt.eval\(\) before it"):
            act()


def test_the_loop_over_probes_works_as_well():
    net, opt = made()
    for parts in batches(4):
        net(parts[0][0])
        for _ in opt.probes():
            backward(net, parts)
        opt.step()
    assert same(weights(net), weights(by_loop(METHOD)))


# -- by name ----------------------------------------------------------------------------------------------------------


def test_an_optimizer_by_name_is_made_for_what_its_method_asks():
    net = small_net()
    for name, entry in METHODS.items():
        opt = flatmin.create_optimizer(name, net, lr=0.1)
        alone = entry.gradients == 1 and entry.first is None and not asks_about_examples(entry.make())
        assert type(opt) is (flatmin.OneGradientOptimizer if alone else flatmin.FlatOptimizer), name
    backward(net, batches(1)[0])
    with pytest.raises(RuntimeError, match=r"for _ in opt.probes\(\):"):
        flatmin.create_optimizer("sam", net, lr=0.1).step()


@pytest.mark.parametrize("named", [False, True])
def test_no_decay_on_vectors(named):
    net = small_net()
    net.no_weight_decay = lambda: {"5.weight"}
    parameters = [list(net.named_parameters())] if named else [net, list(net.parameters())]
    for given in parameters:
        opt = flatmin.create_optimizer("msam", given, lr=0.1, weight_decay=0.1, no_decay_on_vectors=True)
        bare, decayed = opt.param_groups
        assert (bare["weight_decay"], decayed["weight_decay"]) == (0.0, 0.1)
        exempt = {id(p) for p in net.parameters() if p.ndim == 1 or (given is net and p is net[5].weight)}
        assert {id(p) for p in bare["params"]} == exempt
        assert len(bare["params"]) + len(decayed["params"]) == 6
    own = [{"params": net[0].parameters(), "weight_decay": 0.5}, {"params": net[1:].parameters(), "lr": 0.01}]
    opt = flatmin.create_optimizer("msam", own, lr=0.1, weight_decay=0.1, no_decay_on_vectors=True)
    groups = [(len(g["params"]), g["lr"], g["weight_decay"]) for g in opt.param_groups]
    assert groups == [(2, 0.1, 0.5), (3, 0.01, 0.0), (1, 0.01, 0.1)]
    assert len(flatmin.create_optimizer("msam", net, lr=0.1, weight_decay=0.1).param_groups) == 1


def test_bases_by_name_and_by_class():
    net = small_net()
    by_name = flatmin.create_optimizer("msam", net, lr=0.1, base="adamw", weight_decay=0.2)
    assert isinstance(by_name.base, torch.optim.AdamW) and by_name.defaults["weight_decay"] == 0.2
    assert isinstance(flatmin.create_optimizer("msam", net, lr=0.1, base=torch.optim.NAdam).base, torch.optim.NAdam)
    assert flatmin.create_optimizer("msam", net, lr=0.1).defaults["momentum"] == 0.9
    assert flatmin.create_optimizer("ugd", net, lr=0.1, momentum=0.0).defaults["momentum"] == 0.0


def test_a_method_with_decay_and_momentum_of_its_own_gets_them():
    opt = flatmin.create_optimizer("ivon", small_net(), lr=0.1, weight_decay=0.2, ess=100)
    assert (opt.method.weight_decay, opt.defaults["weight_decay"], opt.defaults["momentum"]) == (0.2, 0.0, 0.0)
    assert flatmin.create_optimizer("ivon", small_net(), lr=0.1).method == flatmin.build("ivon")
    with pytest.raises(ValueError, match="no_decay_on_vectors must be False for 'ivon'"):
        flatmin.create_optimizer("ivon", small_net(), lr=0.1, no_decay_on_vectors=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "mssam"}, "did you mean 'msam'"),
        ({"rh": 0.1}, "hyper-parameter of 'msam': unknown name 'rh'; did you mean rho"),
        ({"base": "adamm"}, "base: unknown name 'adamm'; did you mean adam"),
        ({"base": "adamw", "momentum": 0.9}, 'momentum is an argument of base="sgd"'),
        ({"rho": -1.0}, "rho must be >= 0"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_wrong_names_are_refused_with_the_nearest(arguments, message):
    with pytest.raises(ValueError, match=message):
        flatmin.create_optimizer(**{"method": "msam", "model_or_params": small_net(), "lr": 0.1} | arguments)

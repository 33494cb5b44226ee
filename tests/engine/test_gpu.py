"""What only a CUDA device can show: nothing waits for it, whole steps are captured, scales and fused kernels agree."""

import copy

import pytest
import torch
from torch import nn

import flatmin
from flatmin import robustness
from flatmin.testing import Problem, check_method
from support.common import every_method

if not torch.cuda.is_available():  # before there are nine hundred tests to skip
    pytest.skip("needs a CUDA device", allow_module_level=True)

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
FORMS = ["closure", "loop"]
WITHOUT_NOISE = [
    flatmin.UGD(),
    flatmin.PUGD(),
    flatmin.SAM(0.1),
    flatmin.ASAM(),
    flatmin.AMP(0.1, norm="tensor"),
    flatmin.ChannelDirected(flatmin.PUGD(), metric="h1", lam=0.01),
    flatmin.Every(flatmin.SAM(0.1), k=2),
]


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to(DEVICE)


def batches(count):
    generator = torch.Generator().manual_seed(1)
    draws = [(torch.randn(8, 6, generator=generator), torch.randn(8, 3, generator=generator)) for _ in range(count)]
    return [(x.to(DEVICE), y.to(DEVICE)) for x, y in draws]


def take_step(opt, net, batch, form, scaler=None, spoil=None):
    """One step in either form; the gradient of probe `spoil` is made infinite."""
    probe = iter(range(1000))

    def backward():
        loss = nn.functional.mse_loss(net(batch[0]), batch[1])
        loss = loss * float("inf") if next(probe) == spoil else loss
        (loss if scaler is None else scaler.scale(loss)).backward()
        return loss

    def closure():
        opt.zero_grad()
        return backward()

    if form == "closure":
        opt.step(closure)
    else:
        for k in opt.probes():
            if scaler is None:
                k.backward(nn.functional.mse_loss(net(batch[0]), batch[1]))
            else:
                backward()
        opt.step() if scaler is None else scaler.step(opt)
    if scaler is not None:
        scaler.update()


def assert_close(left, right, **tolerance):
    for p, q in zip(left.parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(p.cpu(), q.cpu(), **tolerance)


@pytest.mark.parametrize("method", every_method())
def test_the_contract_holds_on_the_device(method):
    with torch.device(DEVICE):
        check_method(method)


@pytest.mark.parametrize("method", WITHOUT_NOISE, ids=repr)
def test_both_devices_take_the_same_steps(method):
    results = []
    for device in ("cpu", DEVICE):
        with torch.device(device):
            problem = Problem(torch.float64)
            results.append(problem.train(problem.optimizer(method), 4))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-8, atol=1e-10)


@pytest.fixture
def no_waiting():
    """Enter it to make an error of every wait for the device."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fused", [False, True], ids=["foreach", "fused"])
@pytest.mark.parametrize("method", every_method(per_example=False))
def test_no_step_waits_for_the_device(method, fused, form, no_waiting):
    net, (batch,) = small_net(), batches(1)
    options = {"fused": True} if fused else {"foreach": True}
    base = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3, **options)
    opt = flatmin.FlatOptimizer(base, method, seed=1)
    for _ in range(6):  # kernels are loaded, state and constant matrices are made
        take_step(opt, net, batch, form)
    torch.cuda.synchronize()
    no_waiting()
    for _ in range(6):
        take_step(opt, net, batch, form)


BASES = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, capturable=True),
    "sgd-fused": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, fused=True),
    "adamw-fused": lambda ps: torch.optim.AdamW(ps, lr=0.01, capturable=True, fused=True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", [flatmin.PUGD(), flatmin.SAM(0.1)], ids=["pugd", "sam"])
def test_a_whole_step_is_captured_and_replayed(method, base, form):
    net = small_net()
    eager = copy.deepcopy(net)
    opt = flatmin.FlatOptimizer(BASES[base](net.parameters()), method)
    other = flatmin.FlatOptimizer(BASES[base](eager.parameters()), method)
    x, y = (t.clone() for t in batches(1)[0])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            take_step(opt, net, (x, y), form)
    torch.cuda.current_stream().wait_stream(side)
    for _ in range(3):
        take_step(other, eager, (x, y), form)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        take_step(opt, net, (x, y), form)
    assert_close(net, eager, rtol=1e-5, atol=1e-6)  # capturing computes nothing
    for batch in batches(5):
        x.copy_(batch[0])
        y.copy_(batch[1])
        graph.replay()
        take_step(other, eager, batch, form)
        assert_close(net, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", WITHOUT_NOISE, ids=repr)
def test_a_loss_scale_changes_no_step_and_an_overflow_skips_one(method, form):
    net = small_net()
    plain = copy.deepcopy(net)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=1024.0, growth_interval=1000)
    opt = flatmin.FlatOptimizer(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), method, scaler=scaler)
    other = flatmin.FlatOptimizer(torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9), method)
    for batch in batches(4):
        take_step(opt, net, batch, form, scaler)
        take_step(other, plain, batch, form)
    assert_close(net, plain, rtol=1e-4, atol=1e-5)
    assert scaler.get_scale() == 1024.0
    before = [p.detach().clone() for p in net.parameters()]
    take_step(opt, net, batch, form, scaler, spoil=0)
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("form", FORMS)
def test_mixed_precision_trains(form):
    net, (batch,) = small_net(), batches(1)
    scaler = torch.amp.GradScaler(DEVICE)
    opt = flatmin.FlatOptimizer(torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9), flatmin.PUGD(), scaler=scaler)

    def half(x):
        with torch.autocast(DEVICE, torch.float16):
            return net(x).float()

    def loss():
        return nn.functional.mse_loss(net(batch[0]), batch[1]).item()

    start = loss()
    for _ in range(40):
        take_step(opt, half, batch, form, scaler)
    assert loss() < 0.8 * start


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW], ids=lambda make: make.__name__)
@pytest.mark.parametrize("method", WITHOUT_NOISE, ids=repr)
def test_fused_and_foreach_bases_take_the_same_steps(method, make, form):
    fused, foreach = small_net(), small_net()
    opt = flatmin.FlatOptimizer(make(fused.parameters(), lr=0.01, fused=True), method)
    other = flatmin.FlatOptimizer(make(foreach.parameters(), lr=0.01, foreach=True), method)
    for batch in batches(5):
        take_step(opt, fused, batch, form)
        take_step(other, foreach, batch, form)
    assert_close(fused, foreach, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [flatmin.SAM(0.1), flatmin.PUGD(), flatmin.GSAM(0.1)], ids=repr)
def test_compiled_passes_take_the_same_steps(method):
    weights = []
    for compiled in (False, True):
        net = small_net()
        base = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, fused=True)
        opt = flatmin.FlatOptimizer(base, method, compile=compiled)
        for batch in batches(4):
            take_step(opt, net, batch, "closure")
        weights.append([p.detach() for p in net.parameters()])
    assert any(opt._compiler._passes[key].function for key in opt._compiler._own)
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", [robustness.rounded, robustness.noisy])
def test_rounding_and_noise_are_those_of_the_cpu(change):
    net = small_net()
    alone = copy.deepcopy(net).cpu()
    before = [p.detach().clone() for p in net.parameters()]
    with change(net), change(alone):
        for p, q in zip(net.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p.cpu(), q)
    assert all(torch.equal(p, w) for p, w in zip(net.parameters(), before, strict=True))

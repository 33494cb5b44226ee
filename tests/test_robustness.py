"""Rounded and noisy weights, changed images, calibration: what is promised of each, and that a network comes back."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from flatmin import robustness
from flatmin.flatness import Risk
from flatmin.robustness import Calibration, calibration, noisy, rounded
from support.common import small_net


class Tied(nn.Module):
    """An embedding that is also the last layer, BatchNorm, a transposed convolution of two groups, a frozen layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.up = nn.ConvTranspose2d(4, 6, 3, groups=2)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.again = nn.Linear(4, 7, bias=False)
        self.again.weight = nn.Parameter(self.embedding.weight.detach())  # another parameter in the same memory


def filters(net):
    """(name, the weights of one filter as a row, for all of them) of every parameter that has filters."""
    for name, p in net.named_parameters():
        if name == "up.weight":  # (in, out / groups, ...), the inputs of a group together
            groups = [part.transpose(0, 1).flatten(1) for part in p.detach().chunk(2)]
            yield name, torch.cat(groups).clone()
        elif p.ndim > 1:
            yield name, p.detach().flatten(1).clone()


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same_bits(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(a.view(torch.uint8) if a.ndim else a, b.view(torch.uint8) if b.ndim else b)
        for a, b in zip(one.values(), other.values(), strict=True)
    )


CHANGES = [
    pytest.param(lambda net: rounded(net, 3), id="rounded"),
    pytest.param(lambda net: noisy(net, 0.3, seed=5), id="noisy"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_come_back_bit_for_bit_in_the_same_memory(change, dtype):
    net = Tied().to(dtype)
    net.again.weight = nn.Parameter(net.embedding.weight.detach())
    with torch.no_grad():
        net.frozen.weight[0, 0] = math.nan  # a diverged network comes back, too
    before, places = state(net), [p.data_ptr() for p in net.parameters()]
    with change(net):
        inside = state(net)
    with pytest.raises(ZeroDivisionError), change(net), change(net):  # one in the other
        1 / 0  # noqa: B018
    assert same_bits(state(net), before) and [p.data_ptr() for p in net.parameters()] == places
    changed = {name for name in before if not same_bits({"": inside[name]}, {"": before[name]})}
    assert changed == {"embedding.weight", "head.weight", "again.weight", "up.weight", "frozen.weight"}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_in_overlapping_memory_come_back(change):
    net = nn.Sequential(nn.Linear(4, 7), nn.Linear(4, 3))
    net[1].weight = nn.Parameter(net[0].weight.detach()[:3])
    before = state(net)
    with change(net):
        assert not same_bits(state(net), before)
    assert same_bits(state(net), before)


@pytest.mark.parametrize("change", CHANGES)
def test_an_error_halfway_through_the_layers_changes_nothing(change, monkeypatch):
    net = Tied()
    before, made, parameter = state(net), [], robustness._parameter

    def failing(*args):
        made.append(args)
        if len(made) == 3:
            raise MemoryError
        return parameter(*args)

    monkeypatch.setattr(robustness, "_parameter", failing)
    with pytest.raises(MemoryError), change(net):
        pytest.fail("the block began")
    assert same_bits(state(net), before)


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_rounding_moves_no_weight_by_more_than_half_a_step_and_leaves_so_many_levels(bits):
    net = Tied().double()
    before = dict(filters(net))
    with rounded(net, bits):
        after = dict(filters(net))
    most = 2 ** (bits - 1) - 1
    for name, rows in before.items():
        steps = rows.abs().amax(1, keepdim=True) / most
        assert ((after[name] - rows).abs() <= steps / 2 * (1 + 1e-9)).all()
        levels = after[name] / steps
        assert torch.allclose(levels, levels.round(), atol=1e-8) and levels.abs().max() == pytest.approx(most)
    assert len(torch.unique(after["up.weight"][0])) <= 2 * most + 1


def test_bfloat16_adds_its_own_rounding_only():
    net = Tied().to(torch.bfloat16)
    before = dict(filters(net))
    with rounded(net, 8):
        for name, rows in filters(net):
            wide = before[name].float()
            half = wide.abs().amax(1, keepdim=True) / 127 / 2
            assert ((rows.float() - wide).abs() <= half + wide.abs() * 2**-8).all()


def test_weights_that_eight_bits_represent_stay_as_they_are():
    net = nn.Linear(64, 32)
    with torch.no_grad():
        levels = torch.randint(-127, 128, (32, 64), generator=torch.Generator().manual_seed(0)).float()
        levels[:, 0] = 127
        levels[3] = 0  # a filter of zeros
        net.weight.copy_(levels * 2.0 ** torch.arange(-20, 12)[:, None])
    before = state(net)
    with rounded(net, 8):
        assert same_bits(state(net), before)
    with rounded(net, 7):
        assert not same_bits(state(net), before)


def test_noise_is_as_long_as_said_in_the_mean_square_of_every_filter():
    net, scale, draws = Tied(), 0.1, 100  # a memory that two parameters share gets its noise once
    before = dict(filters(net))
    squares = {name: torch.zeros(len(rows)) for name, rows in before.items()}
    for seed in range(draws):
        with noisy(net, scale, seed):
            for name, rows in filters(net):
                squares[name] += (rows - before[name]).square().sum(1) / before[name].square().sum(1) / draws
    for name, found in squares.items():
        spread = math.sqrt(2 / before[name].shape[1] / draws)  # relative standard deviation of a mean of chi-squares
        assert (found / scale**2 - 1).abs().max() < 4.5 * spread


def test_a_seed_gives_the_same_noise_to_networks_of_other_weights_layouts_and_dtypes():
    def noise(net):
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        lengths = {n: p.float().flatten(1).norm(dim=1) for n, p in before.items() if p.ndim > 1}
        torch.manual_seed(3)
        state = torch.get_rng_state()
        with noisy(net, 0.5, seed=7):
            drawn = {n: (p.detach().float() - before[n].float()) for n, p in net.named_parameters() if n in lengths}
        assert torch.equal(torch.get_rng_state(), state)
        return {n: z / lengths[n].view(-1, *[1] * (z.ndim - 1)) for n, z in drawn.items()}

    reference = noise(small_net(seed=0))
    other = noise(small_net(seed=1).to(memory_format=torch.channels_last))
    short = noise(small_net(seed=2).to(torch.bfloat16))
    for name, z in reference.items():
        torch.testing.assert_close(other[name], z, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(short[name], z, rtol=0.05, atol=0.02)
    net = small_net()
    with noisy(net, 0.5, seed=8):
        assert not torch.allclose(net[0].weight, small_net()[0].weight + reference["0.weight"] * 2)


def test_a_scaled_layer_has_scaled_noise_and_scaled_steps():
    one, other = Tied(), Tied()
    with torch.no_grad():
        other.frozen.weight.mul_(4)
    for change in (lambda net: rounded(net, 4), lambda net: noisy(net, 0.1, 2)):
        with change(one), change(other):
            torch.testing.assert_close(other.frozen.weight, 4 * one.frozen.weight)


def test_numbers_are_those_of_the_changed_network_and_means_over_draws():
    net, x = small_net().eval(), torch.randn(8, 1, 8, 8)
    y = torch.arange(8)
    risk = Risk(net, nn.CrossEntropyLoss(), [(x, y)])
    expected = {}
    for bits in (5, 2):
        clone = copy.deepcopy(net)
        with rounded(clone, bits):
            expected[bits] = nn.functional.cross_entropy(clone(x), y).item()
    assert robustness.after_rounding(net, risk.value, (5, 2)) == pytest.approx(expected, rel=1e-6)

    seen = []

    def score():
        seen.append(net[0].weight.detach().clone())
        return net[0].weight.detach().sum()

    found = robustness.after_noise(net, score, (0.0, 0.2, 0.4), draws=3, seed=1)
    assert list(found) == [0.0, 0.2, 0.4] and len(seen) == 9
    home = net[0].weight
    assert all(torch.equal(w, home) for w in seen[:3]) and not torch.equal(seen[3], seen[4])
    torch.testing.assert_close(seen[6] - home, 2 * (seen[3] - home))  # the same draws for every scale
    assert found[0.4] == pytest.approx(sum(w.sum().item() for w in seen[6:]) / 3)
    assert robustness.after_noise(net, score, (0.2,), draws=3, seed=1)[0.2] == found[0.2]
    assert robustness.after_noise(net, score, (0.2,), draws=3, seed=2)[0.2] != found[0.2]


def test_weights_that_autocast_has_cast_before_are_not_used():
    net, x = nn.Linear(8, 4), torch.randn(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        before = net(x)
        with rounded(net, 2):
            assert not torch.equal(net(x), before)
        assert torch.equal(net(x), before)


def test_a_backward_pass_through_weights_that_came_back_is_an_error_and_not_a_wrong_gradient():
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)), torch.randn(2, 3)
    with noisy(net, 0.1):
        loss = net(x).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda net: rounded(net, 1), ValueError, "bits must be >= 2, got 1"),
        (lambda net: rounded(net, 17), ValueError, r"bits must be in \[2, 16\], got 17"),
        (lambda net: rounded(net, 4.0), TypeError, "bits must be an int, got 4.0"),
        (lambda net: noisy(net, -0.1), ValueError, "scale must be >= 0, got -0.1"),
        (lambda net: noisy(net, 0.1, -1), ValueError, "seed must be >= 0, got -1"),
        (
            lambda net: rounded(net.append(nn.Linear(2, 2, dtype=torch.complex64))),
            TypeError,
            "real weights, got torch.complex64 for '1.weight'",
        ),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message), call(nn.Sequential(nn.Linear(2, 2))):
        pytest.fail("the block began")


def test_bad_numbers_of_draws_images_and_outputs_are_refused():
    with pytest.raises(ValueError, match="draws must be >= 1, got 0"):
        robustness.after_noise(nn.Linear(2, 2), float, draws=0)
    with pytest.raises(TypeError, match=r"images must be of a floating dtype, got torch.uint8; write images.float\(\)"):
        robustness.blurred_images(torch.zeros(2, 2, dtype=torch.uint8), 1.0)
    with pytest.raises(ValueError, match="sigma must be > 0, got 0"):
        robustness.blurred_images(torch.zeros(2, 2), 0)
    with pytest.raises(ValueError, match=r"got \(2, 5, 3\) and \(2, 5\); for text write \(outputs.flatten\(0, -2\)"):
        calibration([(torch.zeros(2, 5, 3), torch.zeros(2, 5))])
    with pytest.raises(ValueError, match="at least one example, got none"):
        calibration([])


# -- images ------------------------------------------------------------------------------------------------------------


def test_noise_on_images_has_its_deviation_and_its_seed():
    images = torch.full((50, 3, 16, 16), 2.0)
    noise = robustness.noisy_images(images, 0.25, seed=4) - images
    assert noise.std().item() == pytest.approx(0.25, rel=0.02) and abs(noise.mean().item()) < 0.01
    again = robustness.noisy_images(torch.zeros(50, 3, 16, 16, dtype=torch.float64), 0.25, seed=4)
    torch.testing.assert_close(again.float(), noise, rtol=0, atol=1e-6)
    assert not torch.equal(robustness.noisy_images(images, 0.25, seed=5), images + noise)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_a_blur_is_scipys(sigma):
    images = torch.rand(2, 1, 5, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter(images.numpy(), sigma, mode="nearest", truncate=3, axes=(2, 3))
    torch.testing.assert_close(robustness.blurred_images(images, sigma), torch.from_numpy(expected))


# -- calibration -------------------------------------------------------------------------------------------------------


def by_hand(probabilities, labels, bins):
    """Guo et al.'s formula, bin by bin."""
    confidence, predicted = [max(p) for p in probabilities], [p.index(max(p)) for p in probabilities]
    error = 0.0
    for m in range(bins):
        mine = [i for i, c in enumerate(confidence) if m / bins < c <= (m + 1) / bins]
        if mine:
            accuracy = sum(predicted[i] == labels[i] for i in mine) / len(mine)
            error += len(mine) / len(labels) * abs(accuracy - sum(confidence[i] for i in mine) / len(mine))
    nll = -sum(math.log(p[label]) for p, label in zip(probabilities, labels, strict=True)) / len(labels)
    return nll, error


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_is_the_formula_and_does_not_depend_on_batches_or_a_constant(bins):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(203, 5, generator=generator) * 2
    labels = torch.randint(5, (203,), generator=generator)
    found = calibration([(logits, labels)], bins)
    p = logits.double().softmax(1)
    assert (found.nll, found.ece) == pytest.approx(by_hand(p.tolist(), labels.tolist(), bins), rel=1e-9)
    assert found.accuracy == (logits.argmax(1) == labels).double().mean().item()
    for same in (logits + 100, p.log()):
        parts = zip(same.split(50), labels.split(50), strict=True)
        again = calibration(parts, bins)
        assert (again.nll, again.ece) == pytest.approx((found.nll, found.ece), rel=1e-4)


def test_calibrated_predictions_have_no_error_and_sure_wrong_ones_have_all_of_it():
    labels = torch.tensor([0] * 8 + [1] * 2)
    right = calibration([(torch.tensor([[0.8, 0.2]]).log().expand(10, 2), labels)])
    assert right.ece == pytest.approx(0, abs=1e-7) and right.accuracy == 0.8
    wrong = calibration([(torch.tensor([[0.0, 80.0]]).expand(10, 2), torch.zeros(10, dtype=torch.int64))])
    assert wrong == Calibration(0.0, pytest.approx(80.0), pytest.approx(1.0))  # no logarithm was cut off
    impossible = calibration([(torch.tensor([[0.0, 1.0]]).log(), torch.tensor([0]))])
    assert impossible.nll == math.inf and impossible.ece == 1.0


def test_the_code_of_the_page_runs():
    page = (Path(__file__).parents[1] / "docs/robustness.md").read_text(encoding="utf-8")
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "docs/robustness.md", "exec"), names)
    assert 0 <= names["found"].ece <= 1

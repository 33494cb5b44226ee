"""Networks: published parameter counts, every image size, stated initialisation, factories of one's own."""

import math
import sys

import pytest
import torch
from torch import nn

from flatmin.study.data.dataset import load_dataset
from flatmin.study.networks import fast, models, residual, transformer

#: Parameters for RGB and 10 classes, and where the number comes from.
COUNTS = {
    "small-cnn": 16 * 3 * 9 + 2 * 16 + 24 * 16 * 9 + 2 * 24 + (24 * 16 * 16 + 1) * 10,
    "small-cnn-layernorm": 16 * 3 * 9 + 2 * 16 + 24 * 16 * 9 + 2 * 24 + (24 * 16 * 16 + 1) * 10,
    "small-cnn-plain": 16 * 3 * 9 + 16 + 24 * 16 * 9 + 24 + (24 * 16 * 16 + 1) * 10,
    # 24 biases of the whitening layer; nine weights per pair of channels; two numbers per channel and BatchNorm
    "fast-cifar-s": 24 + 9 * (24 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128) + 4 * 224 + 1280,
    "fast-cifar-m": 24 + 9 * (24 * 64 + 64 * 64 + 64 * 128 + 3 * 128 * 128) + 4 * 320 + 1280,
    "fast-cifar-l": 24 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 4 * 576 + 2560,
    "resnet20": 269_722,  # 0.27 M in He et al., 2015, table 6
    "resnet18": 11_173_962,  # 11.17 M
    "preact-resnet18": 11_172_170,  # 11.17 M
    "wrn-28-10": 36_479_194,  # 36.5 M in Zagoruyko & Komodakis, 2016, table 4
    "small-vit": 2_693_194,
}


SMALL = ["small-cnn", "small-cnn-layernorm", "small-cnn-plain", "fast-cifar-s", "resnet20", "resnet18"]
SMALL += ["preact-resnet18", "small-vit"]


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", models.MODELS)
def test_parameters_are_as_published(name):
    net = models.build(name, 3, 10, image_size=32)
    assert count(net) == COUNTS[name]
    if not name.startswith("small-cnn"):  # theirs are of other images
        assert f"{COUNTS[name]:,}" in models.MODELS[name].__doc__
    assert all(p.requires_grad for p in net.parameters())


def test_wide_resnet_with_100_classes():
    assert count(models.build("wrn-28-10", 3, 100, image_size=32)) == 36_536_884


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64)])
def test_networks_take_every_size(name, channels, size):
    with torch.device("meta"):  # shapes only: nothing is computed
        net = models.MODELS[name](channels, 7, size)
        assert net(torch.zeros(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "published"),
    [("resnet20", 41e6), ("resnet18", 0.56e9), ("preact-resnet18", 0.56e9), ("wrn-28-10", 5.25e9)],
)
def test_multiplications_are_as_published(name, published):
    """Of one 32x32 image; they tell the strides, of which the parameters know nothing."""
    found = []

    def add(layer, inputs, output):
        found.append(layer.weight.numel() * output[0, 0].numel())

    with torch.device("meta"):
        net = models.MODELS[name](3, 10, 32)
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(add)
        net(torch.zeros(1, 3, 32, 32))
    assert sum(found) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "preact-resnet18", "wrn-28-10"])
def test_residual_networks_take_any_size_whatever_they_were_built_for(name):
    with torch.device("meta"):
        assert models.MODELS[name](3, 1000, 32)(torch.zeros(2, 3, 224, 160)).shape == (2, 1000)


@pytest.mark.parametrize("name", SMALL)
def test_networks_learn(name):
    torch.manual_seed(0)
    net = models.build(name, 1, 10, image_size=8)
    digits = load_dataset("digits")
    x, y = digits.standardise(digits.train.images[:48]), digits.train.labels[:48]
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01 if name == "fast-cifar-s" else 0.002)  # scaled logits
    for _ in range(12):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        if loss.item() < 0.7 * math.log(10):
            break
    else:
        pytest.fail(f"the loss is still {loss.item():.2f}")
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_small_networks_without_batchnorm():
    """LayerNorm normalises the channels at each position, so an image's output is its own; the plain one scales."""
    torch.manual_seed(0)
    x = torch.randn(4, 1, 8, 8)
    layernorm = models.build("small-cnn-layernorm", 1, 10)
    normalised = layernorm[1](layernorm[0](x))
    torch.testing.assert_close(normalised.mean(1), torch.zeros(4, 8, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.var(1, correction=0), torch.ones(4, 8, 8), atol=1e-2, rtol=0)
    torch.testing.assert_close(layernorm(x)[:1], layernorm(x[:1]))

    plain = models.build("small-cnn-plain", 1, 10)
    with torch.no_grad():
        outputs = plain(x) - plain[-1].bias
        plain[0].weight.mul_(2)
        torch.testing.assert_close(plain(x) - plain[-1].bias, 2 * outputs)
        plain[1].bias.fill_(1.0)
        assert not torch.allclose(plain(x) - plain[-1].bias, 2 * outputs)


def test_the_small_cnn_is_what_it_always_was():
    """The layers of version 0.1 in their order, so that a seed means the same weights."""
    torch.manual_seed(3)
    net = models.build("small-cnn", 1, 10)
    torch.manual_seed(3)
    first, bn1, second, bn2 = (
        nn.Conv2d(1, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 24, 3, bias=False),
        nn.BatchNorm2d(24),
    )
    last = nn.Linear(384, 10)
    expected = [p for layer in (first, bn1, second, bn2, last) for p in layer.parameters()]
    assert count(net) == 7530
    for p, wanted in zip(net.parameters(), expected, strict=True):
        assert torch.equal(p, wanted)


def deviation(parameter):
    return parameter.detach().std().item()


@pytest.mark.parametrize("name", ["resnet20", "preact-resnet18"])
def test_residual_networks_start_as_stated(name):
    torch.manual_seed(0)
    net = models.build(name, 3, 10, image_size=32)
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        wanted = math.sqrt(2 / (layer.out_channels * layer.kernel_size[0] ** 2))
        assert deviation(layer.weight) == pytest.approx(wanted, rel=0.15) and layer.bias is None
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()


def test_the_vit_starts_as_stated():
    torch.manual_seed(0)
    net = models.build("small-vit", 3, 10, image_size=32)
    for name, p in net.named_parameters():
        if p.dim() > 1:
            assert deviation(p) == pytest.approx(0.02 * 0.88, rel=0.1) and p.abs().max() <= 0.04, name
        else:
            assert (p == (1 if "weight" in name else 0)).all(), name
    first, second = (block.attention[1].qkv.weight for block in net.blocks[:2])
    assert not torch.equal(first, second)


def test_a_shortcut_without_parameters_skips_pixels_and_adds_zeros():
    x = torch.arange(2.0 * 3 * 4 * 4).view(2, 3, 4, 4)
    out = residual.Thinned(2, 2)(x)
    assert out.shape == (2, 5, 2, 2) and torch.equal(out[:, :3], x[:, :, ::2, ::2]) and not out[:, 3:].any()
    assert torch.equal(residual.Thinned(0, 1)(x), x)


def test_attention_is_torchs():
    torch.manual_seed(0)
    ours = transformer.Attention(transformer.WIDTH, transformer.HEADS)
    theirs = nn.MultiheadAttention(transformer.WIDTH, transformer.HEADS, batch_first=True)
    with torch.no_grad():
        for mine, its in (
            (ours.qkv.weight, theirs.in_proj_weight),
            (ours.qkv.bias, theirs.in_proj_bias),
            (ours.out.weight, theirs.out_proj.weight),
            (ours.out.bias, theirs.out_proj.bias),
        ):
            its.copy_(mine)
    x = torch.randn(2, 9, transformer.WIDTH)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_second_derivatives_exist():
    net = models.build("small-vit", 1, 10, image_size=8)
    (g, *_) = torch.autograd.grad(
        net(torch.randn(2, 1, 8, 8)).square().sum(), list(net.parameters()), create_graph=True
    )
    assert torch.autograd.grad(g.sum(), next(net.parameters()))[0].isfinite().all()


# -- networks that start from images -----------------------------------------------------------------------------------


def smooth_images(n=60, channels=3, size=12):
    """Images whose pixels and channels are correlated."""
    noise = torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))
    return noise.cumsum(2).cumsum(3).cumsum(1)


def test_whitened_patches_are_uncorrelated_and_have_variance_one():
    images, layer = smooth_images(), fast.Whitening(3)
    layer.start_from(images.split(17))
    found = layer(images - images.mean()).transpose(0, 1).flatten(1).double()
    assert layer.width == 24 and torch.equal(found[12:], -found[:12])
    variances = found[:12].var(1)
    expected = torch.eye(12, dtype=torch.float64) * variances
    torch.testing.assert_close(torch.cov(found[:12]), expected, atol=1e-3, rtol=0)
    assert (variances > 0.99).all() and (variances < 1.001).all() and (layer.weight[0] > 0).all()
    whole = fast.Whitening(3)
    whole.start_from([images])
    torch.testing.assert_close(whole.weight, layer.weight)


def test_images_are_the_same_for_every_seed():
    digits = load_dataset("digits")
    sizes = [len(batch) for batch in digits.sample(300)]
    assert sizes == [250, 50] and sum(len(batch) for batch in digits.sample()) == len(digits.train.labels)
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(models.build("fast-cifar-s", 1, 10, image_size=8, images=digits.sample))
    first, second = (net[0].weight for net in nets)
    assert torch.equal(first, second) and not torch.equal(*(net[-2].weight for net in nets))
    assert not torch.equal(first, models.build("fast-cifar-s", 1, 10, image_size=8)[0].weight), "no image was read"
    for net in nets:  # no optimizer gets the filters, and every state dict has them
        assert "0.weight" in net.state_dict() and "0.weight" not in dict(net.named_parameters())


def test_convolutions_pass_their_inputs_on_at_first():
    net = models.build("fast-cifar-s", 3, 10, image_size=32)
    for layer in (layer for layer in net if isinstance(layer, nn.Conv2d)):
        x = torch.randn(2, layer.in_channels, 5, 5)
        assert torch.equal(layer(x)[:, : layer.in_channels], x)
        assert layer.in_channels == layer.out_channels or layer(x)[:, layer.in_channels :].any()
    features = torch.randn(4, 128)
    torch.testing.assert_close(net[-2:](features), features @ net[-2].weight.T / 9)


# -- names and factories -----------------------------------------------------------------------------------------------

FACTORIES = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes=10, pretrained=False):
        super().__init__()
        self.last = nn.Linear(3, num_classes)
        self.dropout = nn.Dropout(0.5)
        self.pretrained = pretrained

    def forward(self, x):
        return self.last(self.dropout(x).mean((2, 3)))

def anything(**options):
    return Small(**options)

def other_name(classes):
    return Small(classes)

def not_pretrained(num_classes):
    return Small(num_classes)

def no_module(num_classes):
    return [1]

def too_many(num_classes):
    return Small(num_classes + 1)

def tuple_out(num_classes):
    net = Small(num_classes)
    net.forward = lambda x: (x, x)
    return net

def raises(num_classes):
    raise RuntimeError("my own mistake")

class FromImages(nn.Module):
    def __init__(self, num_classes, pretrained=False):
        super().__init__()
        self.last = Small(num_classes)

        def start_from(batches):
            self.seen = torch.cat(list(batches))

        self.last.start_from = start_from

    def forward(self, x):
        return self.last(x)

CONSTANT = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "my_nets").mkdir()
    (tmp_path / "my_nets/__init__.py").touch()
    (tmp_path / "my_nets/small.py").write_text(FACTORIES)
    (tmp_path / "my_nets/broken.py").write_text("import no_such_thing")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("my_nets")]:
        del sys.modules[name]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("function", ["Small", "anything"])
def test_factories_of_ones_own(function):
    models.check(f"my_nets.small:{function}")
    torch.manual_seed(0)
    net = models.build(f"my_nets.small:{function}", 3, 5, image_size=4)
    after = torch.rand(1)
    assert net.last.out_features == 5 and net.training and not net.pretrained
    assert models.build(f"my_nets.small:{function}", 3, 5, image_size=4, pretrained=True).pretrained
    torch.manual_seed(0)
    nn.Linear(3, 5)
    assert torch.equal(after, torch.rand(1)), "trying the network out used random numbers"


@pytest.mark.usefixtures("package")
def test_modules_of_ones_own_start_from_images():
    images = torch.randn(6, 3, 4, 4)
    name = "my_nets.small:FromImages"
    net = models.build(name, 3, 5, image_size=4, images=lambda: iter(images.split(4)))
    assert torch.equal(net.seen, images)
    pretrained = models.build(name, 3, 5, image_size=4, pretrained=True, images=lambda: pytest.fail("was read"))
    assert not hasattr(pretrained, "seen")


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:net", r"cannot import 'nowhere' of 'nowhere:net' \(No module named 'nowhere'\).*PYTHONPATH"),
        ("my_nets.broken:net", "cannot import 'my_nets.broken'.*no_such_thing"),
        (":net", "cannot import ''"),
        ("my_nets.small:anythin", "my_nets.small has no function 'anythin'; did you mean anything?"),
        ("my_nets.small:", "has no function ''; write package.module:factory"),
        ("my_nets.small:CONSTANT", "has no function 'CONSTANT'"),
        ("resnet-18", "model: unknown name 'resnet-18'; did you mean resnet18"),
        (
            "zzz",
            "known are small-cnn, small-cnn-layernorm, small-cnn-plain, fast-cifar-s, .*wrn-28-10, small-vit",
        ),
    ],
)
def test_names_that_are_no_network(name, message):
    with pytest.raises(ValueError, match=message):
        models.check(name)
    with pytest.raises(ValueError, match=message):
        models.build(name, 3, 10, image_size=32)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("other_name", {}, r"other_name\(num_classes=5\) does not fit .*\(classes\): missing a required argument"),
        ("not_pretrained", {"pretrained": True}, r"not_pretrained\(num_classes=5, pretrained=True\) does not fit"),
        ("no_module", {}, "must return a torch.nn.Module, got list"),
        ("too_many", {}, r"must return \(n, 5\) logits, got shape \(1, 6\) for one image"),
        ("tuple_out", {}, r"must return \(n, 5\) logits, got tuple"),
        ("Small", {"channels": 1}, r"Small\(num_classes=5\) does not take images of shape \(1, 4, 4\)"),
    ],
)
def test_factories_that_do_not_fit(function, options, message):
    options = {"channels": 3, **options}
    with pytest.raises(ValueError, match=message):
        models.build(f"my_nets.small:{function}", options.pop("channels"), 5, image_size=4, **options)


@pytest.mark.usefixtures("package")
def test_a_factorys_own_error_is_its_own():
    with pytest.raises(RuntimeError, match="my own mistake"):
        models.build("my_nets.small:raises", 3, 5, image_size=4)


def test_our_networks_have_no_pretrained_weights():
    with pytest.raises(ValueError, match="resnet18 has no pretrained weights; leave pretrained out, or name"):
        models.build("resnet18", 3, 10, image_size=32, pretrained=True)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("small-vit", 30, "image_size that 4 divides, got 30; set it to 32"),
        ("small-cnn", 1, "2x2 pixels or more, got 1x1"),
        ("fast-cifar-m", 2, "3x3 pixels or more, got 2x2"),
    ],
)
def test_sizes_that_do_not_fit(name, size, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, 1, 10, image_size=size)

"""The networks of a study, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from flatmin.checks import import_callable, known_name
from flatmin.study.networks.fast import fast_cifar_l, fast_cifar_m, fast_cifar_s
from flatmin.study.networks.residual import preact_resnet18, resnet18, resnet20, wrn_28_10
from flatmin.study.networks.transformer import small_vit

#: Called with the channels of the images, the number of classes, and the height and width of the images.
Factory = Callable[[int, int, int], nn.Module]
#: Returns batches of standardised training images, (n, channels, height, width) each.
Images = Callable[[], Iterable[Tensor]]


@runtime_checkable
class StartsFromImages(Protocol):
    """A module whose initial weights are made of training images, such as a layer that whitens them.

    Any module of a network may be one, also in a factory of your own. What it sets should be a buffer if it is not
    trained: state dicts hold buffers, so checkpoints and kept weights need no images.
    """

    def start_from(self, batches: Iterable[Tensor]) -> None:
        """Set the weights; called once, when the network has been built.

        Args:
            batches: of standardised training images without augmentation, (n, channels, height, width) each; the same
                for every seed and method.
        """


def build(
    name: str,
    channels: int,
    classes: int,
    *,
    image_size: int = 8,
    pretrained: bool = False,
    images: Images | None = None,
) -> nn.Module:
    """Build a network. Weights that are not pretrained are drawn from torch's global generator.

    Args:
        name: a key of `MODELS`, or `package.module:factory`, called as factory(num_classes=classes).
        channels: of the input images.
        classes: the number of outputs.
        image_size: height and width of the input images.
        pretrained: call the factory with pretrained=True.
        images: for modules that start from images, see `StartsFromImages`. Called only if there are some and the
            weights are not pretrained. None leaves these modules as they are, for weights that are loaded afterwards.

    Raises:
        ValueError: unknown `name`; a factory that does not take these arguments, or does not return a module that maps
            (n, channels, image_size, image_size) to (n, classes); `pretrained` with a name of `MODELS`.
    """
    if ":" in name:
        net = _made(name, (1, channels, image_size, image_size), classes, {"pretrained": True} if pretrained else {})
    else:
        check(name)
        if pretrained:
            raise ValueError(
                f"model: {name} has no pretrained weights; leave pretrained out, or name package.module:factory"
            )
        net = MODELS[name](channels, classes, image_size)
    if images is not None and not pretrained:
        for module in net.modules():
            if isinstance(module, StartsFromImages):
                module.start_from(images())
    return net


def check(name: str) -> None:
    """Check that `name` names a network.

    Raises:
        ValueError: `name` is unknown, or its module cannot be imported or has no such function.
    """
    if ":" in name:
        _factory(name)
    else:
        known_name("model", name, MODELS)


def small_cnn(
    channels: int, classes: int, image_size: int = 8, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
) -> nn.Module:
    """Two convolutions with BatchNorm: 7,530 parameters with 1 channel, 10 classes and 8x8 images.

    Small enough for a hundred trainings in two minutes on two cores. Large enough to memorize many wrong labels of the
    digits, which is where flat and sharp minima differ. Initialised as by torch.

    Args:
        channels: of the input images.
        classes: the number of outputs.
        image_size: height and width of the input images, >= 2.
        norm: makes the layer after each convolution from the number of its channels.
    """
    if image_size < 2:
        raise ValueError(f"model: small-cnn needs images of 2x2 pixels or more, got {image_size}x{image_size}")
    half = image_size // 2
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),  # (n, 16, size, size)
        norm(16),
        nn.ReLU(),
        nn.MaxPool2d(2),  # (n, 16, half, half)
        nn.Conv2d(16, 24, 3, padding=1, bias=False),  # (n, 24, half, half)
        norm(24),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * half * half, classes),
    )


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels, at each position of (n, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ChannelBias(nn.Module):
    """Adds a bias to each channel: what is left of a normalisation layer without the normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width), the same shape."""
        return x + self.bias[:, None, None]


def small_cnn_layernorm(channels: int, classes: int, image_size: int = 8) -> nn.Module:
    """`small-cnn` with LayerNorm over the channels at each position, instead of BatchNorm; as many parameters.

    No image's output depends on the other images of its batch.
    """
    return small_cnn(channels, classes, image_size, ChannelNorm)


def small_cnn_plain(channels: int, classes: int, image_size: int = 8) -> nn.Module:
    """`small-cnn` with a bias per channel instead of BatchNorm: 7,490 parameters, none of them scale-invariant."""
    return small_cnn(channels, classes, image_size, ChannelBias)


MODELS: dict[str, Factory] = {
    "small-cnn": small_cnn,
    "small-cnn-layernorm": small_cnn_layernorm,
    "small-cnn-plain": small_cnn_plain,
    "fast-cifar-s": fast_cifar_s,
    "fast-cifar-m": fast_cifar_m,
    "fast-cifar-l": fast_cifar_l,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "preact-resnet18": preact_resnet18,
    "wrn-28-10": wrn_28_10,
    "small-vit": small_vit,
}


def _factory(name: str) -> Callable[..., Any]:
    """The function that `package.module:factory` names."""
    factory: Callable[..., Any] = import_callable("model", name, "package.module:factory", "function")[1]
    return factory


def _made(name: str, shape: tuple[int, int, int, int], classes: int, options: dict[str, bool]) -> nn.Module:
    """Call the factory `name` with `classes` and `options`; its network must map images of `shape` to (1, classes)."""
    factory = _factory(name)
    arguments = {"num_classes": classes, **options}
    call = f"model: {name}({', '.join(f'{key}={value}' for key, value in arguments.items())})"
    try:
        signature = inspect.signature(factory)
    except ValueError:
        pass  # written in C: the call itself checks
    else:
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise ValueError(f"{call} does not fit the function's arguments, {signature}: {error}") from None
    net = factory(**arguments)
    if not isinstance(net, nn.Module):
        raise ValueError(f"{call} must return a torch.nn.Module, got {type(net).__name__}")
    training = net.training
    try:
        with torch.no_grad():
            outputs = net.eval()(torch.zeros(shape))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ValueError(f"{call} does not take images of shape {shape[1:]}: {error}") from error
    if getattr(outputs, "shape", None) != (1, classes):
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise ValueError(f"{call} must return (n, {classes}) logits, got {got} for one image")
    return net.train(training)

"""The networks of a study, by name."""

from __future__ import annotations

from torch import nn

from flatmin.study.config import one_of


def build(name: str, channels: int, classes: int) -> nn.Module:
    """A freshly initialised network; its weights come from torch's global generator.

    Args:
        name: a key of `MODELS`.
        channels: of the input images.
        classes: the number of outputs.

    Raises:
        ValueError: unknown `name`.
    """
    one_of("model", name, MODELS)
    return MODELS[name](channels, classes)


def small_cnn(channels: int, classes: int) -> nn.Module:
    """Two convolutions with BatchNorm for 8x8 images: 7,530 parameters with 1 channel and 10 classes.

    Small enough for a hundred trainings in two minutes on two cores, large enough to learn many wrong labels of the
    digits by heart, which is what tells flat from sharp.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),  # (n, 16, 8, 8)
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),  # (n, 16, 4, 4)
        nn.Conv2d(16, 24, 3, padding=1, bias=False),  # (n, 24, 4, 4)
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 4 * 4, classes),
    )


MODELS = {"small-cnn": small_cnn}

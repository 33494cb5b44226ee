"""What the examples share: scikit-learn's 1,797 handwritten digits of 8 by 8 pixels, a small network, its accuracy."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import TensorDataset


def load() -> tuple[TensorDataset, TensorDataset]:
    """1,437 digits to train on and 360 to test, the same ones every time: images (n, 1, 8, 8) and labels (n,)."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    train, test = train_test_split(range(len(labels)), test_size=0.2, stratify=digits.target, random_state=0)
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def network() -> nn.Sequential:
    """A convolutional network with batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    )


@torch.no_grad()
def accuracy(net: nn.Module, data: TensorDataset) -> float:
    """The fraction of images that `net` names right."""
    images, labels = data.tensors
    net.eval()
    return (net(images).argmax(1) == labels).float().mean().item()

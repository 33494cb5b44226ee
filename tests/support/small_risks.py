"""Small loss surfaces whose derivatives are known, and what the flatness tests share."""

import torch
from torch import nn

from flatmin.flatness import Risk


def net(dtype=torch.float64, seed=0):
    """A convolution, BatchNorm with a past, a linear layer: 87 weights."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 5), nn.Tanh())
    model.append(nn.Linear(5, 3)).double()
    for _ in range(3):
        model(torch.randn(8, 1, 4, 4, dtype=torch.float64))
    return model.to(dtype)


def examples(n=10, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(3, (n,), generator=generator)


def batched(x, y, size=4):
    """Batches of a size, the last one smaller."""
    return list(zip(x.split(size), y.split(size), strict=True))


def risk(model=None, loss=None, n=10, size=4, dtype=torch.float64, **options):
    model = net(dtype) if model is None else model
    return Risk(model, loss or nn.CrossEntropyLoss(), batched(*examples(n, dtype), size), **options)


class Bowl(nn.Module):
    """½ Σ λ_i w_i² as a network: its output is the loss of every example."""

    def __init__(self, spectrum, start=None):
        super().__init__()
        self.spectrum = torch.as_tensor(spectrum, dtype=torch.float64)
        zero = torch.zeros_like(self.spectrum)
        self.w = nn.Parameter(zero if start is None else torch.as_tensor(start, dtype=torch.float64))

    def forward(self, x):
        return (0.5 * self.spectrum * self.w**2).sum() + 0 * x[:, 0]


def bowl(spectrum, start=None, examples=3):
    """Its Hessian is diagonal, with this spectrum."""
    x = torch.ones(examples, 1, dtype=torch.float64)
    return Risk(Bowl(spectrum, start), lambda outputs, y: outputs.mean(), [(x, x)])


def rotated(spectrum, seed=0):
    """A least-squares problem with this spectrum, none of its axes a weight's."""
    spectrum = torch.as_tensor(spectrum, dtype=torch.float64)
    d = len(spectrum)
    Q = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    model = nn.Linear(d, 1, bias=False).double()
    x = (Q * spectrum.sqrt()) @ Q.T * d**0.5  # x'x / d has the spectrum
    return Risk(model, lambda out, y: 0.5 * ((out - y) ** 2).squeeze(1), batched(x, torch.zeros(d, 1).double(), 7))


class Matrix:
    """A risk that has only products, with a symmetric matrix. They take no time, so that many seeds can be tried."""

    def __init__(self, matrix):
        self.parameters, self.device, self.dtype = len(matrix), torch.device("cpu"), torch.float64
        self.passes = {"values": 0, "gradients": 0, "products": 0}
        self.matrix = matrix

    @classmethod
    def of(cls, spectrum, seed=0):
        """With a matrix of this spectrum, none of its axes a weight's."""
        spectrum = torch.as_tensor(spectrum, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        Q = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator, dtype=torch.float64))[0]
        return cls((Q * spectrum) @ Q.T)

    def product(self, vectors, operator):
        self.passes["products"] += len(vectors.reshape(-1, self.parameters))
        return vectors.double() @ self.matrix

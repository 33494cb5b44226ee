"""The small training problem that the contract is checked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flatmin.dialogue import Method
from flatmin.engine import FlatOptimizer


def backward(loss: Tensor) -> None:
    """`loss.backward()`."""
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped


class Problem:
    """A small regression: two linear layers, a parameter that nothing uses, a frozen one.

    Args:
        dtype: of parameters and data.
    """

    def __init__(self, dtype: torch.dtype = torch.float32):
        generator = torch.Generator().manual_seed(7)
        real = torch.float64

        def draw(*shape: int) -> Tensor:
            values = torch.randn(shape, dtype=real, generator=generator, device="cpu")
            if dtype.is_complex:
                imaginary = torch.randn(shape, dtype=real, generator=generator, device="cpu")
                values = torch.complex(values, imaginary)
            return values.to(torch.get_default_device(), dtype)

        self.weights = nn.ParameterDict(
            {
                "kernel": nn.Parameter(draw(6, 3, 2, 2)),
                "inner": nn.Parameter(draw(5, 6)),
                "bias": nn.Parameter(draw(5)),
                "scalar": nn.Parameter(draw()),
                "unused": nn.Parameter(draw(3)),
                "frozen": nn.Parameter(draw(5), requires_grad=False),
            }
        )
        self.x, self.y = draw(16, 12), draw(16, 5)

    def optimizer(
        self, method: Method, *, lr: float = 0.01, base: type = torch.optim.SGD, **options: Any
    ) -> FlatOptimizer:
        """A FlatOptimizer on this problem's parameters; SGD with momentum unless another base is asked for."""
        options = options or ({"momentum": 0.9, "weight_decay": 1e-3} if base is torch.optim.SGD else {})
        return FlatOptimizer(base(self.weights.parameters(), lr=lr, **options), method, seed=1)

    def loss(self, rows: slice = slice(None)) -> Tensor:
        """Mean squared error of a smooth network on some rows of the data."""
        w = self.weights
        hidden = torch.tanh(self.x[rows] @ w["kernel"].flatten(1).t())
        error = hidden @ w["inner"].t() + w["bias"] * w["scalar"] + w["frozen"] - self.y[rows]
        loss: Tensor = (error.abs() ** 2).mean()
        return loss

    def closure(self, opt: FlatOptimizer) -> Callable[[], Tensor]:
        """Torch's closure: clear, forward, backward, loss."""

        def evaluate() -> Tensor:
            opt.zero_grad()
            loss = self.loss()
            backward(loss)
            return loss

        return evaluate

    def probes(self, opt: FlatOptimizer) -> Iterator[int]:
        """The loop form, backward pass included."""
        for k in opt.probes():
            backward(self.loss())
            yield k

    def train(self, opt: FlatOptimizer, steps: int) -> list[Tensor]:
        """Some steps by closure; a copy of the parameters after them."""
        for _ in range(steps):
            opt.step(self.closure(opt))
        return self.snapshot()

    def snapshot(self) -> list[Tensor]:
        """A copy of the parameters."""
        return [p.detach().clone() for p in self.weights.values()]

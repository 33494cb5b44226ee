"""The small training problem that the contract is checked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flatmin.engine.optimizer import FlatOptimizer
from flatmin.engine.probe import Probe
from flatmin.protocol import Method, Rows


def backward(loss: Tensor) -> None:
    """`loss.backward()`."""
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped


EVERYTHING = slice(None)


def per_example(opt: FlatOptimizer) -> bool:
    """Whether the method of an optimizer asks about single examples, which closures cannot answer."""
    return bool(getattr(opt.method, "per_example", False))


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
        self.labels = torch.arange(16, device=self.x.device) % 3

    def optimizer(
        self, method: Method, *, lr: float = 0.01, base: type = torch.optim.SGD, **options: Any
    ) -> FlatOptimizer:
        """A FlatOptimizer on this problem's parameters; SGD with momentum unless another base is asked for."""
        options = options or ({"momentum": 0.9, "weight_decay": 1e-3} if base is torch.optim.SGD else {})
        return FlatOptimizer(base(self.weights.parameters(), lr=lr, **options), method, seed=1)

    def loss(self, rows: Rows = EVERYTHING) -> Tensor:
        """Mean squared error of a smooth network on some rows of the data."""
        return ((self.outputs(rows) - self.y[rows]).abs() ** 2).mean()

    def losses(self, rows: Rows = EVERYTHING) -> Tensor:
        """The same for every row, (n,)."""
        return self.losses_of(self.outputs(rows), rows)

    def outputs(self, rows: Rows = EVERYTHING) -> Tensor:
        """What the network computes, (n, 5)."""
        w = self.weights
        hidden = torch.tanh(self.x[rows] @ w["kernel"].flatten(1).t())
        outputs: Tensor = hidden @ w["inner"].t() + w["bias"] * w["scalar"] + w["frozen"]
        return outputs

    def losses_of(self, outputs: Tensor, rows: Rows = EVERYTHING) -> Tensor:
        """The squared errors of outputs, (n,)."""
        return ((outputs - self.y[rows]).abs() ** 2).mean(1)

    def closure(self, opt: FlatOptimizer) -> Callable[[], Tensor]:
        """Torch's closure: clear, forward, backward, loss. Without backward where the gradient is estimated."""

        def evaluate() -> Tensor:
            opt.zero_grad()
            loss = self.loss()
            if loss.requires_grad:
                backward(loss)
            return loss

        return evaluate

    def probes(self, opt: FlatOptimizer, scale: float = 1.0) -> Iterator[int]:
        """The loop form, backward pass of `scale` times the loss included."""
        for probe in opt.probes():
            self.answer(opt, probe, scale)
            yield probe

    def answer(self, opt: FlatOptimizer, probe: Probe, scale: float = 1.0, parts: int = 1) -> None:
        """Do what a probe asks for, in some micro-batches; single examples are spoken of only if the method asks."""
        if not per_example(opt):
            for rows in torch.arange(len(self.x)).chunk(parts):
                probe.backward(self.loss(rows if parts > 1 else EVERYTHING) * scale, share=1 / parts)
            return
        chosen = torch.arange(len(self.x), device=self.x.device)[probe.rows]
        for rows in chosen.chunk(parts):
            outputs = self.outputs(rows)
            losses = self.losses_of(outputs, rows) * scale
            probe.backward(losses, labels=self.labels[rows], outputs=outputs, share=1 / parts)

    def step(self, opt: FlatOptimizer, spoil: Callable[[], None] = lambda: None) -> None:
        """One step: by closure, or by loop if the method asks about single examples.

        Args:
            opt: the optimizer.
            spoil: called in every probe before the forward pass.
        """
        if per_example(opt):
            for probe in opt.probes():
                spoil()
                self.answer(opt, probe)
            opt.step()
        else:
            closure = self.closure(opt)

            def evaluate() -> Tensor:
                spoil()
                return closure()

            opt.step(evaluate)

    def train(self, opt: FlatOptimizer, steps: int) -> list[Tensor]:
        """Some steps; a copy of the parameters after them."""
        for _ in range(steps):
            self.step(opt)
        return self.snapshot()

    def snapshot(self) -> list[Tensor]:
        """A copy of the parameters."""
        return [p.detach().clone() for p in self.weights.values()]

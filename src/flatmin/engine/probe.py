"""What the user's loop is given for one request of a method: which examples, and where to hand over their losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from flatmin.protocol import Ask, Rows

#: The loop that is right for every method.
PER_EXAMPLE = """\
    for probe in opt.probes():
        outputs = net(x[probe.rows])
        losses = F.cross_entropy(outputs, y[probe.rows], reduction="none")
        probe.backward(losses, labels=y[probe.rows], outputs=outputs)
    opt.step()"""


class Probe(int):
    """The number of a probe, from 0, and what is to be done in it."""

    def __new__(cls, number: int, ask: Ask | None = None, scaler: Any = None) -> Probe:
        """Made by the engine."""
        probe = super().__new__(cls, number)
        probe._ask, probe._scaler = ask or Ask(), scaler
        probe._looked, probe._backward, probe._parts, probe._cost = False, False, [], None
        probe.slopes = []
        probe.objective = probe.slope = None
        return probe

    #: What `Ask.keep_slopes` keeps.
    slopes: list[Tensor]
    #: What `Ask.value` and `Ask.derivative` ask for, of the parts so far.
    objective: Tensor | None
    slope: Tensor | None

    _ask: Ask
    _scaler: Any
    _looked: bool
    _backward: bool
    _parts: list[Tensor]
    _cost: float | None

    @property
    def rows(self) -> Rows:
        """Which examples of the batch to use, for `x[probe.rows]`; nearly always all."""
        self._looked = True
        rows = self._ask.rows
        if rows is None:
            return slice(None)
        return rows() if callable(rows) else rows

    def backward(
        self, losses: Tensor, labels: Tensor | None = None, *, outputs: Tensor | None = None, share: float = 1.0
    ) -> None:
        """Run the backward pass that the method wants, of the mean over the examples.

        Args:
            losses: the loss of every example, (n,), as `reduction="none"` gives it; a scalar, if the method has no
                questions about single examples.
            labels: their classes, (n,), for methods that weigh by class.
            outputs: what the network computed, (n, ...), of which the losses are made; for functional SAM.
            share: what this part of a batch counts for, if it comes in micro-batches: 1 / their number.

        Raises:
            ValueError: `losses` is a scalar, and the method asks about single examples; there are no examples; or there
                are no outputs, and the method asks for them.
        """
        if losses.ndim == 0 and (self._ask.weigh is not None or self._ask.each):
            raise ValueError(
                "probe.backward must get the loss of every example, got their mean; "
                'write F.cross_entropy(net(x[probe.rows]), y[probe.rows], reduction="none")'
            )
        if not losses.numel():
            raise ValueError(
                "probe.backward got the losses of no examples: the method uses a part of every batch, and this one is "
                "too small; write DataLoader(..., drop_last=True)"
            )
        self._backward = True
        if self._ask.forward_only:
            self._note(losses, labels, share)
        self._parts.append(losses.detach())
        if not self._ask.gradient:
            return
        if self._ask.slopes_of is not None:
            self._from_outputs(outputs, self._ask.slopes_of.slopes)
            return
        if self._ask.keep_slopes:
            _needed(outputs).register_hook(self.slopes.append)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        with torch.enable_grad():
            loss = self._mean_of(losses, labels, share)
            scaled = loss if self._scaler is None else self._scaler.scale(loss)
            scaled.backward()

    def _mean_of(self, losses: Tensor, labels: Tensor | None, share: float) -> Tensor:
        """What is differentiated: the mean of the losses, weighed as the method wants, and this part's share of it."""
        if self._ask.weigh is not None:
            weights = self._ask.weigh(losses.detach(), labels)
            losses = losses * weights.to(losses.dtype)
        loss = losses.mean() if losses.ndim else losses
        return loss if share == 1.0 else loss * share

    def _note(self, losses: Tensor, labels: Tensor | None, share: float) -> None:
        """Note the objective of a part, and its derivative."""
        if self._ask.along is None:
            value = self._mean_of(losses.detach().double(), labels, share)
            self.objective = value if self.objective is None else self.objective + value
            return
        dual = self._mean_of(losses, labels, share)
        slope = forward_ad.unpack_dual(dual).tangent  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if slope is None:
            raise RuntimeError(
                f"the loss of probe {int(self)} has no derivative along the weights: give probe.backward(losses), or "
                "return from the closure, the tensor that the network's outputs lead to, not a number or a detached one"
            )
        self.slope = slope if self.slope is None else self.slope + slope

    def _from_outputs(self, outputs: Tensor | None, slopes: Sequence[Tensor]) -> None:
        """Run the backward pass from the outputs. The slopes hold the weights of the examples and the loss scale."""
        outputs, part = _needed(outputs), len(self._parts) - 1
        before = [tuple(s.shape) for s in slopes]
        if before[part : part + 1] != [tuple(outputs.shape)]:
            raise ValueError(
                f"probe {int(self)} got outputs of shape {tuple(outputs.shape)} in part {part}, and an earlier probe "
                f"slopes of {before}; write the same probe.backward(losses, outputs=outputs) in every probe, with the "
                "outputs that the losses are made of"
            )
        outputs.backward(slopes[part])  # type: ignore[no-untyped-call]  # torch leaves it untyped

    @property
    def forward_only(self) -> bool:
        """Whether the loss is all that is wanted: no backward pass, and no graph for one."""
        return self._ask.forward_only

    def report(self, value: Any) -> None:
        """Note what a closure returned as the loss of this probe, unless the body called `backward`."""
        if not self._parts and isinstance(value, Tensor | float | int):
            loss = torch.as_tensor(value)
            if self._ask.forward_only:
                self._note(loss, None, 1.0)
            self._parts.append(loss.detach())

    @property
    def cost(self) -> float:
        """What this probe takes compared with a gradient of the whole batch; rows are not counted.

        Read it at the end of the body: what the forward pass can reuse is known when it has run.
        """
        return self._ask.cost if self._cost is None else self._cost

    def reused(self, cost: float) -> None:
        """Note that parts of the network did not run, and what the others cost."""
        self._cost = cost

    @property
    def losses(self) -> Tensor | None:
        """The losses that `backward` got, of all parts together, or what `report` got; None before."""
        if len(self._parts) < 2:
            return self._parts[0] if self._parts else None
        return torch.cat([part.reshape(-1) for part in self._parts])

    def check(self, method: object) -> None:
        """Refuse a loop that did not do what was asked.

        Raises:
            RuntimeError: rows were not looked at, or `backward` was not called where it makes a difference.
        """
        if self._ask.forward_only and not self._parts:
            raise RuntimeError(
                f"{method!r} needs the loss of probe {int(self)}, and was not told. Return it from the closure, or "
                "write probe.backward(loss) in the loop over opt.probes(), in place of loss.backward()"
            )
        overlooked = self._ask.rows is not None and not self._looked
        slopes = self._ask.keep_slopes or self._ask.slopes_of is not None
        plain = self._ask.gradient or self._ask.forward_only
        told = self._ask.weigh or self._ask.each or slopes or not plain
        if overlooked or (told and not self._backward):
            does = "needs what the network computed" if slopes else "chooses or weighs examples"
            what = f"{method!r} {does} in probe {int(self)}"
            raise RuntimeError(f"{what}, which this loop does not do. Write\n{PER_EXAMPLE}")


def _needed(outputs: Tensor | None) -> Tensor:
    if outputs is None:
        raise ValueError(
            "probe.backward must get what the network computed, got none; write outputs = net(x[probe.rows]) and "
            "probe.backward(losses, outputs=outputs)"
        )
    return outputs

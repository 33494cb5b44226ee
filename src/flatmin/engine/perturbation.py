"""The only code of the engine that writes weights: perturb them, restore them, and a method's step past the base.

The copy of each piece of the weights is kept before that piece is moved. So an exception, Ctrl-C or a loop left early
restores the weights bit for bit, in the same storage.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from flatmin.protocol import Gradient
from flatmin.vectors.blocks import Block, Scope, Values
from flatmin.vectors.expression import Number, pieces
from flatmin.vectors.vector import Vec, representable, split

#: What programs handle in Python: Ctrl-C, the end that a cluster announces, timers, and their own.
_SIGNALS: list[int] = [
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if name in signal.Signals.__members__
]


class Perturbation:
    """A displacement of the weights, and the copies that undo it."""

    def __init__(self) -> None:
        self._moved: list[tuple[list[Tensor], list[Tensor]]] = []
        self._versions: list[tuple[Tensor, int]] = []

    @property
    def active(self) -> bool:
        """Whether any weight is displaced."""
        return bool(self._moved)

    def apply(self, delta: Vec, scope: Scope, scales: Sequence[float] | None, done: Sequence[Gradient]) -> None:
        """Add δ to the weights.

        Args:
            delta: the displacement.
            scope: the parameters that move.
            scales: a factor for every parameter; None for one.
            done: gradients that nobody needs after this. One of them may become the copy of the weights.
        """
        params = scope.tensors
        factor, body = split(delta)
        length = factor.value(scope) if isinstance(factor, Number) else factor
        lent = _lent(params, done)
        if scope.compiler and scales is None and self._apply_compiled(body, length, scope, lent):
            return
        copies: list[Tensor | None] = [None] * len(params)
        moving: set[int] = set()
        for block, piece in pieces(body, scope, params, lent):
            weights, homes = block.of(params), block.of(lent)
            if piece is None or weights is None:
                continue
            shift = piece.tensors
            if scales is not None:
                shift = list(torch._foreach_mul(shift, [scales[i] for i in block.indices]))
            if isinstance(length, Tensor):
                shift = list(torch._foreach_mul(shift, length.to(shift[0].device, non_blocking=True)))
            shift, alpha = representable(shift, 1.0 if isinstance(length, Tensor) else length)
            if homes is None:
                homes = _fresh(block, params, copies)
                torch._foreach_copy_(homes, weights)
                self._moved.append((weights, homes))
                torch._foreach_add_(weights, shift, alpha=alpha)
            else:  # what was lent may be the very shift: read it before it is overwritten
                moved = torch._foreach_add(weights, shift, alpha=alpha)
                torch._foreach_copy_(homes, weights)
                self._moved.append((weights, homes))
                torch._foreach_copy_(weights, moved)
            moving.update(block.indices)
        # All pieces of these parameters are away now, and whole tensors come back faster.
        self._note([(params[i], copies[i] if lent[i] is None else lent[i]) for i in moving])

    def _apply_compiled(self, body: Vec, length: float | Tensor, scope: Scope, lent: Values) -> bool:
        """Add δ to the weights in one compiled pass; False if there is none, and nothing was done.

        A signal waits for its end: an exception in the middle would leave some weights moved, and nobody knows which.
        """
        params, homes = scope.tensors, list(lent)
        for i in scope.indices:
            homes[i] = torch.empty_like(params[i]) if homes[i] is None else homes[i]
        move = scope.compiler.compiled(_displace, (body,), scope, (params, homes), length)
        if move is None:
            return False
        with signals_wait():
            done = move()
            self._note([(params[i], homes[i]) for i in done.indices])
        return True

    def _note(self, pairs: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """Remember which weights are away, and where their copies are."""
        there = [(p, copy) for p, copy in pairs if copy is not None]
        self._moved = [([p for p, _ in there], [copy for _, copy in there])] if there else []
        self._versions = [(p, p._version) for p, _ in there]

    def written(self) -> list[Tensor]:
        """The displaced weights that other code has written meanwhile. Restoring undoes that."""
        return [p for p, version in self._versions if p._version != version]

    def restore(self) -> None:
        """Put every weight back."""
        self._versions = []
        with torch.no_grad():
            for weights, homes in self._moved:
                torch._foreach_copy_(weights, homes)
        self._moved.clear()


def _displace(shift: list[Tensor], weights: list[Tensor], homes: list[Tensor], length: Tensor) -> None:
    """Copy the weights, then move them. `shift` may be made of `homes`: it is read before they are written."""
    moved = torch._foreach_add(weights, torch._foreach_mul(shift, length))
    torch._foreach_copy_(homes, weights)
    torch._foreach_copy_(weights, moved)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let the handlers of signals that arrive in the body run after it, as the one that raises KeyboardInterrupt.

    Python runs them in its main thread only, so nothing needs to be done in others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[tuple[int, FrameType | None]] = []

    def wait(number: int, frame: FrameType | None) -> None:
        arrived.append((number, frame))

    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    for number in _SIGNALS:
        if callable(handler := signal.getsignal(number)):
            handlers[number] = handler
            signal.signal(number, wait)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in arrived:
            handlers[number](number, frame)


def moved(weights: Sequence[Tensor], shift: Sequence[Tensor], scales: Sequence[float]) -> list[Tensor]:
    """Weights plus a shift, in new memory and in the dtype of the weights."""
    triples = zip(weights, shift, scales, strict=True)
    return [torch.add(w, s, alpha=scale).to(w.dtype) for w, s, scale in triples]


@torch.no_grad()
def bypass(base: Optimizer, update: Sequence[Tensor | None]) -> None:
    """Take the part of a step that the base optimizer does not see: w ← w − lr · update.

    Args:
        base: whose parameters and learning rates they are.
        update: a tensor for every parameter, None for nothing; or empty.
    """
    if update:
        pairs = [(p, group["lr"]) for group in base.param_groups for p in group["params"]]
        for (p, rate), v in zip(pairs, update, strict=True):
            if v is not None:
                p.sub_(rate * v)


def owns_memory(tensor: Tensor | None) -> bool:
    """Whether nothing else lives in a tensor's storage. A missing one does no harm."""
    return tensor is None or (
        tensor.layout == torch.strided and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    )


def _lent(params: Sequence[Tensor], done: Sequence[Gradient]) -> Values:
    """For each parameter a tensor of its dtype, shape and strides whose content nobody needs, if there is one."""

    def alike(p: Tensor, g: Tensor) -> bool:
        return (p.dtype, p.device, p.shape, p.stride()) == (g.dtype, g.device, g.shape, g.stride())

    for gradient in done:
        if all(owns_memory(value) for value in gradient.values):
            pairs = zip(params, gradient.values, strict=True)
            return [g if g is not None and alike(p, g) else None for p, g in pairs]
    return [None] * len(params)


def _fresh(block: Block, params: Sequence[Tensor], copies: list[Tensor | None]) -> list[Tensor]:
    """New memory for the copies of a block's parameters, a whole parameter at a time."""
    for i in block.indices:
        if copies[i] is None:
            copies[i] = torch.empty_like(params[i])
    homes = block.of(copies)
    assert homes is not None
    return homes

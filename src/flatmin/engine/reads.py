"""Weights displaced where they are read: nothing writes them, so nothing has to be restored, and no copy is kept.

A loss that needs no backward pass does not need its weights afterwards. So while such a probe runs, every function of
torch that is given a weight w is given w + δ instead, computed for this call and dropped after it. The weights in
memory stay what they are, bit for bit, and the memory is that of inference and of the largest weight. δ is made again
from its seed wherever it is read. With a tangent, w + δ carries it through the network by forward-mode differentiation.

Subtracting the noise after the pass, as is usual, is not exact: it leaves a rounding error in every weight, step after
step (`benchmarks/zeroth_order.py` measures it). A copy is exact, and as large as the network.

What calls no function of torch is not seen: TorchScript, `torch.compile`, extensions that take weights directly. Their
weights, and sharded ones, are displaced in memory and restored from a copy (`perturbation.py`), see `unreadable`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from flatmin.engine.perturbation import moved
from flatmin.vectors.blocks import Block, Scope
from flatmin.vectors.vector import Vec

#: Functions that read no element of a tensor: their result is the same for w and w + δ.
_OF_SHAPE = frozenset(
    {"size", "numel", "dim", "stride", "is_contiguous", "is_floating_point", "is_complex", "nelement"}
)
#: Attributes that do: all others tell of shape, dtype or place.
_OF_ELEMENTS = frozenset({"T", "mT", "H", "mH", "data", "real", "imag"})


class Displacement(NamedTuple):
    """A displacement, and what it moves.

    Args:
        delta: the displacement.
        scope: the parameters that move.
        scales: a factor for every parameter; None for one.
    """

    delta: Vec
    scope: Scope
    scales: Sequence[float] | None = None


class DisplacedReads(TorchFunctionMode):
    """While this is active, functions of torch are given w + δ in place of w.

    Args:
        scope: all parameters.
        displacements: what to add.
        along: the tangent; None for none. Needs a level of `torch.autograd.forward_ad`.
        name: of the probe, for messages.
    """

    def __init__(self, scope: Scope, displacements: Sequence[Displacement], along: Vec | None, name: str):
        super().__init__()
        self._scope, self._displacements, self._along, self._name = scope, displacements, along, name
        self._index = {id(p): i for i, p in enumerate(scope.params)}
        #: The parameters that were read, by index.
        self.seen: set[int] = set()
        for delta, moving, _ in displacements:
            delta.evaluate_scalars(moving)
        if along is not None:
            along.evaluate_scalars(scope)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, its weights displaced."""
        if func is Tensor.backward or func is torch.autograd.backward:
            raise RuntimeError(
                f"{self._name} needs no backward pass. Write probe.backward(loss) in the loop over opt.probes(), in "
                "place of loss.backward(); in a closure return the loss without it: `lambda: criterion(net(x), y)`"
            )
        name = getattr(func, "__name__", "")
        if not _reads(func, name):
            return func(*args, **(kwargs or {}))
        written = args[: _writes(name)]  # it stays the weight itself
        args = (*written, *self._displaced(tuple(args[len(written) :])))
        kwargs = {key: self._displaced(value) for key, value in (kwargs or {}).items()}
        try:
            return func(*args, **kwargs)
        except NotImplementedError as error:
            if "forward AD" not in str(error) and "forward mode AD" not in str(error):
                raise
            raise RuntimeError(
                f"{self._name}: torch has no forward-mode derivative of {name}, which the network calls; write "
                "gradient=flatmin.ZerothOrder(), which needs losses only"
            ) from error

    def _displaced(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            index = self._index.get(id(value))
            return value if index is None else self._read(index)
        if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
            changed = [self._displaced(part) for part in value]
            if all(new is old for new, old in zip(changed, value, strict=True)):
                return value
            return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)
        return value

    @torch.no_grad()
    def _read(self, index: int) -> Tensor:
        """w + δ of one parameter, with its tangent."""
        self.seen.add(index)
        block, weight = Block((index,)), self._scope.tensors[index].detach()
        for delta, moving, scales in self._displacements:
            piece = delta.at(block, moving) if index in moving.indices else None
            if piece is not None:
                scale = 1.0 if scales is None else scales[index]
                weight = moved([weight], piece.tensors, [scale])[0]
        if self._along is not None:
            piece = self._along.at(block, self._scope)
            if piece is not None:
                tangent = piece.tensors[0].to(weight.dtype)
                weight = forward_ad.make_dual(weight, tangent)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return weight


def _reads(func: Any, name: str) -> bool:
    """Whether a function reads elements of a tensor."""
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in _OF_ELEMENTS
    return name not in _OF_SHAPE


def _writes(name: str) -> int:
    """How many arguments, the first ones, a function writes into: 1 for those that work in place."""
    return int(name in ("__set__", "__delete__", "__setitem__") or (name.endswith("_") and not name.endswith("__")))


@cache
def _load_rules() -> None:
    """Let torch load its rules of forward-mode differentiation, some of which its deprecated compiler compiles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]  # torch leaves it untyped


@contextmanager
def forward_mode() -> Iterator[None]:
    """Inside, tensors may carry tangents. Of the kernels of attention only the plain one can."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    _load_rules()
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        yield


def unreadable(model: nn.Module | None, scope: Scope) -> str:
    """Why the weights of a network must be displaced in memory; empty if they can be displaced where they are read."""
    if any(scope.shards):
        return "its weights are sharded"
    for module in () if model is None else model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            return "a part of it is TorchScript"
        if module._compiled_call_impl is not None or hasattr(module, "_orig_mod"):
            return "it is compiled"
    return ""

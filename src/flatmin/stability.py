"""Whether a training is still able to learn: gradients that turn or vanish, units that have gone silent.

The measurements of "Stable Gradients for Stable Learning at Scale in Deep Reinforcement Learning", arXiv 2506.15544,
for any training. They were read in the authors' code; nothing here comes from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flatmin.checks import at_least
from flatmin.preserve import observe

#: Modules whose outputs are activations of units.
ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.Tanh,
    nn.Sigmoid,
)


class GradientTrace:
    """The gradients that a base optimizer is given, step by step: how much they turn, and how long they are.

        cosine of step t:  g_t · g_{t−1} / (‖g_t‖ ‖g_{t−1}‖)

    A cosine near 1 says that steps agree, near 0 that each batch wants something else, below 0 that steps oscillate.
    Norms of layers that differ by orders of magnitude, or shrink during a training, go with a loss of plasticity.

    Args:
        optimizer: any torch optimizer. Of a `FlatOptimizer` the direction of the method is measured, which is the
            gradient for `flatmin.Plain()`.
        names: of the parameters, for `norms`: `net.named_parameters()`. None numbers them in the order of the groups.

    Cost: a copy of the gradients between steps; nothing waits for an accelerator until the numbers are read.

    Raises:
        TypeError: `optimizer` is no torch optimizer.

    Examples:
        >>> net = nn.Linear(3, 1)
        >>> opt = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with GradientTrace(opt, net.named_parameters()) as trace:
        ...     for _ in range(3):
        ...         opt.zero_grad()
        ...         net(torch.ones(1, 3)).sum().backward()
        ...         opt.step()
        >>> [round(x, 4) for x in trace.cosines]
        [1.0, 1.0]
        >>> {name: round(norm[-1], 4) for name, norm in trace.norms.items()}
        {'weight': 1.7321, 'bias': 1.0}
    """

    def __init__(self, optimizer: Optimizer, names: Iterable[tuple[str, Tensor]] | None = None):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        self._base = getattr(optimizer, "base", optimizer)
        self._names = {p: name for name, p in names} if names is not None else {}
        self._last: dict[Tensor, Tensor] = {}
        self._cosines: list[Tensor] = []
        self._norms: dict[str, list[Tensor]] = {}
        self._handle: Any = None

    def __enter__(self) -> GradientTrace:
        self._handle = self._base.register_step_pre_hook(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()
        self._last = {}

    @property
    def cosines(self) -> list[float]:
        """Of each gradient with the one before, over all parameters together; one fewer than steps, 0 for zeros."""
        return [float(value) for value in self._cosines]

    @property
    def norms(self) -> dict[str, list[float]]:
        """Parameter -> the length of its gradient at every step; a step that had none for it is left out."""
        return {name: [float(value) for value in values] for name, values in self._norms.items()}

    @torch.no_grad()
    def _note(self, *_: Any) -> None:
        params = [p for group in self._base.param_groups for p in group["params"]]
        now = {p: _wide(p.grad) for p in params if p.grad is not None}
        for number, p in enumerate(params):
            if p in now:
                name = self._names.get(p, str(number))
                self._norms.setdefault(name, []).append(torch.linalg.vector_norm(now[p]))
        if self._last:
            product = _total([torch.sum(g * self._last[p]) for p, g in now.items() if p in self._last])
            lengths = [_total([g.square().sum() for g in each.values()]).sqrt() for each in (now, self._last)]
            self._cosines.append(product / (lengths[0] * lengths[1]).clamp(min=1e-30))
        self._last = {p: g.clone() for p, g in now.items()}


def _wide(t: Tensor) -> Tensor:
    t = t.to_local() if hasattr(t, "to_local") else t
    t = t.to_dense() if t.is_sparse else t
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _total(numbers: Sequence[Tensor]) -> Tensor:
    return torch.stack([n.to(numbers[0].device) for n in numbers]).sum() if numbers else torch.zeros(())


@torch.no_grad()
def dormant_units(
    net: nn.Module, inputs: Iterable[Any], *, threshold: float = 0.0, layers: Sequence[nn.Module] | None = None
) -> dict[str, float]:
    """The fraction of units that no example activates, for every layer of activations.

    A unit is dormant if its largest activation over all examples, and all positions of a feature map, is at most the
    threshold. It passes on no gradient through a ReLU, so it stays dormant unless something else moves.

    Args:
        net: the network. It runs in evaluation mode, and is left in the mode that it was in.
        inputs: batches, each as the network takes it: a tensor, or a tuple of arguments.
        threshold: in units of the activation; >= 0. For activations that are never zero, as GELU, take a small one.
        layers: modules whose outputs to look at, units in dimension 1; all modules that are activations by default. An
            activation that is called as a function, as `F.relu`, is no module: give the module before it.

    Returns:
        Name of the module -> fraction in [0, 1].

    Cost: a forward pass per batch.

    Raises:
        ValueError: there is no such layer, or none ran.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
        >>> _ = nn.init.constant_(net[0].bias, -100.0)
        >>> dormant_units(net, [torch.randn(8, 2)])
        {'1': 1.0}
    """
    at_least("threshold", threshold, 0)
    wanted = [m for m in net.modules() if isinstance(m, ACTIVATIONS)] if layers is None else list(layers)
    names = {module: name for name, module in net.named_modules() if any(module is m for m in wanted)}
    largest: dict[str, Tensor] = {}

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        over = [d for d in range(output.ndim) if d != 1]
        top, name = output.amax(over), names[module]
        largest[name] = torch.maximum(largest[name], top) if name in largest else top

    observe(net, inputs, names, note)
    if not largest:
        raise ValueError(
            "the network has no module of activations that ran; write "
            "dormant_units(net, inputs, layers=[net.fc1]), with the modules before its activations"
        )
    return {name: float((top <= threshold).float().mean()) for name, top in largest.items()}

"""The side effects of forward passes: a step of many passes has those of its first pass only.

**Running statistics.** A two-gradient method runs the network twice per step, once at perturbed weights. Without care
BatchNorm counts two batches per step and averages activations of the perturbed network. Setting `momentum = 0` does not
help: `num_batches_tracked` still counts, and `momentum=None` is the cumulative average. So the statistics are copied
after the first probe, and the copy is put back in place after every later one. It is a few kilobytes. The vectors of
`spectral_norm`, which move at every forward pass, are treated the same way.

**Random numbers.** On request every probe repeats the dropout masks of the first, and the generators continue from
where the first probe left them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

#: Buffers that hold running statistics in torch's own layers, and in most classes modelled on them.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

_registered: dict[type[nn.Module], tuple[str, ...]] = {}


def register_statistics(layer: type[nn.Module], *buffers: str) -> None:
    """Hold other buffers of a layer class still, too: those of a normalisation layer of your own.

    Buffers named as torch names them (`running_mean`, `running_var`, `num_batches_tracked`) need no registration.

    Args:
        layer: the class; its subclasses are included.
        buffers: names of the buffers that a forward pass in training mode updates in place.

    Raises:
        TypeError: `layer` is not a module class, or no buffer is named.
    """
    if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
        raise TypeError(f"layer must be a subclass of torch.nn.Module, got {layer!r}; write type(layer)")
    if not buffers or not all(isinstance(b, str) for b in buffers):
        raise TypeError(f"buffers must be names such as 'running_mean', got {buffers!r}")
    _registered[layer] = buffers


def statistics(model: nn.Module) -> Iterator[Tensor]:
    """The buffers of a model that hold running statistics, or the vectors of a spectral norm."""
    for module in model.modules():
        names = set(STATISTICS)
        if isinstance(module, _SpectralNorm):
            names.update(("_u", "_v"))
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                names.update((f"{hook.name}_u", f"{hook.name}_v"))
        for layer, buffers in _registered.items():
            if isinstance(module, layer):
                names.update(buffers)
        yield from (b for name, b in module.named_buffers(recurse=False) if name in names)


@torch.no_grad()
def rebuild_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Compute BatchNorm's running statistics anew, at the weights as they are.

    For evaluation after methods that take no gradient at the weights themselves (`MomentumSAM`, `RandomNoise`): their
    statistics are those of perturbed weights. Training mode, random numbers and everything else stay as they were.

    Args:
        model: the network.
        batches: inputs, each as the network takes it: a tensor, or a tuple of arguments. Some dozens suffice.

    Cost: one forward pass per batch.

    Examples:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        >>> rebuild_statistics(net, [torch.randn(8, 3) for _ in range(5)])
        >>> int(net[1].num_batches_tracked)
        5
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    if not layers:
        return
    momenta, modes = [layer.momentum for layer in layers], [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a cumulative average
            layer.train()
        for batch in batches:
            model(*batch) if isinstance(batch, tuple) else model(batch)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes:
            module.training = training


class FirstPassEffects:
    """The side effects of several forward passes, reduced to those of the first.

    Args:
        model: whose running statistics to hold still; None for nobody's.
        same_dropout: replay the random numbers of the first pass in every later one.
        devices: where random numbers are drawn, beside the CPU.
    """

    def __init__(self, model: nn.Module | None, same_dropout: bool, devices: set[torch.device]):
        self._buffers = list(statistics(model)) if model is not None else []
        self._same_dropout = same_dropout
        self._devices = sorted((d for d in devices if d.type == "cuda"), key=str)
        self._first = True
        self._after_first: list[Tensor] = []
        self._random_before: list[Tensor] = []

    @contextmanager
    def of_pass(self, still: bool = False) -> Iterator[None]:
        """Around one pass, whatever happens in it.

        Args:
            still: replay the random numbers, since the losses of several passes are compared.
        """
        first, self._first = self._first, False
        random_now = self._random() if still else self.random()
        if not self._random_before:
            self._random_before = random_now
        elif random_now:
            self._set_random(self._random_before)
        try:
            yield
        finally:
            if first:
                self._after_first = [b.clone() for b in self._buffers]
            else:
                self._set_random(random_now)
                if self._buffers:
                    torch._foreach_copy_(self._buffers, self._after_first)

    def random(self) -> list[Tensor]:
        """Where the random numbers are that later passes replay; nothing if they do not."""
        return self._random() if self._same_dropout else []

    def replay(self, random: list[Tensor]) -> None:
        """Continue from there."""
        self._set_random(random)

    def _random(self) -> list[Tensor]:
        return [torch.get_rng_state(), *[torch.cuda.get_rng_state(d) for d in self._devices]]

    def _set_random(self, states: list[Tensor]) -> None:
        for device, state in zip([None, *self._devices], states, strict=False):
            if device is None:
                torch.set_rng_state(state)
            else:
                torch.cuda.set_rng_state(state, device)

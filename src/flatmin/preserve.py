"""Measure a network and leave it as it was: modes, buffers, hooks, random generators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def preserved(model: nn.Module, training: bool) -> Iterator[None]:
    """Set all modules to one mode; on exit restore the mode and the buffers of each.

    Args:
        model: the network.
        training: the mode: training or evaluation.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, name, b, b.clone()) for module in model.modules() for name, b in _own_buffers(module)]
    try:
        for module, _ in modes:
            module.training = training  # not model.train(), which networks override to freeze layers for good
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer.copy_(before)


@torch.no_grad()
def observe(
    model: nn.Module, batches: Iterable[Any], modules: Iterable[nn.Module], note: Callable[[Any, Any, Any], None]
) -> None:
    """Run a network in evaluation mode, for what some of its modules see.

    Args:
        model: the network; it is left as it was.
        batches: inputs, each as the network takes it: a tensor, or a tuple of arguments.
        modules: those to look at.
        note: called after each pass of one of them, with the module, its arguments and its output.

    Cost: a forward pass per batch.
    """
    with preserved(model, training=False), ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_hook(note).remove)
        for batch in batches:
            model(*batch) if isinstance(batch, tuple) else model(batch)


@contextmanager
def random_state_preserved(device: torch.device) -> Iterator[None]:
    """Restore the random generators on exit, so that draws inside, such as a loader's seed, have no effect outside."""
    before = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)


def _own_buffers(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, buffer) for name, buffer in module._buffers.items() if buffer is not None)

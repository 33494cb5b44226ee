"""`create_optimizer`: an optimizer from the name of a method, for scripts that pick theirs by a string."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flatmin.checks import known_name
from flatmin.engine.one_gradient import OneGradientOptimizer, why_not_one_gradient
from flatmin.engine.optimizer import FlatOptimizer
from flatmin.registry import lookup
from flatmin.selectors import is_vector

#: The base optimizers that have a name here.
BASES: dict[str, type[Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
#: A network, its parameters, or groups of them.
Parameters: TypeAlias = "nn.Module | Iterable[Any]"


def create_optimizer(
    method: str,
    model_or_params: Parameters,
    *,
    lr: float,
    weight_decay: float | None = None,
    base: str | Callable[..., Optimizer] = "sgd",
    momentum: float | None = None,
    no_decay_on_vectors: bool = False,
    seed: int | None = None,
    **hyperparameters: Any,
) -> FlatOptimizer:
    """Make an optimizer by the name of its method, as timm's `create_optimizer_v2` does.

    A method of one gradient per step becomes a `OneGradientOptimizer`, which an existing training script can use as it
    is: forward, backward, `step()`. Any other becomes a `FlatOptimizer`, which needs the loop over `opt.probes()` or
    `step(closure)`; its `step()` alone is an error that says so.

    Args:
        method: one of `flatmin.methods()`.
        model_or_params: the network, as it is called in training. With parameters, or groups of them, call
            `opt.train()` before training and `opt.eval()` before evaluation and checkpoints: see
            `OneGradientOptimizer`.
        lr: learning rate; >= 0.
        weight_decay: of the base optimizer: coupled in SGD and Adam, decoupled in AdamW; >= 0. None is 0. A method that
            has a weight decay of its own, as `IVON`, gets it instead; None is then the method's default.
        base: "sgd", "adam", "adamw", or what makes an optimizer from `(params, lr=..., weight_decay=...)`, such as a
            class of `torch.optim`, `functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True)`, or a function of
            yours that returns a `MultiOptimizer`.
        momentum: of "sgd"; None is 0.9, and 0 for methods that average gradients themselves, as `IVON`. Refused for
            other bases.
        no_decay_on_vectors: timm's convention: no weight decay on parameters of one dimension (biases, normalization
            layers), on those named `bias`, and on those in the network's `no_weight_decay()`. Groups with a
            `weight_decay` of their own keep it. Timm's default is True.
        seed: of the noise that methods draw; by default torch's initial seed.
        **hyperparameters: of the method, such as `rho`.

    Raises:
        ValueError: no method or base has this name, or the method has no such hyper-parameter (the message lists the
            nearest); a value is out of range.
        TypeError: a value is of the wrong type.

    Examples:
        >>> net = nn.Linear(4, 1)
        >>> opt = create_optimizer("msam", net, lr=0.1, weight_decay=5e-4, rho=0.3)
        >>> opt.method
        MomentumSAM(rho=0.3)
        >>> type(create_optimizer("sam", net, lr=1e-3, base="adamw")).__name__
        'FlatOptimizer'
    """
    entry = lookup(method)
    known = inspect.signature(entry.make).parameters
    for name in hyperparameters:
        known_name(f"hyper-parameter of {method!r}", name, known)
    if "weight_decay" in known:
        if no_decay_on_vectors:
            raise ValueError(
                f"no_decay_on_vectors must be False for {method!r}, whose weight decay is that of all weights, got True"
            )
        hyperparameters |= {} if weight_decay is None else {"weight_decay": weight_decay}
        weight_decay = None
    if momentum is None and base == "sgd":
        momentum = 0.0 if "beta1" in known else 0.9
    made = entry.make(**hyperparameters)
    model = model_or_params if isinstance(model_or_params, nn.Module) else None
    groups = _groups(model_or_params, split=no_decay_on_vectors and bool(weight_decay))
    optimizer = _base(base, groups, lr, weight_decay or 0.0, momentum)
    if entry.gradients == 1 and entry.first is None and not why_not_one_gradient(optimizer, made, model):
        return OneGradientOptimizer(optimizer, made, model=model, seed=seed)
    return FlatOptimizer(optimizer, made, model=model, seed=seed)


def _base(
    base: str | Callable[..., Optimizer], groups: list[Any], lr: float, weight_decay: float, momentum: float | None
) -> Optimizer:
    if isinstance(base, str):
        known_name("base", base, BASES)
    if base == "sgd":
        return torch.optim.SGD(groups, lr=lr, weight_decay=weight_decay, momentum=momentum or 0.0)
    if momentum is not None:
        raise ValueError(
            f'momentum is an argument of base="sgd", got momentum={momentum!r} with base={base!r}; '
            "write base=functools.partial(torch.optim.AdamW, betas=(0.9, 0.999)), with what your base takes"
        )
    make: Callable[..., Optimizer] = BASES[base] if isinstance(base, str) else base
    return make(groups, lr=lr, weight_decay=weight_decay)


def _groups(model_or_params: Parameters, *, split: bool) -> list[Any]:
    """Parameters, or groups of them, as a base optimizer takes them.

    Args:
        model_or_params: as above.
        split: make two groups of each, the first of them without weight decay.
    """
    if isinstance(model_or_params, nn.Module):
        exempt = set(getattr(model_or_params, "no_weight_decay", set)())
        given: list[Any] = list(model_or_params.parameters())
        bare = {
            id(p)
            for name, p in model_or_params.named_parameters()
            if is_vector(p) or name.endswith(".bias") or name in exempt
        }
    else:
        given = list(model_or_params)
        bare = set()
    if not split:
        return given
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    return [part for group in groups for part in _split(group, bare)]


def _split(group: dict[str, Any], bare: set[int]) -> list[dict[str, Any]]:
    """A group as two: what takes no weight decay, and the rest."""
    if "weight_decay" in group:
        return [group]
    params: list[Any] = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
    halves: tuple[list[Any], list[Any]] = [], []
    for entry in params:
        p = entry[1] if isinstance(entry, tuple) else entry  # torch takes (name, parameter), too
        halves[not (is_vector(p) or id(p) in bare)].append(entry)
    parts = [{**group, "params": halves[0], "weight_decay": 0.0}, {**group, "params": halves[1]}]
    return [part for part in parts if part["params"]]

"""What `FlatOptimizer` refuses, and what it says then."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer


def check_arguments(base: object, method: object, model: object) -> None:
    """Refuse what is not a first-order optimizer, a method, a network or None.

    Raises:
        TypeError: one of them is not; the message names it and the line to write instead.
    """
    check_base("base", base)
    if isinstance(method, type):
        raise TypeError(f"method must be an instance, got the class {method.__name__}; write {method.__name__}()")
    if not callable(getattr(method, "direction", None)):
        raise TypeError(f"method must have direction(w, memory), got {method!r}; for example flatmin.PUGD()")
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be the network, a torch.nn.Module, got {type(model).__name__}")


def check_base(name: str, base: object) -> None:
    """Refuse what is not a first-order optimizer, or has parameters that the engine cannot measure.

    Raises:
        TypeError: it is so; the message has the name and the line to write instead.
    """
    if isinstance(base, type):
        raise TypeError(
            f"{name} must be a constructed optimizer, got the class {base.__name__}; "
            f"write {base.__name__}(net.parameters(), lr=...)"
        )
    if not isinstance(base, Optimizer):
        raise TypeError(f"{name} must be a torch.optim.Optimizer, got {type(base).__name__}")
    if isinstance(base, LBFGS):
        raise TypeError(
            f"{name} is LBFGS, which evaluates gradients itself; use a first-order one such as torch.optim.SGD"
        )
    if any(getattr(p, "_fsdp_flattened", False) for group in base.param_groups for p in group["params"]):
        raise TypeError(
            f"{name} has the flat parameters of FullyShardedDataParallel (FSDP1), which do not tell which process "
            "holds what, so norms would be wrong; write torch.distributed.fsdp.fully_shard(net)"
        )


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is not among the choices.

    Raises:
        ValueError: the value is none of them.
    """
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def check_group(group: dict[str, Any]) -> None:
    """Refuse values of our two parameter-group options that make no sense.

    Raises:
        TypeError: `perturb` is not a bool.
        ValueError: `radius_scale` is not a finite number >= 0.
    """
    perturb, scale = group.get("perturb", True), group.get("radius_scale", 1.0)
    if not isinstance(perturb, bool):
        raise TypeError(f"perturb must be True or False in every parameter group, got {perturb!r}")
    if not isinstance(scale, int | float) or not 0 <= scale < float("inf"):
        raise ValueError(f"radius_scale must be a number >= 0 in every parameter group, got {scale!r}")

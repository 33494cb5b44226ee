"""The base optimizers of studies, with what a search may choose of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from flatmin.distributed import is_sharded
from flatmin.registry import Range

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """A number of a contender that a search may choose.

    Args:
        default: its value without a search.
        range: of a search.
        optional: searched only by studies that ask for it.
    """

    default: float
    range: Range
    optional: bool = False


@dataclass(frozen=True)
class Base:
    """A base optimizer of studies.

    Args:
        make: called with groups of parameters, and its settings by name.
        settings: by name; `lr` first. The weight decay is called `wd`.

    Examples:
        >>> base = Base(torch.optim.Adagrad, {"lr": Setting(0.01, Range(1e-3, 1.0))})
    """

    make: Callable[..., Any]
    settings: Mapping[str, Setting]


def _sgd(groups: Groups, lr: float, wd: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=wd, fused=_fused(groups))


def _nesterov(groups: Groups, lr: float, wd: float, momentum: float) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum, which the weight decay does not enter: w ← (1 − lr wd) w, then the step.

    The decoupled decay is that of Loshchilov & Hutter, 2019, arXiv 1711.05101. In SGD's own, momentum m makes the decay
    1 / (1 − m) times as strong in the long run.
    """
    made = torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=wd, nesterov=True, fused=_fused(groups))
    for group in made.param_groups:
        group["separate_weight_decay"], group["weight_decay"] = group["weight_decay"], 0.0
    made.register_step_pre_hook(_decay)
    return made


@torch.no_grad()
def _decay(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.mul_(1 - group["lr"] * group["separate_weight_decay"])


def _adamw(groups: Groups, lr: float, wd: float, momentum: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), weight_decay=wd, fused=_fused(groups))


def _fused(groups: Groups) -> bool:
    """Whether to use torch's fused kernel. Torch has none for SGD on sharded weights."""
    return not any(is_sharded(p) for group in groups for p in group["params"])


_MOMENTUM = Setting(0.9, Range(0.5, 0.99, to_one=True), optional=True)

#: The ranges are wide, so that no winner is at an end: in earlier searches on digits, winners on SGD had learning rates
#: of 0.004 to 0.08 and weight decays of 0.015 to 0.062. Momentum of AdamW is its first beta.
BASES = {
    "sgd": Base(
        _sgd, {"lr": Setting(0.1, Range(0.001, 1.0)), "wd": Setting(5e-4, Range(1e-5, 0.2)), "momentum": _MOMENTUM}
    ),
    "nesterov": Base(
        _nesterov, {"lr": Setting(0.1, Range(0.001, 1.0)), "wd": Setting(5e-3, Range(1e-4, 1.0)), "momentum": _MOMENTUM}
    ),
    "adamw": Base(
        _adamw, {"lr": Setting(1e-3, Range(1e-4, 3e-2)), "wd": Setting(1e-2, Range(1e-3, 3.0)), "momentum": _MOMENTUM}
    ),
}

"""What a step knows of its optimizer, and what it leaves to it.

`StepContext` goes in, `Outcome` comes out. Beside them are what follows from a context alone: the weights as the method
sees them, the parameters that a displacement moves, and what the base optimizer can do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from flatmin.distributed import Workers
from flatmin.engine.perturbation import Perturbation
from flatmin.engine.reuse import Reuse
from flatmin.protocol import Gradient, Method
from flatmin.vectors.blocks import Scope
from flatmin.vectors.compiled import Compiler
from flatmin.vectors.vector import Vec
from flatmin.vectors.weights import BaseState, Weights


@dataclass(frozen=True)
class StepContext:
    """What a step may know of its optimizer.

    Args:
        base: the optimizer that takes the step afterwards; its groups hold the parameters.
        method: what asks for gradients.
        model: the network, or None.
        reuse: runs the layers before the head once.
        scaler: the enabled `torch.amp.GradScaler`, or None.
        scaled: the optimizer that users pass to `scaler.step`.
        same_dropout: whether every probe repeats the dropout masks of the first.
        ascent: "synchronised" or "per-worker".
        noise: "shared" or "per-worker".
        workers: the processes that train together.
        seed: of the noise.
        steps: how many were taken before.
        memory: what the method remembers, between steps.
        in_closure: no user code reads `p.grad` between the probes and the base's step.
        plain: there is one probe, and `p.grad` is the caller's until the method has its gradient.
        compiler: runs passes over the weights as compiled functions; None evaluates all of them block by block.
    """

    base: Optimizer
    method: Method
    model: nn.Module | None
    reuse: Reuse
    scaler: Any
    scaled: Optimizer
    same_dropout: bool
    ascent: str
    noise: str
    workers: Workers
    seed: int
    steps: int
    memory: dict[str, Any]
    in_closure: bool
    plain: bool = False
    compiler: Compiler | None = None

    @property
    def params(self) -> list[Tensor]:
        """Every parameter, in the order of the groups."""
        return [p for group in self.base.param_groups for p in group["params"]]

    def options(self, name: str, default: Any) -> list[Any]:
        """A group option, once for every parameter."""
        return [group.get(name, default) for group in self.base.param_groups for _ in group["params"]]


@dataclass(frozen=True)
class Outcome:
    """What a finished step leaves to the optimizer, beside the direction in `p.grad`.

    Args:
        overflowed: a scaled gradient was not finite. The base must not step, and the rest is empty.
        memory: what the method remembers once the base has stepped.
        bypass: for each parameter what to subtract, times its learning rate, after the base's step; or empty.
        grad_scale: what the base's fused kernel is to divide the gradients by; None for nothing.
        losses: of the first probe, for a base that reads them; None if the caller did not report them.
        parts: puts the direction into `p.grad` part by part, for one step of the base after each; None if it is there.
    """

    overflowed: bool = False
    memory: dict[str, Any] = field(default_factory=dict)
    bypass: Sequence[Tensor | None] = ()
    grad_scale: Tensor | None = None
    losses: Tensor | None = None
    parts: Callable[[], Iterator[None]] | None = None


def displace(
    perturbation: Perturbation, context: StepContext, scope: Scope, delta: Vec, done: Sequence[Gradient] = ()
) -> None:
    """Displace the weights of the groups that take part, each by its `radius_scale`.

    Args:
        perturbation: that will restore them.
        context: of the step.
        scope: all parameters.
        delta: the displacement.
        done: gradients that nobody needs after this.
    """
    perturbation.apply(delta, *moving(context, scope), done)


def moving(context: StepContext, scope: Scope) -> tuple[Scope, list[float] | None]:
    """The parameters that a method's displacement moves, and a factor for every parameter, None for one."""
    perturb, scales = context.options("perturb", True), context.options("radius_scale", 1.0)
    equal = all(scale == 1.0 for scale in scales)
    return scope.keep(i for i, moves in enumerate(perturb) if moves), None if equal else scales


def weights_of(context: StepContext, scope: Scope, *more: int) -> Weights:
    """The weights as the method sees them; `more` are numbers that its noise depends on, beside seed and step."""
    learning = [t if p.requires_grad else None for p, t in zip(scope.params, scope.tensors, strict=True)]
    seed = (context.seed, context.steps, *more)
    return Weights(scope, learning, seed, BaseState(context.base, context.steps), context.model)


def base_takes_parts(base: Optimizer) -> bool:
    """Whether the base may step for some parameters at a time: it treats each by itself, and nobody is called."""
    hooks = (base._optimizer_step_pre_hooks, base._optimizer_step_post_hooks)
    everybodys = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
    return f"{type(base).__module__}.".startswith("torch.optim.") and not any((*hooks, *everybodys))


def base_rescales(base: Optimizer, scope: Scope) -> bool:
    """Whether the base's fused kernel can divide all gradients by one number."""
    return (
        getattr(base, "_step_supports_amp_scaling", False)
        and not base._optimizer_step_pre_hooks
        and not _global_optimizer_pre_hooks
        and not any(scope.shards)
        and all(group.get("fused") and not group.get("maximize") for group in base.param_groups)
        and all(p.dtype in (torch.float32, torch.bfloat16, torch.float16) for p in scope.params)
    )

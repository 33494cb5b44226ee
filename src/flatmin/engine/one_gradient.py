"""`OneGradientOptimizer`: methods that need one gradient, in code that runs backward and then calls `step()`.

The method's request is met before the caller's forward pass, and its answer is taken in `step()`. In between the
weights are perturbed, for as short a time as is possible:

- where the network is known, from its first forward pass in training mode to `step()`. Hooks of the network do this. So
  evaluation, checkpoints and averages of the weights, which come after `step()`, find the weights themselves;
- where only parameters are known, from one `step()` to the next, between `train()` and `eval()`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any
from weakref import ref

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from flatmin.distributed import Workers
from flatmin.engine.context import Outcome, StepContext
from flatmin.engine.gradients import LastGradient
from flatmin.engine.optimizer import Closure, FlatOptimizer
from flatmin.engine.probe import Probe
from flatmin.engine.step import Step
from flatmin.protocol import Ask, Method, asks_about_examples


class OneGradientOptimizer(FlatOptimizer):
    """Any torch optimizer with a flat-minima method of one gradient per step, for code that only calls `step()`.

        opt = flatmin.OneGradientOptimizer(base, flatmin.MomentumSAM(), model=net)

        loss = criterion(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()

    The gradient that the method gets is what `p.grad` holds at `step()`. All backward passes since the last step are
    taken at the same perturbed weights, so gradients accumulate as with any optimizer. What changes `p.grad` before
    `step()`, as clipping does, changes the gradient and not the direction. Steps equal those of
    `FlatOptimizer(base, method)` bit for bit.

    **With `model`** the weights are perturbed by the first call of the network in training mode with gradients enabled,
    and restored by `step()`. A call in evaluation mode, `model.state_dict()`, `opt.state_dict()`, and `opt.zero_grad()`
    after a backward pass restore them, too; the next call in training mode perturbs them again, by the same bits.
    Nothing else needs to be done.

    **Without `model`** the weights are perturbed from `opt.train()` on, and `step()` leaves them perturbed for the next
    gradient. Call `opt.eval()` before whatever reads the weights: evaluation, checkpoints, averages. `step()` without
    `opt.train()`, and `opt.state_dict()` or a copy of the optimizer at perturbed weights, are errors.

    Args:
        base: a constructed optimizer, or a list of them, as for `FlatOptimizer`, with the same options of their groups.
        method: one that asks for a single gradient per step, such as `flatmin.MomentumSAM()`. One that reads the loss,
            as `PolyakStep`, needs `step(closure)`.
        model: the network that is called in training. Of a LightningModule the submodules that its `training_step`
            calls are watched, too.
        seed: of the noise that methods draw; by default torch's initial seed.
        noise: "shared" or "per-worker", as for `FlatOptimizer`. It is shared if `model` is the DistributedDataParallel
            module, or if the processes have one seed.

    Cost: one parameter-sized copy while the weights are perturbed. A copy is needed to restore them bit for bit.
    Methods that do not perturb, as `UGD`, need none, and neither `model` nor `train()`.

    A parameter has one such optimizer. Before another takes a step, call `eval()` of the first, or delete it.

    A `torch.amp.GradScaler` is used as with torch's optimizers: `scaler.scale(loss).backward()`, `scaler.step(opt)`,
    `scaler.update()`.

    Raises:
        TypeError: as for `FlatOptimizer`.
        ValueError: the method asks for more than one gradient, or about single examples.

    Examples:
        >>> import torch, flatmin
        >>> net = torch.nn.Linear(4, 1)
        >>> base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> opt = flatmin.OneGradientOptimizer(base, flatmin.MomentumSAM(rho=0.3), model=net)
        >>> x, y = torch.randn(8, 4), torch.randn(8, 1)
        >>> torch.nn.functional.mse_loss(net(x), y).backward()
        >>> opt.step()
    """

    #: GradScaler unscales the gradients before `step`, and does not call it after an overflow.
    _step_supports_amp_scaling = False
    #: The loop over the one probe, while it waits for its gradient, and the probe.
    _loop: Generator[Probe, None, None] | None
    _probe: Probe
    #: What `p.grad` held at the last forward pass in training mode.
    _at_forward: LastGradient
    #: The hooks of the network.
    _handles: list[RemovableHandle]

    def __init__(
        self,
        base: Optimizer | Sequence[Optimizer],
        method: Method,
        *,
        model: nn.Module | None = None,
        seed: int | None = None,
        noise: str = "shared",
    ):
        super().__init__(base, method, model=model, seed=seed, noise=noise)
        if reason := why_not_one_gradient(self.base, method, model):
            raise ValueError(
                f"{reason}, and step() alone gives it one gradient of the whole batch. "
                "Write flatmin.FlatOptimizer(base, method, model=net), with forward and backward inside "
                "`for _ in opt.probes():`, or step(closure)"
            )
        self._training = model is not None
        self._watch()

    # -- when the weights are perturbed -------------------------------------------------------------------------------

    def train(self) -> None:
        """Let gradients be taken at perturbed weights. Without `model`, perturb the weights now.

        A base with a `train()` of its own, such as those of `schedulefree`, gets the call first.
        """
        self = self._unwrapped()
        _call(self.base, "train")
        self._training = True
        if self.model is None:
            self._perturb()

    def eval(self) -> None:
        """Restore the weights, and leave them alone until `train()`.

        A base with an `eval()` of its own gets the call afterwards.
        """
        self = self._unwrapped()
        self._training = False
        self._pause()
        _call(self.base, "eval")

    def _perturb(self) -> None:
        """Perturb the weights for the one gradient, or do so again after a pause."""
        if self._loop is not None and inspect.getgeneratorstate(self._loop) == inspect.GEN_CLOSED:
            self._drop()  # another optimizer has begun during the pause
        if self._loop is not None and self._step is not None:
            self._step.resume()
            return
        try:
            self._loop = self._begin(in_closure=True)
            self._probe = next(self._loop)
        except BaseException:
            self._drop()
            raise

    def _pause(self) -> None:
        """Restore the weights. What was asked for is asked for still."""
        if self._loop is not None and self._step is not None:
            self._step.pause()

    def _drop(self) -> None:
        """Restore the weights, and forget the gradients taken at the perturbed ones."""
        if self._loop is not None:
            self._loop.close()
        if self._step is not None:
            self._step.abandon()
        self._step = self._loop = None

    def _context(self, workers: Workers, in_closure: bool) -> StepContext:
        # Only a loop of ours is not one over probes() of the caller. It must not keep this optimizer alive.
        return replace(super()._context(workers, in_closure), plain=in_closure, scaled=self.base)

    def between_steps(self) -> StepContext:
        """As `FlatOptimizer.between_steps`. With `model`, weights that are perturbed for the next step are restored."""
        self = self._unwrapped()
        self._restore("sampled_weights()")
        return super().between_steps()

    def _restore(self, caller: str) -> None:
        self = self._unwrapped()
        if self._loop is None or self._step is None:
            super()._restore(caller)
        elif self.model is not None:
            self._step.pause()
        elif self._step.displaced:
            raise RuntimeError(
                f"{caller} met perturbed weights. Call opt.eval() before it and opt.train() after it, or name the "
                "network: OneGradientOptimizer(base, method, model=net)"
            )

    def probes(self) -> Generator[Probe, None, None]:
        """The loop of `FlatOptimizer`, for code that has both."""
        self = self._unwrapped()
        self._drop()
        return super().probes()

    # -- the hooks of the network -------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have the network say when it is called, and when its weights are read or written as a whole."""
        own, compiled, handles = OneGradientOptimizer, None, []
        while self._handles:
            self._handles.pop().remove()
        for module in self._called():
            if module is not compiled:  # the hooks of a compiled network would break its graph
                handles.append(module.register_forward_pre_hook(_Hook(self, module, own._before_forward), prepend=True))
            handles += [
                module.register_state_dict_pre_hook(_Hook(self, module, own._before_reading)),  # type: ignore[no-untyped-call]  # torch leaves it untyped
                module.register_load_state_dict_pre_hook(_Hook(self, module, own._before_writing)),  # type: ignore[no-untyped-call]  # as above
            ]
            compiled = getattr(module, "_orig_mod", None)
        self._handles = handles

    def _called(self) -> Iterator[nn.Module]:
        """The network, what it wraps, and what a LightningModule's `training_step` may call."""
        module: Any = self.model
        while isinstance(module, nn.Module):
            yield module
            if hasattr(module, "training_step"):
                ours = {id(p) for p in self._params()}
                yield from (m for m in module.children() if any(id(p) in ours for p in m.parameters()))
            # DistributedDataParallel's; that of torch.compile
            module = getattr(module, "module", None) or getattr(module, "_orig_mod", None)

    def _before_forward(self, module: nn.Module) -> None:
        if self._step is not None and self._loop is None:
            return  # the caller's own loop over probes()
        if not getattr(module, "_orig_mod", module).training:
            self._pause()
        elif self._training and torch.is_grad_enabled():
            self._perturb()
            self._at_forward.note(self._params())

    def _before_reading(self, module: nn.Module) -> None:
        self._pause()

    def _before_writing(self, module: nn.Module) -> None:
        if self._loop is not None:
            self._drop()

    # -- a step -------------------------------------------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients. After a backward pass this drops the step, and restores the weights.

        So a step that a `GradScaler` or a trainer skips leaves nothing behind. Between forward and backward pass, where
        many loops call it, the weights stay perturbed.
        """
        self = self._unwrapped()
        if self._loop is not None and self.model is not None and self._at_forward.stale(self._params()) is not None:
            self._drop()
        super().zero_grad(set_to_none)

    def _evaluate(self, closure: Closure) -> Any:
        with torch.enable_grad():
            loss = closure()
        self._take_gradients(loss)
        return loss

    def _take_gradients(self, loss: Any = None) -> None:
        if self._step is not None and self._loop is None:
            return  # the caller's own loop, left early: step() says so
        try:
            if self._loop is None or not self._training:
                self._drop()
                self._perturb()
                if self._step is not None and self._step.displaced:
                    raise RuntimeError(self._why_unperturbed())
            assert self._loop is not None
            self._probe.report(loss)
            if next(self._loop, None) is not None:
                raise RuntimeError(
                    f"{self.method!r} asks for a second gradient in step {self.steps}, which step() alone cannot give. "
                    "Write flatmin.FlatOptimizer(base, method, model=net), with forward and backward inside "
                    "`for _ in opt.probes():`, or step(closure)"
                )
            self._loop = None
        except BaseException:
            self._drop()
            raise

    def _apply(self, outcome: Outcome) -> None:
        super()._apply(outcome)
        if self.model is None and self._training:
            self._perturb()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer: between steps; without `model`, after `eval()`.

        Raises:
            RuntimeError: the weights are perturbed.
        """
        self = self._unwrapped()
        if self.model is None and self._loop is not None:
            self._restore("add_param_group()")
            self._drop()
        super().add_param_group(param_group)
        self._watch()  # a LightningModule may have parts that took no part before

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `FlatOptimizer.load_state_dict`. It drops a step under way; without `model`, call `train()` after it."""
        self = self._unwrapped()
        self._drop()
        self._training = self.model is not None
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_training": self._training}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._watch()  # the hooks of a copied network do nothing

    def _forget_step(self) -> None:
        super()._forget_step()
        self._loop, self._at_forward, self._handles = None, LastGradient(), []

    def _why_unperturbed(self) -> str:
        met = f"step() met gradients that were not taken at the perturbed weights of {self.method!r}. "
        if self.model is None:
            return (
                met + "Call opt.train() before training, and opt.eval() before evaluation and checkpoints; or name the "
                "network: OneGradientOptimizer(base, method, model=net)"
            )
        if not self._training:
            return met + "opt.eval() was called, and opt.train() was not called after it"
        return met + (
            f"{type(self.model).__name__}, the model of this optimizer, was not called in training mode. Call net(x) "
            "after net.train(), or give the module that training calls: OneGradientOptimizer(base, method, model=...)"
        )


def why_not_one_gradient(base: Optimizer, method: Method, model: nn.Module | None) -> str:
    """Why `step()` alone cannot run a method, as far as its first step tells; empty if it can."""
    if asks_about_examples(method):
        return f"{method!r} asks about single examples"
    asked = Step(FlatOptimizer(base, method, model=model)._context(Workers(None, []), in_closure=True)).foreseen()
    if asked is None:
        return ""
    if len(asked) > 1:
        return f"{method!r} asks for {len(asked)} gradients per step"
    return "" if _is_plain(asked[0]) else f"{method!r} asks about single examples, losses or parameters"


class _Hook:
    """Calls an optimizer when something happens to a module. Its copies, as in a copied or saved module, do nothing.

    Args:
        opt: the optimizer; not kept alive.
        module: the very module. Replicas of it share its hooks.
        act: what to call, with both.
    """

    def __init__(
        self,
        opt: OneGradientOptimizer | None = None,
        module: nn.Module | None = None,
        act: Callable[[OneGradientOptimizer, nn.Module], None] | None = None,
    ):
        self._act: Callable[[nn.Module], None] | None = None
        if opt is None or module is None or act is None:
            return
        its_opt, its_module = ref(opt), ref(module)

        def run(called: nn.Module) -> None:
            opt = its_opt()
            if opt is not None and called is its_module():
                act(opt, called)

        # Compiled networks do this in Python. It is not a decorator, which would import the compiler with flatmin.
        self._act = torch.compiler.disable(run)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def __call__(self, module: nn.Module, *_: Any) -> None:
        if self._act is not None:
            self._act(module)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


def _is_plain(ask: Ask) -> bool:
    """Whether a request is for the gradient of the whole batch, for all parameters."""
    special = (ask.rows, ask.weigh, ask.only, ask.slopes_of)
    return ask.gradient and not (ask.each or ask.keep_slopes) and all(part is None for part in special)


def _call(base: Optimizer, name: str) -> None:
    """Call a method of a base optimizer, if it has it."""
    act = getattr(base, name, None)
    if callable(act):
        act()

"""`FlatOptimizer`: the one engine that runs every method.

A method asks for gradients at points near the weights, see `flatmin.protocol`. For each request the engine perturbs the
weights, lets the caller run forward and backward, and restores the weights bit for bit. When the method has answered,
its direction is in `p.grad` and the base optimizer takes its ordinary step.

This file holds what lasts from step to step, and the interface of a torch optimizer. `step.py` runs one step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flatmin.distributed import Workers
from flatmin.engine.arguments import check_arguments, check_choice, check_group
from flatmin.engine.context import Outcome, StepContext
from flatmin.engine.gradients import LastGradient, StaleGradient
from flatmin.engine.multi_optimizer import MultiOptimizer
from flatmin.engine.perturbation import bypass
from flatmin.engine.probe import PER_EXAMPLE, Probe
from flatmin.engine.reuse import Reuse
from flatmin.engine.state import check_fits, kind, reordered, to_devices
from flatmin.engine.step import Step
from flatmin.engine.wrapping import Wrapping
from flatmin.estimators.estimated import Estimated, Estimator
from flatmin.protocol import Method, asks_about_examples, reads_loss
from flatmin.vectors.compiled import Compiler

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing since Python 3.11

Closure: TypeAlias = "Callable[[], Any]"


class FlatOptimizer(Wrapping):
    """Any torch optimizer, descending along the direction of a flat-minima method.

    The base optimizer keeps everything that is an optimizer's: groups, state, learning rate. `param_groups` and
    `state` here *are* the base's, so schedulers work attached to either.

    Args:
        base: a constructed optimizer, or a list of them, which becomes a `MultiOptimizer`. Two options of its parameter
            groups are read here: `perturb` (default True; False leaves the group where it is in every probe, and out of
            the norms that scale a perturbation) and `radius_scale` (default 1.0; multiplies the group's part of the
            perturbation). One with `reads_loss = True`, as KOALA, is given a closure that returns the losses of the
            first probe.
        method: what to ask for and where to go, for example `flatmin.PUGD()`.
        scaler: the `torch.amp.GradScaler` that scales the loss, if one does. Every gradient is unscaled before the
            method sees it, and an overflow in any probe skips the step. Then call `scaler.step(opt)` after the loop
            over probes, or `opt.step(closure)`, and `scaler.update()`.
        model: the network. With it, BatchNorm's running statistics move once per step, as one forward pass at the
            first probe moves them.
        same_dropout: show every probe the dropout masks of the first.
        seed: of the noise that methods draw; by default torch's initial seed. The global generators are never touched.
        ascent: what the perturbation is made of where `model` is a DistributedDataParallel. "synchronised": the
            gradient of all workers, as if they were one. "per-worker": each worker's own (m-sharpness), which saves
            the reduction of every gradient that the direction is not made of.
        noise: "shared", the same on all workers that are known from `model` or from DTensors, or "per-worker".
        gradient: what to estimate the method's gradients with, for example `flatmin.ForwardGradient()`; None computes
            them by backpropagation. With an estimator the closure returns the loss and runs no backward pass, and the
            body of a loop over probes calls `probe.backward(loss)`.
        reuse: where a method ascends in the last layers only (`HeadSAM`), run the layers before them once per step and
            keep their activations until the next probe, those of all micro-batches. Needs `model`. False runs
            everything in every probe.
        compile: run the passes over the weights as compiled functions. The first step waits for the compiler (of C++
            for a CPU), seconds to minutes; torch keeps the result on disk. It changes nothing with `gradient=`, whose
            directions are made anew in every pass. See `docs/benchmarks.md`.

    Raises:
        TypeError: `base` is not a constructed optimizer, `method` has no `direction`, `model` is not a module, or
            `gradient` is no estimator.
        ValueError: a group option is out of range, two bases have the same parameter, or `gradient` is given with an
            option that needs backpropagation.

    Examples:
        >>> import torch, flatmin
        >>> net = torch.nn.Linear(4, 1)
        >>> base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> opt = flatmin.FlatOptimizer(base, flatmin.PUGD(), model=net)
        >>> x, y = torch.randn(8, 4), torch.randn(8, 1)
        >>> for _ in opt.probes():
        ...     torch.nn.functional.mse_loss(net(x), y).backward()
        >>> opt.step()
    """

    #: The step that is running, or has run and waits for `step()`.
    _step: Step | None
    #: What ended the last loop over the probes before its end; empty if nothing did.
    _ended_by: str
    #: The gradient that the last step left, and a stale one found before a closure.
    _last_gradient: LastGradient
    _stale: StaleGradient | None
    #: Runs the layers before the head once per step.
    _reuse: Reuse
    #: The compiled passes, if there are to be any.
    _compiler: Compiler | None
    #: Whether the seed is that of the first process already.
    _seed_is_shared: bool
    #: See `_unwrapped`.
    _itself: ReferenceType[Any]
    #: Tells GradScaler not to unscale, and to let us skip: see `scaling.py`.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        base: Optimizer | Sequence[Optimizer],
        method: Method,
        *,
        model: nn.Module | None = None,
        scaler: Any = None,
        same_dropout: bool = False,
        seed: int | None = None,
        ascent: str = "synchronised",
        noise: str = "shared",
        gradient: Estimator | None = None,
        reuse: bool = True,
        compile: bool = False,
    ):
        if isinstance(base, FlatOptimizer):
            raise TypeError("base is a FlatOptimizer already; combine methods: flatmin.Every(flatmin.SAM(), 5)")
        one: Any = MultiOptimizer(base, model=model) if isinstance(base, list | tuple) else base
        check_arguments(one, method, model)
        check_choice("ascent", ascent, ("synchronised", "per-worker"))
        check_choice("noise", noise, ("shared", "per-worker"))
        if gradient is not None:
            method = Estimated(method, gradient)
        if isinstance(method, Estimated):
            method.check(scaler=scaler, ascent=ascent, noise=noise)
        self.base: Optimizer = one
        self.method = method
        self.model = model
        self.scaler = scaler
        self.same_dropout = same_dropout
        self.seed = torch.initial_seed() if seed is None else int(seed)
        self.ascent = ascent
        self.noise = noise
        self.reuse = reuse
        self.compile = compile
        self.steps = 0
        self.memory: dict[str, Any] = {}
        super().__init__(self.base.defaults)
        self._forget_step()
        for group in self.param_groups:
            check_group(group)

    # -- a step -------------------------------------------------------------------------------------------------------

    def step(self, closure: Closure | None = None) -> Any:
        """Take one step.

        Args:
            closure: clears the gradients, runs forward and backward, returns the loss: torch's own contract. It is
                called once per gradient the method asks for. Without it, `probes()` must have run. After `probes()` a
                closure is called once, without autograd, and may change the direction in `p.grad`.

        Returns:
            What the closure returned at the first probe; None without a closure.

        Raises:
            RuntimeError: there is neither a closure nor a finished `probes()` loop; or gradients of other micro-batches
                would be lost. The weights are untouched.
        """
        loss = None
        if getattr(self, "grad_scale", None) is not None:  # set by GradScaler.step, for gradients still scaled
            raise RuntimeError(
                "GradScaler.step met scaled gradients. Write FlatOptimizer(base, method, scaler=scaler), then "
                "scaler.step(opt) after the loop over probes, or opt.step(closure) without scaler.step"
            )
        try:
            if closure is not None and self._outcome() is not None:
                # Frameworks pass a closure all the same, for what belongs to a step beside gradients: Lightning clips.
                with torch.no_grad():  # a closure that runs backward fails
                    loss = closure()
            elif closure is not None:
                loss = self._evaluate(closure)
            elif self._outcome() is None:
                self._take_gradients()
            if self._step is not None and self._step.left_early:
                self._step.abandon()
                self._ended_by = self._ended_by or "step()"
            step, outcome, self._step = self._step, self._outcome(), None
            if outcome is None or step is None:
                raise RuntimeError(self._why_no_direction())
            if step.overwritten:
                raise RuntimeError(
                    f"another optimizer's loop over the same parameters has overwritten the direction of "
                    f"{self.method!r} in p.grad; call opt.step() before the other loop over opt.probes() begins"
                )
            if step.late_backward is not None and step.late_backward.happened:
                raise RuntimeError(
                    f"backward() ran after the loop over opt.probes() and changed the direction of {self.method!r} in "
                    "p.grad. Run every backward inside the loop: `for _ in opt.probes(): (loss + penalty).backward()`"
                )
            if not outcome.overflowed:
                self._apply(outcome)
        finally:
            self.base.grad_scale = None  # type: ignore[attr-defined]  # GradScaler sets it, too
            self._last_gradient.note(self._params())
        return loss

    def _take_gradients(self) -> None:
        """Give the method the gradients in `p.grad`, if it needs no others: see `OneGradientOptimizer`."""

    def _why_no_direction(self) -> str:
        if self._ended_by:
            return (
                f"{self._ended_by} was called before the loop over opt.probes() had ended, and ended it, so that the "
                "weights are not perturbed; there is no direction for step(). Call it before the loop or after step()"
            )
        return (
            f"step() found no direction of {self.method!r}: p.grad holds a plain gradient or none. "
            "Run forward and backward inside `for _ in opt.probes():`, or pass a closure to step(). "
            "In Hugging Face's Trainer, use flatmin.integrations.transformers.FlatTrainer"
        )

    def _outcome(self) -> Outcome | None:
        """What a finished loop over the probes has left for `step`."""
        return None if self._step is None else self._step.outcome

    def _apply(self, outcome: Outcome) -> None:
        """Let the base optimizer take its step, then take the part of it that the base does not see.

        Raises:
            RuntimeError: the base reads the loss, and the caller did not report it.
        """
        base, losses = self.base, outcome.losses
        if outcome.grad_scale is not None:
            base.grad_scale = outcome.grad_scale  # type: ignore[attr-defined]  # read by its fused kernel
        if outcome.parts is not None:
            with torch.no_grad():
                for _ in outcome.parts():
                    base.step()
        elif not reads_loss(base):
            base.step()
        elif losses is None:
            raise RuntimeError(
                f"{type(base).__name__} reads the loss; call probe.backward(losses) in the loop over opt.probes(), "
                "or return the loss from the closure"
            )
        else:
            base.step(lambda: losses)  # type: ignore[arg-type,return-value]  # losses, not a float
        bypass(base, outcome.bypass)
        self.memory, self.steps = outcome.memory, self.steps + 1

    def _evaluate(self, closure: Closure) -> Any:
        """Call the closure at every probe; what it returned at the first."""
        loss = None
        self._stale = self._last_gradient.stale(self._params())
        if asks_about_examples(self.method):
            raise RuntimeError(
                f"{self.method!r} asks about single examples, which a closure cannot answer. Write\n{PER_EXAMPLE}"
            )
        probes = self._begin(in_closure=True)
        try:
            for probe in probes:
                if self._stale is not None:
                    self._stale.show()
                with torch.set_grad_enabled(not probe.forward_only):
                    value = closure()
                probe.report(value)
                if self._stale is not None:
                    self._stale.check()
                self._stale = None
                loss = value if probe == 0 else loss
        finally:
            probes.close()
        return loss

    def probes(self) -> Generator[Probe, None, None]:
        """Loop over the gradients that the method asks for; run forward and backward in the body.

        For methods that choose or weigh examples the body is `probe.backward(losses)`, see `flatmin.Probe`.

        `p.grad` is cleared before every probe, so micro-batches in the body accumulate as usual. After the loop the
        weights are restored and `p.grad` holds the direction: clip it if you like, then call `step()`.

        An exception or a `break` in a `for` loop restores the weights at once. Code that keeps the generator, `it =
        opt.probes()`, restores them when it ends, closes or drops it; to be certain write `with
        contextlib.closing(opt.probes()) as it:`. Until then `step`, `state_dict`, `load_state_dict`, copies and a new
        loop restore them. `zero_grad` cannot, because bodies call it, and neither can an evaluation of the network.

        Parameters of `model` that belong to no group, as those of a second optimizer, have the gradient of the first
        probe after the loop; of the first that asks for the gradient of all parameters.

        Yields:
            The number of the probe, from 0, as a `flatmin.Probe`. All yields happen with the weights in place for it.

        Raises:
            RuntimeError: the body left no gradient, zeroed in place the gradients it should add to, did not choose the
                examples that the method asks for, or wrote perturbed weights; or another optimizer's loop over the same
                parameters has not ended.
        """
        self = self._unwrapped()
        return self._begin(in_closure=False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients: back to what they were when the probe began, which is nothing in most probes."""
        self = self._unwrapped()
        self._stale = None
        if self._outcome() is not None:
            self._step = None  # the direction is gone
        if self._step is None or not self._step.adding:
            self.base.zero_grad(set_to_none)

    def _begin(self, in_closure: bool) -> Generator[Probe, None, None]:
        workers = Workers(self.model, self._params())
        if self._step is not None:
            self._step.abandon()
            if self._step.left_early:
                workers.wait_until_all_left()
        self._share_seed(workers)
        self._ended_by = ""
        self._step = Step(self._context(workers, in_closure))
        return self._step.probes()

    def _share_seed(self, workers: Workers) -> None:
        """All processes make the same random choices."""
        if not self._seed_is_shared:
            self.seed, self._seed_is_shared = workers.share(self.seed), True

    def between_steps(self) -> StepContext:
        """What a step would know, for what perturbs weights outside of steps.

        Raises:
            RuntimeError: a probe is running, so the weights are perturbed already.
        """
        self = self._unwrapped()
        if self._step is not None and self._step.displaced:
            raise RuntimeError("the weights are perturbed already: call this outside of the loop over opt.probes()")
        workers = Workers(self.model, self._params())
        self._share_seed(workers)
        return self._context(workers, in_closure=False)

    def _context(self, workers: Workers, in_closure: bool) -> StepContext:
        scaler = self.scaler if self.scaler is not None and self.scaler.is_enabled() else None
        return StepContext(
            base=self.base,
            method=self.method,
            model=self.model,
            reuse=self._reuse,
            scaler=scaler,
            scaled=self,
            same_dropout=self.same_dropout,
            ascent=self.ascent,
            noise=self.noise,
            workers=workers,
            seed=self.seed,
            steps=self.steps,
            memory=self.memory,
            in_closure=in_closure,
            compiler=self._compiler,
        )

    def _restore(self, caller: str) -> None:
        """Leave a probe that is running, so that checkpoints and copies hold the unperturbed weights."""
        if self._step is not None and self._step.displaced:
            self._step.abandon()
            self._ended_by = caller

    def _unwrapped(self) -> Self:
        """This optimizer, also where `self` is a copy of its `__dict__`.

        Lightning and Accelerate wrap an optimizer so: what a method sets on such a copy is lost.
        """
        itself: Self | None = self._itself()
        return itself or self

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    # -- an optimizer like any other ----------------------------------------------------------------------------------

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]  # an attribute in torch
        """The base optimizer's groups."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]  # an attribute in torch
        """The base optimizer's state."""
        return self.base.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer; to one of several, `{"params": [...], "optimizer": adamw}`."""
        self = self._unwrapped()
        check_group(param_group)
        if self._step is not None and (self._step.left_early or self._step.outcome is not None):
            raise RuntimeError(
                "add_param_group was called between the first probe and step(); call it before the loop over "
                "opt.probes() or after opt.step()"
            )
        self._step = None  # a loop that has not begun does not know the group
        before = self._params()
        self.base.add_param_group(param_group)
        self.memory = reordered(self.memory, before, self._params())

    def state_dict(self) -> dict[str, Any]:
        """The base's state dict and one key more, "flatmin". A plain base optimizer loads it, too.

        There is no copy of the weights in it, and nothing but tensors, numbers, strings, lists and dicts.
        """
        self._restore("state_dict()")
        return super().state_dict()

    def _checkpoint(self) -> dict[str, Any]:
        ours = {"memory": self.memory, "seed": self.seed, "steps": self.steps, "method": kind(self.method)}
        return {**self.base.state_dict(), "flatmin": ours}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class, or of a plain base optimizer (the method then starts afresh).

        Raises:
            ValueError: the checkpoint holds the memory of another method, or memory that does not fit the parameters.
                Nothing was loaded.
        """
        self = self._unwrapped()
        self._restore("load_state_dict()")
        super().load_state_dict(state_dict)

    def _load(self, state: dict[str, Any]) -> None:
        ours = state.pop("flatmin", {})
        memory = ours.get("memory", {})
        check_fits(memory, ours.get("method", kind(self.method)), self.method, self._params())
        self.base.load_state_dict(state)
        if self._outcome() is not None:  # its direction belongs to what was there before
            self._step, self._ended_by = None, "load_state_dict()"
        self.memory = to_devices(memory, self._params())
        self.seed, self._seed_is_shared = ours.get("seed", self.seed), False
        self.steps = ours.get("steps", 0)

    def __getstate__(self) -> dict[str, Any]:
        """For copy and pickle; Optimizer's own would lose the base."""
        self._restore("a copy or pickle of the optimizer")
        options = ("base", "method", "model", "scaler", "same_dropout", "ascent", "noise", "reuse", "compile")
        kept = (*options, "seed", "steps", "memory", "defaults")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget_step()

    def _forget_step(self) -> None:
        self._itself = ref(self)
        self._step, self._ended_by = None, ""
        self._reuse = Reuse(self.reuse)
        self._compiler = Compiler() if self.compile else None
        self._last_gradient, self._stale = LastGradient(), None
        self._seed_is_shared = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r}, {self.base!r})"

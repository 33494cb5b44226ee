"""One step: the gradients that a method asks for, and the direction in `p.grad`.

A step has three parts:

- prepare: what takes part (parameters, processes, the loss scale), and the rehearsed requests of the method;
- probe, once per request: perturb the weights, let the caller run forward and backward, take the gradient, restore;
- finish: evaluate the direction into `p.grad`.

A step reads its `StepContext` and writes nothing of the optimizer. What the optimizer is to do is the `Outcome`, see
`flatmin.engine.context`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from weakref import ReferenceType, WeakSet, ref

import torch
from torch import Tensor, nn

from flatmin.distributed import reshard
from flatmin.engine.batchnorm import FirstPassEffects
from flatmin.engine.context import Outcome, StepContext, base_rescales, base_takes_parts, displace, moving, weights_of
from flatmin.engine.gradients import Gradients, LateBackward
from flatmin.engine.perturbation import Perturbation
from flatmin.engine.probe import Probe
from flatmin.engine.reads import DisplacedReads, Displacement, forward_mode, unreadable
from flatmin.engine.rehearsal import GradientRequest, Rehearsal
from flatmin.engine.scaling import Scaling
from flatmin.engine.state import freeze, thaw
from flatmin.protocol import Ask, Gradient, reads_loss
from flatmin.vectors.blocks import Scope, Select
from flatmin.vectors.expression import walk
from flatmin.vectors.vector import Vec

#: The steps whose loop over the probes has begun, until the optimizer takes or drops them.
_running: WeakSet[Step] = WeakSet()


class Step:
    """One step, and how far it has come."""

    @torch.no_grad()
    def __init__(self, context: StepContext):
        """Prepare: nothing is written yet."""
        self._context = context
        self._workers = workers = context.workers
        self._params = params = context.params
        self._own_ascent = context.ascent == "per-worker" and workers.supports_per_worker("ascent")
        self._own_noise = context.noise == "per-worker" and workers.supports_per_worker("noise")
        self._scope = scope = Scope(
            params, range(len(params)), workers.mean if self._own_ascent else None, context.compiler
        )
        self._scaling = None if context.scaler is None else Scaling(context.scaler, context.scaled)
        self._rehearsal = Rehearsal(
            context.method,
            partial(weights_of, context, scope, *([workers.rank] if self._own_noise else [])),
            thaw(context.memory, scope),
            may_add=self._scaling is None,  # scaled gradients must not be added to unscaled ones
        )
        model = None if context.plain else context.model  # a single probe has nothing to hold still
        self._effects = FirstPassEffects(model, context.same_dropout, {p.device for p in params})
        self._maximize = context.options("maximize", False)
        self._gradients = Gradients(scope, self._maximize, _others(model, params))
        self._perturbation, self._frozen, self._shift = Perturbation(), Perturbation(), Perturbation()
        self._graphless = True  # no probe so far had a backward pass
        self._request: GradientRequest | None = None
        self._own: list[Gradient] = []  # gradients of this worker alone
        self._losses: Tensor | None = None
        self._loop: ReferenceType[Generator[Probe, None, None]] | None = None
        self._begun = False
        #: Set when all probes have run. Then `p.grad` holds the direction, unless a gradient overflowed.
        self.outcome: Outcome | None = None
        #: Another optimizer's loop began while the direction waited in `p.grad`.
        self.overwritten = False
        #: Watches `p.grad` from the end of the loop to `step()`; None in a closure, where no user code runs in between.
        self.late_backward: LateBackward | None = None
        #: A probe is running whose gradient autograd adds to the previous one.
        self.adding = False

    @property
    def displaced(self) -> bool:
        """Whether the weights differ from those before the step."""
        return self._perturbation.active or self._frozen.active or self._shift.active

    @property
    def left_early(self) -> bool:
        """Whether the first probe has begun and the last has not ended."""
        return self._begun and self.outcome is None

    def probes(self) -> Generator[Probe, None, None]:
        """The loop over the probes. The step keeps no reference to it: dropping the loop ends it."""
        loop = self._without_graphs(self._run())
        self._loop = ref(loop)
        return loop

    @staticmethod
    def _without_graphs(loop: Generator[Probe, None, None]) -> Generator[Probe, None, None]:
        """The same loop, its bodies without autograd where no backward pass is wanted. `_run` cannot do that itself:
        what a function under `no_grad` sets is undone when it yields.
        """
        try:
            for probe in loop:
                if probe.forward_only:
                    with torch.no_grad():
                        yield probe
                else:
                    yield probe
        finally:
            loop.close()

    def abandon(self) -> None:
        """Restore the weights, also if the loop was left early and something still holds it."""
        loop = self._loop() if self._loop is not None else None
        if loop is not None:
            loop.close()
        self._restore()  # does nothing, unless the restoring itself was interrupted

    def foreseen(self) -> list[Ask] | None:
        """What the method will ask for; None if that depends on values."""
        requests = self._rehearsal.foreseen()
        return None if requests is None else [request.ask for request in requests]

    def pause(self) -> None:
        """Restore the weights during a probe, for an evaluation or a checkpoint."""
        if self.displaced:
            self._restore()
            self._reshard()

    @torch.no_grad()
    def resume(self) -> None:
        """Perturb the weights again, by the same bits."""
        if self._request is not None and not self.displaced:
            self._perturb(self._request)
            self._reshard()

    def _reshard(self) -> None:
        if any(self._scope.shards):
            reshard(self._context.model)

    @torch.no_grad()
    def _run(self) -> Generator[Probe, None, None]:
        self._refuse_crossing()
        self._begun = True
        _running.add(self)
        try:
            for number, request in enumerate(self._rehearsal):
                yield from self._probe(number, request)
            self.outcome = self._finish()
        finally:
            self._context.reuse.forget()
            if self.outcome is None:
                _running.discard(self)
        if not self._context.in_closure:
            self.late_backward = LateBackward(self._params)

    def _refuse_crossing(self) -> None:
        """Refuse to begin inside another optimizer's loop over the same parameters.

        If that loop has ended, its direction waits in `p.grad` for the other's `step()`, and is overwritten now. A
        paused one, whose weights are restored, is ended.
        """
        ours = {id(p) for p in self._params}
        for other in list(_running):
            if not any(id(p) in ours for p in other._params):
                continue
            if other.outcome is not None:
                other.overwritten = True
                _running.discard(other)
            elif other._context.plain and not other.displaced:
                other.abandon()  # `OneGradientOptimizer.eval` was called
            else:
                raise RuntimeError(
                    "two loops over opt.probes() cross: another optimizer's loop over the same parameters has not "
                    "ended. End it first; if its generator is kept, write "
                    "`with contextlib.closing(opt.probes()) as probes:`. Of a OneGradientOptimizer call eval()"
                )

    def _probe(self, number: int, request: GradientRequest) -> Generator[Probe, None, None]:
        """Compute one gradient: perturb, hand over to the caller, take the gradient, restore."""
        context, gradients = self._context, self._gradients
        ask, workers = request.ask, self._workers
        head = None if ask.only is None else self._selected(ask.only)
        alone = self._own_ascent and not (head is None and request.final and workers.reduce_in_backward)
        apart = head is not None and workers.replicated  # DDP would wait for the gradients of the others
        if alone:
            self._own.append(request.gradient)
        probe = Probe(number, ask, context.scaler)
        try:
            self._request = request
            self._perturb(request)
            self._reshard()
            if not context.plain:
                gradients.begin(request)
            self.adding = request.adds
            with ExitStack() as around:
                around.enter_context(self._effects.of_pass(still=ask.forward_only))
                if alone or apart:
                    around.enter_context(workers.no_sync(first=number == 0))
                last = head is None and ask.gradient
                around.enter_context(context.reuse.during(probe, context.model, head, last=last, effects=self._effects))
                if ask.forward_only:
                    around.enter_context(self._reading(number, ask))
                yield probe
            probe.check(context.method)
            self._check_untouched(number)
            self._note_losses(probe, request)
            if ask.only is not None:
                gradients.restrict(ask.only, workers if apart and not alone else None)
            if ask.gradient:
                self._graphless = False
                gradients.separate()
                if self._scaling is not None:
                    self._scaling.unscale()
            gradients.end(request, f"probe {number} of {context.method!r}")
        finally:
            self.adding = False
            gradients.stop()
            self._restore()

    @cached_property
    def _unreadable(self) -> str:
        """Why no weight can be displaced where it is read; empty if all can. One walk over the modules per step."""
        return unreadable(self._context.model, self._scope)

    @contextmanager
    def _reading(self, number: int, ask: Ask) -> Iterator[None]:
        """Around a forward pass whose loss is all that is wanted: weights are displaced where they are read.

        Raises:
            RuntimeError: nothing reads a weight; or a derivative is wanted, and its tangent cannot be given to weights.
            ValueError: some groups maximize and others do not.
        """
        scope, name = self._scope, f"probe {number} of {self._context.method!r}"
        learning = [i for i, p in enumerate(self._params) if p.requires_grad]
        if len(set(self._maximize)) > 1:
            raise ValueError(
                "maximize must be the same in all parameter groups where gradients are estimated from losses, got "
                "True and False; negate the loss instead"
            )
        if reason := self._unreadable:
            if ask.along is not None:
                raise RuntimeError(
                    f"{name} differentiates forward through the network, which is impossible because {reason}; write "
                    "gradient=flatmin.ZerothOrder(), which needs losses only"
                )
            yield
            self._gradients.touch(learning)
            return
        displacements = []
        if ask.at is not None:
            displacements.append(Displacement(ask.at, *moving(self._context, scope)))
        if ask.shift is not None:
            displacements.append(Displacement(ask.shift, scope))
        with ExitStack() as around:
            if ask.along is not None:
                around.enter_context(forward_mode())
            reads = around.enter_context(DisplacedReads(scope, displacements, ask.along, name))
            yield
        if not reads.seen:
            raise RuntimeError(
                f"{name} read no parameter of the optimizer; run the forward pass in the closure or in the body of the "
                "loop, on the network whose parameters the base optimizer has"
            )
        self._gradients.touch(reads.seen.intersection(learning))

    def _restore(self) -> None:
        self._shift.restore()
        self._perturbation.restore()
        self._frozen.restore()

    def _selected(self, select: Select) -> list[Tensor]:
        """The parameters whose gradient a method asks for.

        Raises:
            ValueError: none of them is trained.
        """
        chosen = [p for p in self._params if p.requires_grad and select(p)]
        if not chosen:
            raise ValueError(
                f"{self._context.method!r} asks for the gradient of parameters that this optimizer does not train; "
                "choose a layer whose parameters are in a group of the optimizer, as in head=net.fc"
            )
        return chosen

    def _check_untouched(self, number: int) -> None:
        """Refuse weights that were written while they were displaced: restoring would undo that silently.

        Raises:
            RuntimeError: some were. An embedding with `max_norm` may do it, if the model is known.
        """
        written = (self._shift if self._shift.active else self._perturbation).written() + self._frozen.written()
        if written and (written := _not_renormalised(written, self._context.model)):
            raise RuntimeError(
                f"{len(written)} parameters were written inside probe {number}, where the weights are perturbed, as by "
                "net.load_state_dict(...); restoring the weights has undone it. Write weights before the loop over "
                "opt.probes() or after opt.step(). If a layer writes them in its forward pass (Embedding with "
                "max_norm), pass the network: FlatOptimizer(base, method, model=net)"
            )

    def _perturb(self, request: GradientRequest) -> None:
        """Displace frozen weights first: what adapters add to them is that of the weights themselves."""
        if (frozen := request.ask.frozen) is not None:
            self._frozen.apply(frozen, _scope_of(frozen), None, ())
        ask = request.ask
        if ask.forward_only and not self._unreadable:
            return  # see `_reading`
        if ask.at is not None:
            displace(self._perturbation, self._context, self._scope, ask.at, request.done)
        if ask.shift is not None:
            self._shift.apply(ask.shift, self._scope, None, ())

    def _note_losses(self, probe: Probe, request: GradientRequest) -> None:
        """Pass on what the caller reported: to the method, and to a base that reads the losses of the first probe."""
        losses = probe.losses
        sign = -1 if all(self._maximize) else 1  # of what is minimised
        losses, objective, slope = [v if v is None else sign * v for v in (losses, probe.objective, probe.slope)]
        several = self._workers.several
        request.gradient.report(losses, self._workers.mean if several else None, objective, slope)
        request.gradient.slopes = probe.slopes
        if probe == 0 and losses is not None and reads_loss(self._context.base):
            self._losses = losses.new_tensor(self._workers.mean(float(losses.mean()))) if several else losses

    def _finish(self) -> Outcome:
        """Evaluate what the method answered: the direction into `p.grad`, the rest into the outcome."""
        scope, rehearsal, gradients = self._scope, self._rehearsal, self._gradients
        if self._scaling is not None and self._scaling.overflowed(self._workers if self._own_ascent else None):
            return Outcome(overflowed=True)
        if self._context.noise == "per-worker":
            rehearsal.check_noiseless()
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            rehearsal.check_replayable()
        if self._own_ascent:
            gradients.average(rehearsal.answered(), self._own, self._workers)
            rehearsal.forget()
        memory = freeze(rehearsal.memory, scope)
        bypass = () if rehearsal.bypass is None else freeze({"": rehearsal.bypass}, scope)[""]
        if self._graphless and not bypass and self._context.in_closure and base_takes_parts(self._context.base):
            parts = partial(gradients.answer_in_parts, rehearsal.answer)
            return Outcome(memory=memory, losses=self._losses, parts=parts)
        factor = gradients.answer(
            rehearsal.answer, self._context.in_closure and base_rescales(self._context.base, self._scope)
        )
        plain = isinstance(factor, float) and factor == 1.0
        grad_scale = None if plain else torch.as_tensor(1.0 / factor, dtype=torch.float32)
        return Outcome(memory=memory, bypass=bypass, grad_scale=grad_scale, losses=self._losses)


def _scope_of(vec: Vec) -> Scope:
    """The parameters that a vector is made of."""
    return next(node.scope for node in walk(vec) if node.scope is not None)


def _others(model: nn.Module | None, params: Sequence[Tensor]) -> list[Tensor]:
    """The parameters of a model that take a gradient and belong to no group of the optimizer."""
    if model is None:
        return []
    ours = {id(p) for p in params}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in ours]


def _not_renormalised(params: Sequence[Tensor], model: nn.Module | None) -> list[Tensor]:
    """Those of some parameters that are not the table of an embedding with `max_norm`."""
    layers = [] if model is None else [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    tables = {id(layer.weight) for layer in layers if layer.max_norm is not None}
    return [p for p in params if id(p) not in tables]

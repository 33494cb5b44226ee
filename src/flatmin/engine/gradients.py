"""The only code that writes `p.grad`: cleared before a probe, read after it, and overwritten with the direction.

**Sums.** Where a method needs only the sum of two gradients, as PUGD does, the second backward pass adds to the first,
as autograd does anyway. Then the first gradient needs no memory of its own. But every closure begins with
`zero_grad()`. `FlatOptimizer.zero_grad` keeps the gradient. If user code sets `p.grad = None`, the saved gradient is
added back. If user code zeroes in place, this is detected before the sum is used.

**Stale gradients.** Frameworks that accumulate run backward on all micro-batches but the last before they call
`step(closure)`. A plain optimizer uses those gradients. A step of several probes would lose them and train on the last
micro-batch alone. They look like the previous step's gradients unless those were recorded, so `LastGradient` does that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from flatmin.distributed import Workers, is_sharded
from flatmin.engine.perturbation import owns_memory
from flatmin.engine.rehearsal import GradientRequest
from flatmin.protocol import Gradient
from flatmin.vectors.blocks import Scope, Select
from flatmin.vectors.expression import Number, Real, pieces
from flatmin.vectors.vector import Add, Scaled, Vec

#: Layouts whose memory address is known.
_KNOWN = (torch.strided, torch.sparse_coo)


class Gradients:
    """The gradients of one step.

    Args:
        scope: every parameter of the optimizer.
        maximize: for each, whether the base optimizer ascends. Methods see the negative gradient of such parameters:
            that of what is minimised.
        others: parameters of the model that belong to no group of the optimizer. Another optimizer may own them, so
            after the step their gradient is that of the first probe, as after one backward pass.
    """

    def __init__(self, scope: Scope, maximize: Sequence[bool], others: Sequence[Tensor] = ()):
        params = scope.params
        self._others = others
        self._of_others: list[Tensor | None] | None = None
        self._scope, self._params = scope, params
        self._ascending = [p for p, up in zip(params, maximize, strict=True) if up]
        self._touched = [False] * len(params)
        self._last: Gradient | None = None
        self._sum: _Sum | None = None
        self._arrival: _Arrival | None = None

    def begin(self, request: GradientRequest) -> None:
        """Make `p.grad` ready for a backward pass."""
        for p in self._others:
            p.grad = None
        if request.adds:
            intact = self._arrival is not None and self._arrival.intact()
            self._negate()  # autograd will add the gradient of the objective
            self._sum = _Sum(self._params, intact)
            self._arrival = _Arrival(self._params) if request.added else None
            return
        if self._last is not None and self._last not in request.done:
            # Gradients that share memory with others, as in DDP's buckets, do not outlive the next backward pass.
            self._last.values = [g.clone() if g is not None and not owns_memory(g) else g for g in self._last.values]
        for gradient in request.done:
            gradient.values = None
        for p in self._params:
            p.grad = None
        self._arrival = _Arrival(self._params) if request.added else None

    def restrict(self, select: Select, workers: Workers | None) -> None:
        """Drop the gradients of the parameters that `select` refuses; average the others over the workers, if given."""
        for p in (*self._params, *self._others):
            if not select(p):
                p.grad = None
        if workers is not None:
            means = workers.average([p.grad for p in self._params], self._params)
            for p, mean in zip(self._params, means, strict=True):
                p.grad = mean

    def separate(self) -> None:
        """Give every gradient memory of its own: autograd hands one tensor to both parameters of a sum of views."""
        seen: set[int] = set()
        grads = [p.grad for p in self._params]
        for p, grad, local in zip(self._params, grads, self._scope.local(grads), strict=True):
            if grad is None or local is None or not local.numel() or local.layout not in _KNOWN:
                continue
            start = (local._values() if local.is_sparse else local).data_ptr()
            if start in seen:
                p.grad = grad.clone()
            seen.add(start)

    def end(self, request: GradientRequest, name: str) -> None:
        """Hand the gradients that the body of the probe left to the method; none, if it asked for none.

        Raises:
            RuntimeError: there are none, or the sum was zeroed in place. The message says in which probe, by `name`.
        """
        if self._of_others is None and request.ask.gradient and request.ask.only is None:
            grads = [p.grad for p in self._others]
            self._of_others = [g if g is None or owns_memory(g) else g.clone() for g in grads]
        if not request.ask.gradient:
            request.gradient.values = [None] * len(self._params)
            self._last = None
            return
        if self._sum is not None and not self._sum.complete():
            raise RuntimeError(
                f"{name} zeroed in place the gradients that it should add to; "
                "write opt.zero_grad(), or net.zero_grad(set_to_none=True)"
            )
        grads = [p.grad for p in self._params]
        # Chosen parameters may take no part in a batch, as a head that another one replaces: their gradient is zero.
        if all(g is None for g in grads) and request.ask.only is None:
            raise RuntimeError(
                f"{name} left no gradient in any parameter of the optimizer; "
                "run loss.backward() in the closure or in the body of the loop"
            )
        self._negate()
        if request.adds and self._last is not None:
            self._last.values = [None] * len(grads)  # it is part of the new gradient now
        request.gradient.values = self._scope.local(grads)
        self._last = request.gradient
        self._touched = [t or g is not None for t, g in zip(self._touched, grads, strict=True)]

    def touch(self, indices: Iterable[int]) -> None:
        """Note parameters that get a direction, although no backward pass reached them."""
        for i in indices:
            self._touched[i] = True

    def stop(self) -> None:
        """After a probe, however it ended: forget a sum that was not completed, return the gradients of others."""
        for p, grad in zip(self._others, self._of_others or (), strict=False):
            p.grad = grad
        if self._arrival is not None:
            self._arrival.stop()
        if self._sum is not None:
            self._sum.stop()
            self._sum = None

    def average(self, answered: Sequence[Gradient], own: Sequence[Gradient], workers: Workers) -> None:
        """Replace this worker's own gradients by the means over all workers, where the answer is made of them."""
        for gradient in answered:
            if gradient in own and not gradient.absent:
                gradient.values = workers.average(gradient.values, self._params)
        last = self._last
        if last is not None and last in answered:
            for p, g in zip(self._params, last.values, strict=True):
                p.grad = g if p.grad is None else p.grad
        # What the answer is not made of may be there on one worker and missing on another.
        self._touched = [any(g.values[i] is not None for g in answered) for i in range(len(self._params))]

    def answer(self, direction: Vec, leave_factor: bool) -> Real:
        """Put the direction into `p.grad`; parameters that no probe had a gradient for get none.

        Args:
            direction: what the method answered.
            leave_factor: if the direction is a multiple of what is there already, do not multiply.

        Returns:
            The factor that is still to be multiplied with; 1.0 if none.
        """
        multiple = _single(direction)
        factor: Real = 0.0
        if multiple is not None and multiple[1] is self._last:
            factor = multiple[0].value(self._scope) if isinstance(multiple[0], Number) else multiple[0]
        plain = isinstance(factor, float) and factor == 1.0
        left = leave_factor and not plain and not (isinstance(factor, float) and factor == 0.0)
        if not plain and not left:
            self._evaluate(direction)
        self._negate()
        return factor if left else 1.0

    def answer_in_parts(self, direction: Vec) -> Iterator[None]:
        """Put the direction into `p.grad` a few parameters at a time: together as large as the largest parameter.

        Each part is there until the next is asked for, and is gone then. Weights of a part may be written meanwhile.
        """
        direction.evaluate_scalars(self._scope)
        sizes = [p.numel() for p in self._params]
        for part in _parts(sizes):
            self._evaluate(direction, part)
            self._negate()
            yield
            for i in part:
                self._params[i].grad = None

    def _evaluate(self, direction: Vec, part: Sequence[int] | None = None) -> None:
        part = range(len(self._params)) if part is None else part
        for i in part:
            if self._touched[i] and self._params[i].grad is None:
                self._params[i].grad = torch.zeros_like(self._params[i])
        grads = self._scope.local([p.grad for p in self._params])
        silent = set(part)
        whole = len(part) == len(grads)  # compiled passes have no parts
        compiler = self._scope.compiler if whole else None
        compiled = compiler and compiler.compiled(_assign, (direction,), self._scope, (grads,))
        if compiled:
            for i in silent.difference(compiled().indices):
                self._params[i].grad = None
            return
        for block, piece in pieces(direction, self._scope, grads, among=part):
            targets = block.of(grads)
            if piece is None or targets is None:
                continue
            silent.difference_update(block.indices)
            if targets[0].layout == piece.tensors[0].layout == torch.strided:
                torch._foreach_copy_(targets, piece.tensors)
            else:
                for i, u in zip(block.indices, piece.tensors, strict=True):
                    self._params[i].grad = u.to(self._params[i].dtype)
        for i in silent:
            self._params[i].grad = None

    def _negate(self) -> None:
        for p in self._ascending:
            if p.grad is not None:
                p.grad.neg_()


def _assign(direction: list[Tensor], targets: list[Tensor]) -> None:
    torch._foreach_copy_(targets, direction)


class _Sum:
    """The gradients present when a probe begins, to which those of its backward pass are added.

    Autograd adds, where the gradients have memory of their own. Those that live in a bucket of DDP's, which may build
    its buckets anew at any forward pass, are put aside and added afterwards. So are those that FSDP2 reduces, and those
    that were changed after their backward pass: where a closure clips, it must clip the next gradient, not the sum.
    """

    def __init__(self, params: Sequence[Tensor], intact: bool):
        self._zeroed = False
        self._watch: RemovableHandle | None = None
        self._kept = [(p, p.grad) for p in params if p.grad is not None]
        self._aside = not (intact and all(owns_memory(grad) and not is_sharded(grad) for _, grad in self._kept))
        if self._aside:
            self._kept = [(p, grad.clone()) for p, grad in self._kept]
            for p, _ in self._kept:
                p.grad = None
        else:
            self._look_at(*self._kept[0])

    def _look_at(self, p: Tensor, grad: Tensor) -> None:
        self._looked_at = p, grad, grad._version
        self._watch = p.register_hook(self._look)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def _look(self, _: Tensor | None = None) -> None:
        # No gradient has been added yet: whoever wrote into p.grad, it was not autograd.
        p, grad, version = self._looked_at
        self._zeroed = p.grad is grad and grad._version != version
        self.stop()

    def complete(self) -> bool:
        """Add the kept gradients to those that did not start from them; False if there is nothing left to add."""
        if self._watch is not None:  # no gradient arrived there
            self._look()
        for p, grad in self._kept:
            if p.grad is None:
                p.grad = grad
            elif p.grad is not grad and (self._aside or not p.grad.requires_grad):
                # Otherwise autograd made the sum itself, not in place, as it does with create_graph.
                p.grad = p.grad + grad if p.grad.is_sparse or p.grad.requires_grad else p.grad.add_(grad)
        return not self._zeroed

    def stop(self) -> None:
        if self._watch is not None:
            self._watch.remove()
            self._watch = None


class _Arrival:
    """Whether gradients are as the backward pass left them, judged by the first and the last parameter.

    One of them has a gradient as a rule. If not, nothing is known, and it is right to assume the worst.
    """

    def __init__(self, params: Sequence[Tensor]):
        learning = [p for p in params if p.requires_grad and p.is_leaf]
        self._seen: dict[int, tuple[ReferenceType[Tensor], int]] = {}
        self._watches: list[RemovableHandle] = [
            p.register_post_accumulate_grad_hook(self._note)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            for p in {*learning[:1], *learning[-1:]}
        ]

    def _note(self, p: Tensor) -> None:
        if p.grad is not None:
            self._seen[id(p)] = ref(p.grad), p.grad._version

    def intact(self) -> bool:
        """False if somebody may have written into the gradients after they arrived."""
        now = [(grad(), version) for grad, version in self._seen.values()]
        return bool(now) and all(grad is not None and grad._version == version for grad, version in now)

    def stop(self) -> None:
        """Stop watching, and remember what was seen."""
        while self._watches:
            self._watches.pop().remove()


class LateBackward:
    """Whether a backward pass runs after the loop over the probes, where it would add to the direction in `p.grad`.

    Clipping and scaling of `p.grad` are allowed there, so its version tells nothing. Hooks tell; not on DTensors, where
    autograd does not see the parameters.

    Args:
        params: the parameters that hold the direction.
    """

    def __init__(self, params: Sequence[Tensor]):
        self.happened = False
        me = ref(self)  # the parameters must not keep this object alive

        def note(_: Tensor) -> None:
            if (late := me()) is not None:
                late.happened = True

        self._hooks = [
            p.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            for p in params
            if p.requires_grad and p.is_leaf and not is_sharded(p)
        ]

    def __del__(self) -> None:
        for hook in getattr(self, "_hooks", ()):
            hook.remove()


class StaleGradient:
    """A gradient that no step of ours has left. It stands for all of them.

    Args:
        parameter: whose `grad` it is.
        grad: the gradient.
    """

    def __init__(self, parameter: Tensor, grad: Tensor):
        self._parameter, self._grad = parameter, grad

    def show(self) -> None:
        """Let the closure find it, as it would in any optimizer."""
        self._parameter.grad = self._grad

    def check(self) -> None:
        """Refuse if the closure did not clear it.

        Raises:
            RuntimeError: it is still there.
        """
        if self._parameter.grad is self._grad:
            raise RuntimeError(
                "p.grad held gradients when step(closure) began, and the closure did not clear them. If they are "
                "micro-batches of this step, run all of them in the closure: every probe needs them. If not, begin the "
                "closure with opt.zero_grad()"
            )


class LastGradient:
    """What a step left in `p.grad`."""

    def __init__(self) -> None:
        self._grad: ReferenceType[Tensor] | None = None
        self._version = 0

    def note(self, params: Sequence[Tensor]) -> None:
        """Remember what is there now. The first gradient stands for all."""
        grad = next((p.grad for p in params if p.grad is not None), None)
        self._grad = None if grad is None else ref(grad)
        self._version = 0 if grad is None else grad._version

    def stale(self, params: Sequence[Tensor]) -> StaleGradient | None:
        """A gradient that is there now and was not left, or was changed since."""
        p = next((p for p in params if p.grad is not None), None)
        if p is None or p.grad is None:
            return None
        ours = self._grad is not None and self._grad() is p.grad and p.grad._version == self._version
        return None if ours else StaleGradient(p, p.grad)


def _parts(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Indices in order, in parts that are together at most the largest size."""
    part: list[int] = []
    room = largest = max(sizes, default=0)
    for i, size in enumerate(sizes):
        if part and size > room:
            yield part
            part, room = [], largest
        part.append(i)
        room -= size
    if part:
        yield part


def _single(vec: Vec) -> tuple[float | Number, Gradient] | None:
    """(factor, gradient) if a vector is a multiple of one gradient, absent ones left out; else None."""
    if isinstance(vec, Gradient):
        return 1.0, vec
    if isinstance(vec, Scaled):
        inner = _single(vec.vec)
        return None if inner is None else (vec.factor * inner[0], inner[1])
    if isinstance(vec, Add):
        there = [
            arg for arg in vec.args if not (isinstance(arg, Gradient) and not any(v is not None for v in arg.values))
        ]
        return _single(there[0]) if len(there) == 1 else None
    return None

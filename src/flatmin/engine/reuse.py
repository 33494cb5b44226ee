"""The layers before the head, run once per step: what they compute is kept from one probe to the next.

A method may ask for the gradient of the last layers only (`Ask.only`): of the *head*. The layers before it, the *body*,
need no backward pass for that. If the next probe moves the head alone, they need no second forward pass either. Their
output would be the same numbers, dropout aside, and the graph of the first pass leads back through them.

The loop stays `net(x)` in every probe. During a probe, the `forward` of each module is replaced:

- A *pass* is the outermost call of a module that contains the head.
- In the first pass the modules of the body run. Their outputs are kept, and so is the input of the head. The head gets
  this input detached, so that a backward pass ends there and the graph of the body stays as it is.
- In later passes the modules of the body return what is kept, and the head gets its kept input. Code between modules
  runs again, but nothing of it reaches the head.

A later pass is one with the same inputs, weights of the body, mode and autocast as the first; any other runs in full.
So does every pass where the first one shows that this would be wrong: the loss uses the body past the head, the head's
input depends on the head's weights, or code between modules writes into their outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves

from flatmin.distributed import is_sharded
from flatmin.engine.batchnorm import FirstPassEffects
from flatmin.engine.passes import Forward, Pass, Recording, Replay, Situation
from flatmin.engine.probe import Probe


class Reuse:
    """The passes of a step, and what earlier steps have shown: whether the body can be run once.

    Args:
        wanted: False to run everything in every probe.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._possible = wanted
        self._head: dict[int, Tensor] = {}
        self._roles: _Roles | None = None
        self._passes: list[Pass] = []

    def forget(self) -> None:
        """Let go of all passes, with their graphs."""
        self._passes = []

    @contextmanager
    def during(
        self,
        probe: Probe,
        model: nn.Module | None,
        head: Sequence[Tensor] | None,
        *,
        last: bool,
        effects: FirstPassEffects,
    ) -> Iterator[None]:
        """Around the body of a loop over the probes.

        Args:
            probe: that runs.
            model: the network; None if it is unknown. Then nothing is reused.
            head: the parameters whose gradient is wanted; None for all, or for no gradient.
            last: a backward pass through the body runs in this probe, so its graph is not there afterwards.
            effects: replays random numbers, if that was asked for.
        """
        if head is not None and {id(p) for p in head} != set(self._head):
            self._head, self._roles, self._passes = {id(p): p for p in head}, None, []
        if model is None or not self._possible or (head is None and not self._passes):
            yield
            return
        if self._roles is None or self._roles.model is not model:
            self._roles = _Roles(model, self._head)
        roles = self._roles
        self._give_up(roles.reason)
        if not self._possible or not roles.around:
            yield
            return
        watch = _Watch(self._passes, roles, self._head, probe, detach=not last, effects=effects)
        with watch.installed():
            yield
        if last:
            self.forget()
        elif head is not None:
            self._give_up(watch.fault())

    def _give_up(self, reason: str) -> None:
        """Run everything in every probe from now on, if there is a reason."""
        if reason:
            self._possible = False
            self.forget()
            warnings.warn(
                f"the layers before the head run in every probe, not once per step, because {reason}. The "
                "steps are the same, except for dropout masks, and cost a whole gradient per probe",
                stacklevel=2,
            )


class _Roles:
    """Which modules contain the head, are the head, or belong to the body.

    Args:
        model: the network.
        head: the parameters of the head, by id.
    """

    def __init__(self, model: nn.Module, head: Mapping[int, Tensor]):
        self.model = model
        self.around: list[nn.Module] = []
        self.head: list[nn.Module] = []
        self.body: list[nn.Module] = []
        #: Why the body cannot be run once; empty if it can.
        self.reason = ""
        #: For each `Sequential` around the head, which of its modules is the first that is not of the body.
        self.first_of: dict[nn.Module, int] = {}
        #: The head's part of the multiplications, estimated in the first pass.
        self.share: float | None = None
        self._seen: set[nn.Module] = set()
        self._walk(model, head)
        self.modules = [*self.around, *self.head, *self.body]
        parameters = list(model.parameters())
        body = set(self.body)
        for module in self.around:
            if type(module).forward is nn.Sequential.forward and "forward" not in vars(module):
                self.first_of[module] = [child in body for child in _sequence(module)].index(False)
        self.weights = [p for p in parameters if id(p) not in head]
        self.devices = sorted({p.device.type for p in parameters})
        if any(is_sharded(p) for p in parameters):
            self.reason = "the weights are sharded"

    def _walk(self, module: nn.Module, head: Mapping[int, Tensor]) -> None:
        if module in self._seen:
            return
        self._seen.add(module)
        if any(id(p) in head for p in _own(module)):
            self.head.append(module)
            return
        if not any(id(p) in head for p in module.parameters()):
            self.body.append(module)
            if _is_compiled(module):
                return  # what is inside was traced
        else:
            self.around.append(module)
            if _is_compiled(module):
                self.reason = "the network is compiled as a whole"
            if isinstance(module, nn.DataParallel):
                self.reason = "DataParallel copies the network; use DistributedDataParallel"
        if isinstance(module, torch.jit.ScriptModule):
            self.reason = "a part of the network is TorchScript"
        for child in module.children():
            self._walk(child, head)


class _Watch:
    """The modules of a network while a probe runs.

    Args:
        passes: of this step so far; first passes are added.
        roles: of the modules.
        head: the parameters of the head, by id.
        probe: that runs.
        detach: the backward pass ends at the head.
        effects: replays random numbers.
    """

    def __init__(
        self,
        passes: list[Pass],
        roles: _Roles,
        head: Mapping[int, Tensor],
        probe: Probe,
        *,
        detach: bool,
        effects: FirstPassEffects,
    ):
        self._passes, self._roles, self._head, self._probe = passes, roles, head, probe
        self._detach, self._effects = detach, effects
        self._number = 0  # of passes so far
        self._pass: Recording | Replay | None = None
        self._work = [0.0, 0.0]  # of the body and the head

    @contextmanager
    def installed(self) -> Iterator[None]:
        """With every `forward` replaced, or what `module.compile()` has made of it."""
        roles = self._roles
        kinds = (roles.around, self._outermost), (roles.body, self._of_body), (roles.head, self._of_head)
        replaced: list[tuple[nn.Module, str, Any]] = []
        try:
            for modules, instead in kinds:
                for module in modules:
                    name = "forward" if module._compiled_call_impl is None else "_compiled_call_impl"
                    replaced.append((module, name, vars(module).get(name)))
                    forward = getattr(module, name)
                    if module in roles.first_of:
                        forward = partial(self._in_sequence, module, forward)
                    setattr(module, name, partial(instead, module, forward))
            yield
        finally:
            for module, name, own in replaced:
                if own is None:
                    delattr(module, name)
                else:
                    setattr(module, name, own)

    def fault(self) -> str:
        """Why the passes cannot be repeated; empty if they can."""
        if not self._number:
            return "no module that contains the head was called, or only a compiled one"
        if fault := next((kept.fault for kept in self._passes if kept.fault), ""):
            return fault
        if any(p.grad is not None for p in self._roles.weights):
            return "the loss depends on the layers before the head in other ways, too"
        return ""

    def _outermost(self, module: nn.Module, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or self._pass is not None or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        roles = self._roles
        self._pass = self._begin(Situation(module, (args, kwargs), roles.modules, roles.weights, roles.devices))
        if self._pass is None:
            return forward(*args, **kwargs)
        try:
            output = forward(*args, **kwargs)
            self._pass.end()
            self._probe.reused(self._cost(self._pass))
            return output
        finally:
            self._pass = None

    def _begin(self, situation: Situation) -> Recording | Replay | None:
        """What to do in this pass; None for nothing."""
        number, self._number = self._number, self._number + 1
        if number < len(self._passes) and self._passes[number].repeats_in(situation):
            return Replay(self._passes[number], self._detach, self._effects)
        if not self._detach:
            return None
        self._passes[number : number + 1] = [Pass(situation)]
        return Recording(self._passes[number], self._head, self._effects)

    def _cost(self, ran: Recording | Replay) -> float:
        """Of forward and backward pass, in whole gradients: a forward pass is a third of one."""
        if ran.kept.fault:
            return 1.0
        if self._roles.share is None:
            self._roles.share = self._work[1] / (sum(self._work) or 1.0)
        share = self._roles.share
        return ((1 if isinstance(ran, Recording) else share) + 2 * (share if self._detach else 1)) / 3

    def _in_sequence(self, module: nn.Module, forward: Forward, x: Any) -> Any:
        """A `Sequential` that contains the head: one module of the body, so that one output is kept, and the others."""
        if self._pass is None:
            return forward(x)
        first = self._roles.first_of[module]
        children = _sequence(module)
        return _chain(children[first:], self._pass.run_body(module, partial(_chain, children[:first]), (x,), {}))

    def _of_body(self, module: nn.Module, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or self._pass is None:
            return forward(*args, **kwargs)
        output = self._pass.run_body(module, forward, args, kwargs)
        if self._roles.share is None:
            self._work[0] += _work(module, output)
        return output

    def _of_head(self, module: nn.Module, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or self._pass is None:
            return forward(*args, **kwargs)
        output = self._pass.run_head(forward, args, kwargs)
        if self._roles.share is None:
            self._work[1] += _work(module, output)
        return output


def _sequence(module: nn.Module) -> list[nn.Module]:
    """The modules that a `Sequential` runs; one may occur twice."""
    return [child for child in module._modules.values() if child is not None]


def _chain(modules: Sequence[nn.Module], x: Any) -> Any:
    for module in modules:
        x = module(x)
    return x


def _own(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module itself, those of its parametrizations included."""
    own = list(module.parameters(recurse=False))
    return [*own, *module.parametrizations.parameters()] if is_parametrized(module) else own  # type: ignore[union-attr]


def _is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None or hasattr(module, "_torchdynamo_orig_callable")


def _work(module: nn.Module, output: Any) -> float:
    """The multiplications in a module itself, as in a linear layer or a convolution with this output."""
    size = sum(leaf.numel() for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
    own = module.parameters() if _is_compiled(module) else _own(module)
    return sum(p.numel() * size / max(1, p.shape[0]) for p in own if p.ndim)

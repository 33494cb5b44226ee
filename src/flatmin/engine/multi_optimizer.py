"""`MultiOptimizer`: several optimizers as one, each with its own parameters: Muon for matrices, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from flatmin.engine.arguments import check_base
from flatmin.engine.wrapping import Wrapping
from flatmin.protocol import reads_loss


class MultiOptimizer(Wrapping):
    """Several optimizers as one `torch.optim.Optimizer`: a step is a step of each, in their order.

    `FlatOptimizer([muon, adamw], method)` makes one. The method then sees one vector of weights. Its norms, and with
    them SAM's radius and the length of PUGD's direction, are those of the parameters of all optimizers together.

    `param_groups` holds the groups of all optimizers, in their order, as the very same dicts: an optimizer sees the
    learning rate that is set there. So a scheduler may be attached to this optimizer or to a part of it. The hooks of
    the optimizers run, and each saves and loads its own state.

    Args:
        optimizers: constructed ones, without a parameter in common. The attribute of this name has them.
        model: the network, for the names of parameters in errors.

    Cost: none. With closures, a fused optimizer alone multiplies the direction by its factor within its kernel; several
    do not, which is one pass over the gradients more.

    Raises:
        TypeError: one of them is not a constructed first-order optimizer.
        ValueError: there is none, or two of them have the same parameter.

    Examples:
        >>> import torch, flatmin
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> matrices = [p for p in net.parameters() if p.ndim == 2]
        >>> rest = [p for p in net.parameters() if p.ndim != 2]
        >>> momentum = torch.optim.SGD(matrices, lr=0.1, momentum=0.9)  # or torch.optim.Muon
        >>> base = flatmin.MultiOptimizer([momentum, torch.optim.AdamW(rest, lr=1e-3)])
        >>> [group["lr"] for group in base.param_groups]
        [0.1, 0.001]
    """

    #: The number of groups of each optimizer, as far as they were added through this one.
    _sizes: list[int]

    def __init__(self, optimizers: Sequence[Optimizer], *, model: nn.Module | None = None):
        self.optimizers = list(optimizers)
        if not self.optimizers:
            raise ValueError("optimizers must be constructed optimizers, got none; write [muon, adamw]")
        for number, optimizer in enumerate(self.optimizers):
            if isinstance(optimizer, Wrapping):
                raise TypeError(
                    f"optimizers[{number}] is a {_name(optimizer)} already; write one list of the optimizers inside, "
                    "flatmin.FlatOptimizer([muon, adamw], method)"
                )
            check_base(f"optimizers[{number}]", optimizer)
        _check_disjoint(self.optimizers, model)
        self._sizes = [len(optimizer.param_groups) for optimizer in self.optimizers]
        first, *others = (optimizer.defaults for optimizer in self.optimizers)
        # Those of all: a schedule that cycles momentum asks here whether every group has it.
        super().__init__({name: value for name, value in first.items() if all(name in other for other in others)})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]  # an attribute in torch
        """The groups of all optimizers, in their order.

        Raises:
            RuntimeError: an optimizer was given a group directly, which would change the order of the parameters.
        """
        for number, (optimizer, size) in enumerate(zip(self.optimizers, self._sizes, strict=True)):
            if len(optimizer.param_groups) != size:
                raise RuntimeError(
                    f"optimizers[{number}] ({_name(optimizer)}) got a parameter group by its own add_param_group, so "
                    f"that the order of the parameters has changed; write {_adding(optimizer)} instead"
                )
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> MutableMapping[Any, Any]:  # type: ignore[override]  # an attribute in torch
        """The states of all optimizers."""
        return _States(self.optimizers)

    @property
    def reads_loss(self) -> bool:
        """Whether one of them does, as KOALA."""
        return any(reads_loss(optimizer) for optimizer in self.optimizers)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let every optimizer step. If one raises, those before it have stepped.

        Args:
            closure: clears the gradients, runs forward and backward, returns the loss. It is called once.

        Returns:
            What the closure returned.
        """
        loss: Any = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            if closure is not None and reads_loss(optimizer):
                optimizer.step(lambda: loss)
            else:
                optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def train(self) -> None:
        """Call `train()` of those that have it, as those of `schedulefree`."""
        self._call("train")

    def eval(self) -> None:
        """Call `eval()` of those that have it."""
        self._call("eval")

    def _call(self, name: str) -> None:
        for optimizer in self.optimizers:
            act = getattr(optimizer, name, None)
            if callable(act):
                act()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the optimizer that it names: `{"params": [...], "optimizer": adamw}`.

        Raises:
            ValueError: it names none of them, or another one has one of the parameters. Nothing was added.
        """
        named = param_group.get("optimizer")
        number = next((i for i, optimizer in enumerate(self.optimizers) if optimizer is named), None)
        if number is None:
            got = "none" if named is None else f"a {_name(named)} that is none of them"
            raise ValueError(
                f"param_group['optimizer'] must be one of the optimizers ({self._names()}), got {got}; write "
                f"{_adding(self.optimizers[-1])}"
            )
        optimizer = self.optimizers[number]
        del param_group["optimizer"]
        optimizer.add_param_group(param_group)
        try:
            _check_disjoint(self.optimizers)
        except ValueError:
            optimizer.param_groups.pop()
            raise
        self._sizes[number] += 1

    def _checkpoint(self) -> dict[str, Any]:
        """One state dict for all, as that of one optimizer with all groups, which could load it.

        What does not belong to a parameter or a group is under the key "optimizers", with the number of groups of each.
        """
        state: dict[Any, Any] = {}
        groups: list[dict[str, Any]] = []
        rests: list[dict[str, Any]] = []
        for optimizer in self.optimizers:
            rest = dict(optimizer.state_dict())
            own_state, own_groups = rest.pop("state", {}), rest.pop("param_groups", [])
            own, before = _numbers(own_groups), sum(len(group["params"]) for group in groups)
            state |= {i + before: value for i, value in own_state.items() if i in own}
            groups += [{**group, "params": [i + before for i in group["params"]]} for group in own_groups]
            other = {key: value for key, value in own_state.items() if key not in own}
            rests.append({**rest, "state": other, "param_groups": len(own_groups)})
        return {"state": state, "param_groups": groups, "optimizers": rests}

    def _load(self, state: dict[str, Any]) -> None:
        """Give every optimizer its part; that of one optimizer with the same groups will do, too.

        Raises:
            ValueError: the groups are others. Nothing was loaded.
        """
        rests = state.get("optimizers", [{"param_groups": size} for size in self._sizes])
        left = iter(state["param_groups"])
        parts: list[dict[str, Any]] = []
        for rest in rests:
            groups = list(islice(left, rest["param_groups"]))
            numbers = _numbers(groups)
            own = {key: value for key, value in state["state"].items() if key in numbers}
            parts.append({**rest, "state": {**rest.get("state", {}), **own}, "param_groups": groups})
        over = list(left)
        saved = [_shape(part["param_groups"]) for part in parts] + ([_shape(over)] if over else [])
        here = [_shape(optimizer.param_groups) for optimizer in self.optimizers]
        # One that saves itself in a form of its own has no groups there, and checks that form itself.
        fit = len(saved) == len(here) and all(s in ([], h) for s, h in zip(saved, here, strict=True))
        if not fit:
            raise ValueError(
                f"the checkpoint's groups have {saved} parameters, and those of the optimizers ({self._names()}) have "
                f"{here}; make the optimizers and their groups in the order in which they were saved"
            )
        for optimizer, part in zip(self.optimizers, parts, strict=True):
            optimizer.load_state_dict(part)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("optimizers", "defaults", "_sizes")}

    def _names(self) -> str:
        return ", ".join(map(_name, self.optimizers))

    def __repr__(self) -> str:
        return f"{_name(self)}({self.optimizers!r})"


class _States(MutableMapping[Any, Any]):
    """The states of several optimizers as one. What belongs to a parameter is read and written in its optimizer's."""

    def __init__(self, optimizers: Sequence[Optimizer]):
        self._optimizers = optimizers

    def _home(self, key: Any) -> MutableMapping[Any, Any]:
        """The state that has a key; for a parameter without one, that of its optimizer."""
        for optimizer in self._optimizers:
            if key in optimizer.state:
                return optimizer.state
        for optimizer in self._optimizers:
            if any(p is key for group in optimizer.param_groups for p in group["params"]):
                return optimizer.state
        raise KeyError(key)

    def __getitem__(self, key: Any) -> Any:
        return self._home(key)[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._home(key)[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._home(key)[key]

    def __contains__(self, key: object) -> bool:  # Mapping's own reads, which adds an entry to a defaultdict
        return any(key in optimizer.state for optimizer in self._optimizers)

    def get(self, key: Any, default: Any = None) -> Any:
        """As that of a dict, which adds nothing."""
        return self._home(key).get(key, default) if key in self else default

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(optimizer.state for optimizer in self._optimizers)

    def __len__(self) -> int:
        return sum(len(optimizer.state) for optimizer in self._optimizers)


def _check_disjoint(optimizers: Sequence[Optimizer], model: nn.Module | None = None) -> None:
    """Refuse a parameter that two optimizers have.

    Raises:
        ValueError: there is one; the message names it.
    """
    known = model.named_parameters() if isinstance(model, nn.Module) else ()
    names = {id(p): repr(name) for name, p in known}
    owners: dict[int, int] = {}
    for number, optimizer in enumerate(optimizers):
        for j, group in enumerate(optimizer.param_groups):
            for k, p in enumerate(group["params"]):
                first = owners.setdefault(id(p), number)
                if first == number:
                    continue
                place = f"of shape {tuple(p.shape)}, params[{k}] of group {j} of optimizers[{number}],"
                name = repr(group["param_names"][k]) if "param_names" in group else names.get(id(p), place)
                raise ValueError(
                    f"the parameter {name} is in both optimizers[{first}] ({_name(optimizers[first])}) and "
                    f"optimizers[{number}] ({_name(optimizer)}); give each its own, for example "
                    "torch.optim.Muon([p for p in net.parameters() if p.ndim == 2]) and "
                    "torch.optim.AdamW([p for p in net.parameters() if p.ndim != 2])"
                )


def _name(thing: object) -> str:
    return type(thing).__name__


def _adding(optimizer: Optimizer) -> str:
    """The line that adds a group to an optimizer."""
    return f"opt.add_param_group({{'params': [...], 'optimizer': {_name(optimizer).lower()}}})"


def _numbers(groups: Sequence[dict[str, Any]]) -> set[Any]:
    """What stands for the parameters in saved groups: numbers, or names in those of `torch.distributed.checkpoint`."""
    return {i for group in groups for i in group["params"]}


def _shape(groups: Sequence[dict[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]

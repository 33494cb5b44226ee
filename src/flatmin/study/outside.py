"""Methods and base optimizers of other packages in studies: `package.module:Name`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn

from flatmin.checks import import_callable
from flatmin.engine.optimizer import FlatOptimizer
from flatmin.protocol import asks_about_examples
from flatmin.registry import GROUPS, Entry, Range
from flatmin.study.bases import Base, Setting

#: Steps in which the gradients of a method without an entry are counted.
STEPS = 32


@functools.cache
def entry(name: str) -> Entry:
    """The entry of the method `package.module:Name`.

    `Name` is an `Entry`, or a class or function that makes a method. Its entry is the one of the module (`ENTRY`, or
    one of `ENTRIES`) that makes the same. A method without an entry has no settings to search, and its gradients per
    step are counted on a tiny problem.

    Args:
        name: as in `--methods`.

    Raises:
        ValueError: it cannot be imported, or makes no method.
    """
    module, make = import_callable("method", name, "package.module:Class", "class", other=Entry)
    if isinstance(make, Entry):
        return make
    for found in _entries(module):
        if found.make is make:
            return found
    summary = (inspect.getdoc(make) or name).partition("\n")[0]
    return Entry(name, make, summary, group=GROUPS[1], gradients=_gradients(name, make), copies=0)


@functools.cache
def base(name: str) -> Base:
    """The base optimizer `package.module:name`.

    `name` is a `Base`, which has the ranges of a search; or the class or function that a `Base` of the module calls; or
    any class of optimizers, or function of `(groups, lr=..., wd=...)` that returns one. Of the latter the learning rate
    is searched within a factor of 30 of its default, and `wd` or `weight_decay`, if there is one, from 1e-5 to 1.

    Args:
        name: as after the @ of a contender, and in `--base`.

    Raises:
        ValueError: it cannot be imported, is nothing of this kind, or has no default learning rate.
    """
    module, make = import_callable("base", name, "package.module:function", "function", other=Base)
    attribute = name.partition(":")[2]
    if isinstance(make, Base):
        return make
    for found in vars(module).values():
        if isinstance(found, Base) and found.make is make:
            return found
    parameters = inspect.signature(make).parameters
    lr = getattr(parameters.get("lr"), "default", None)
    if not isinstance(lr, int | float) or lr <= 0:
        raise ValueError(
            f"base: {name} has no default learning rate; write def {attribute}(groups, lr=1e-3, wd=0.01), or\n"
            f'BASE = Base({attribute}, {{"lr": Setting(1e-3, Range(1e-4, 1e-1))}})  # of flatmin.study, and name it'
        )
    settings = {"lr": Setting(float(lr), Range(lr / 30, lr * 30))}
    decay = next((each for each in ("wd", "weight_decay") if each in parameters), None)
    if decay is None:
        return Base(make, settings)
    settings["wd"] = Setting(float(parameters[decay].default), Range(1e-5, 1.0))
    return Base(lambda groups, lr, wd: make(groups, lr=lr, **{decay: wd}), settings)


def _entries(module: ModuleType) -> list[Entry]:
    found = (getattr(module, "ENTRY", None), *getattr(module, "ENTRIES", ()))
    return [each for each in found if isinstance(each, Entry)]


def _gradients(name: str, make: Callable[..., Any]) -> float:
    """Gradients per step, counted in `STEPS` steps of a regression with eight examples."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, x, y = nn.Linear(3, 2), torch.randn(8, 3), torch.randint(2, (8,))
    try:
        optimizer = FlatOptimizer(torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9), make(), model=net)
        loss_of = nn.CrossEntropyLoss(reduction="none" if asks_about_examples(optimizer.method) else "mean")
        cost = 0.0
        for _ in range(STEPS):
            for probe in optimizer.probes():
                labels, outputs = y[probe.rows], net(x[probe.rows])
                probe.backward(loss_of(outputs, labels), labels, outputs=outputs)
                cost += probe.cost * len(labels) / len(y)
            optimizer.step()
    except Exception as error:
        raise ValueError(f"method: {name} cannot take a step: {type(error).__name__}: {error}") from error
    return cost / STEPS

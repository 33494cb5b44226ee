"""Checks of arguments. Each message names the argument, the value and what is allowed."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any


def at_least(name: str, value: Any, low: float, *, strictly: bool = False, whole: bool = False) -> None:
    """Refuse numbers below `low`, infinite ones and things that are no numbers.

    Args:
        name: of the argument.
        value: that was given.
        low: the smallest allowed value.
        strictly: `low` itself is not allowed either.
        whole: only whole numbers are allowed.

    Raises:
        TypeError: the value is of the wrong type.
        ValueError: it is out of range.
    """
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} must be {'an int' if whole else 'a number'}, got {value!r}")
    if not math.isfinite(value) or value < low or (strictly and value == low):
        raise ValueError(f"{name} must be {'>' if strictly else '>='} {low}, got {value!r}")


def between(name: str, value: Any, low: float, high: float, ends: str = "[]") -> None:
    """Refuse what is not a number of an interval.

    Args:
        name: of the argument.
        value: that was given.
        low: the lower end.
        high: the upper end.
        ends: which of them belong to it: "[]" both, "(]" only the upper one, "[)" only the lower one.

    Raises:
        TypeError: the value is no number.
        ValueError: it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    excluded = [end for end, bracket in ((low, ends[0]), (high, ends[1])) if bracket in "()"]
    if not low <= value <= high or value in excluded:
        raise ValueError(f"{name} must be in {ends[0]}{low}, {high}{ends[1]}, got {value!r}")


def one_of(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse what is not among the choices.

    Raises:
        ValueError: the value is none of them.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def known_name(what: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not among many; the message lists the nearest ones.

    Args:
        what: the kind of thing that is named, or the argument.
        name: that was given.
        known: all names.

    Raises:
        ValueError: the name is unknown.
    """
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"{what}: unknown name {name!r}; {hint}")


def a_method(name: str, value: Any) -> None:
    """Refuse what has no `direction`, and classes.

    Raises:
        TypeError: the value is not a method.
    """
    if isinstance(value, type) or not callable(getattr(value, "direction", None)):
        shown = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
        raise TypeError(f"{name} must be a method such as flatmin.SAM(), got {shown}")


def import_named(argument: str, name: str, form: str) -> ModuleType:
    """The module of a name such as `package.module:Class`.

    Args:
        argument: that the name was given for.
        name: as written.
        form: of such names, for the message.

    Raises:
        ValueError: it cannot be imported.
    """
    package = name.partition(":")[0]
    try:
        return importlib.import_module(package)
    except (ImportError, ValueError, TypeError) as error:  # ValueError, TypeError: an empty or a relative name
        raise ValueError(
            f"{argument}: cannot import {package!r} of {name!r} ({error}); write {form}, and run flatmin in the folder "
            "that holds the package, or put that folder on PYTHONPATH"
        ) from error


def import_callable(
    argument: str, name: str, form: str, kind: str, *, other: type | None = None, otherwise: str = ""
) -> tuple[ModuleType, Any]:
    """The module of a name such as `package.module:Class`, and what the name stands for there.

    Args:
        argument: that the name was given for.
        name: as written.
        form: of such names, for the message.
        kind: of what is looked for, such as "class", for the message.
        other: a type whose instances will do, although they cannot be called.
        otherwise: what to write if no name is near; `form` by default.

    Raises:
        ValueError: it cannot be imported, or the module has nothing of that name that can be called.
    """
    module = import_named(argument, name, form)
    package, _, attribute = name.partition(":")
    found = getattr(module, attribute, None)
    if not callable(found) and (other is None or not isinstance(found, other)):
        callables = [each for each in vars(module) if callable(vars(module)[each]) and not each.startswith("_")]
        near = difflib.get_close_matches(attribute, callables)
        hint = f"did you mean {' or '.join(near)}?" if near else otherwise or f"write {form}"
        raise ValueError(f"{argument}: {package} has no {kind} {attribute!r}; {hint}")
    return module, found

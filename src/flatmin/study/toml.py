"""Dataclasses as TOML files."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tomli_w

from flatmin.checks import known_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

Config = TypeVar("Config", bound="DataclassInstance")


def save(config: DataclassInstance, path: Path, without: Collection[str] = ()) -> None:
    """Write `config` as TOML, with every field but some."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in without}
    path.write_text(tomli_w.dumps(values), encoding="utf-8")


def load(
    cls: type[Config],
    path: Path,
    needed: Sequence[str] = (),
    complete: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Config:
    """Read a dataclass from TOML; absent fields keep their defaults.

    Args:
        cls: the dataclass. Every field needs a default; its type is the type that the file must have.
        path: the file.
        needed: the fields that must be in the file. A file that was cut off is still TOML, but lacks its last fields.
        complete: called with the values of the file, may add some.

    Raises:
        ValueError: the file is missing, is not TOML, lacks a needed field, or has an unknown field or a value of the
            wrong type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        if missing := [name for name in needed if name not in values]:
            raise ValueError(f"the file is damaged: it lacks {', '.join(missing)}")
        return _from_dict(cls, complete(values))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


_NAMES = {str: "string", int: "whole number", float: "number", bool: "boolean", tuple: "list", dict: "table"}


def _from_dict(cls: type[Config], values: dict[str, Any]) -> Config:
    fields = dataclasses.asdict(cls())
    for name in values:
        known_name("field", name, fields)
    return cls(**{name: _like(fields[name], value, name) for name, value in values.items()})


def _like(example: Any, value: Any, name: str) -> Any:
    """`value` with the type of `example`: lists become tuples, and whole numbers may stand for floats."""
    if isinstance(example, tuple) and isinstance(value, list):
        return tuple(_like(example[0] if example else "", item, name) for item in value)
    if isinstance(example, dict) and isinstance(value, dict):
        return {key: _like(0.0, item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(example, float) and type(value) is int:
        return float(value)
    if type(value) is not type(example):
        raise ValueError(f"{name} must be a {_NAMES[type(example)]}, got {value!r}")
    return value

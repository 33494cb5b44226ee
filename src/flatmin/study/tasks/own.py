"""A task of one's own: `package.module:function`, a function of a `Trial` that returns an `Outcome`."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from flatmin.checks import import_callable
from flatmin.study.config import Run, Study, Training
from flatmin.study.tasks.function import FunctionTask
from flatmin.study.tasks.outcome import Outcome
from flatmin.study.tasks.trial import Trial

Train = Callable[[Trial], Outcome]


class Own(FunctionTask):
    """A training function.

    Args:
        name: `package.module:function`.
    """

    def check(self, training: Training) -> None:
        """Import the function, and refuse options of images and text.

        Raises:
            ValueError: it cannot be imported, or an option is not for it.
        """
        load(self.name)
        super().check(training)

    def shipped(self, training: Training, *, data: bool) -> Callable[[], None]:
        """A worker gets a function of a script or notebook with the objects that it uses; it imports any other."""
        return functools.partial(_give, {self.name: _given[self.name]} if self.name in _given else {})

    def call(self, trial: Trial, run: Run) -> Outcome:
        """Call the function."""
        return load(self.name)(trial)

    def source(self, run: Run) -> str:
        """See `digest`."""
        return digest(self.name)

    def in_words(self, study: Study, parameters: int) -> list[tuple[str, str]]:
        """The function, and the first line of its docstring if it is here."""
        try:
            summary = (inspect.getdoc(load(self.name)) or "").partition("\n")[0]
        except ValueError:
            summary = ""
        words = f"The training function {self.name}, {parameters:,} trained parameters. {summary}".strip()
        return [("Task", words if words.endswith(".") else f"{words}.")]


#: Functions that were given as such, and the digests of their files, by name: those of a notebook cannot be imported.
_given: dict[str, tuple[Train, str]] = {}


def _give(functions: dict[str, tuple[Train, str]]) -> None:
    """See `Own.shipped`."""
    _given.update(functions)


def name_of(function: Train, jobs: int) -> str:
    """The name of a function, `module:function`; remembers it in this process.

    Args:
        function: of a `Trial`.
        jobs: worker processes of this machine, which have to import it.

    Raises:
        ValueError: they cannot.
    """
    module, name = function.__module__, function.__qualname__
    if jobs > 1 and (module == "__main__" or "." in name):
        raise ValueError(
            f"with jobs = {jobs}, worker processes must import {name}, which is defined in "
            f"{'the script or notebook' if module == '__main__' else 'a function or class'}; move it to the top of a "
            "module, mytask.py, and write from mytask import train, or write jobs=1"
        )
    _given[f"{module}:{name}"] = function, _digest(sys.modules.get(module))
    return f"{module}:{name}"


def load(name: str) -> Train:
    """The function `package.module:function`.

    Raises:
        ValueError: it cannot be imported.
    """
    if name in _given:
        return _given[name][0]
    package, _, attribute = name.partition(":")
    otherwise = f"write def {attribute or 'train'}(trial): ... there"
    try:
        found: Train = import_callable("task", name, "package.module:function", "function", otherwise=otherwise)[1]
    except ValueError:
        raise
    except Exception as error:  # of the module's own code
        raise ValueError(f"task: importing {package!r} raised {type(error).__name__}: {error}") from error
    return found


def digest(name: str) -> str:
    """The start of the SHA-256 of the function's file, so that records tell which version made them; "" without one."""
    return _given[name][1] if name in _given else _digest(sys.modules.get(load(name).__module__))


def _digest(module: ModuleType | None) -> str:
    path = getattr(module, "__file__", None)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] if path and Path(path).exists() else ""

"""What a process on another machine needs of this one: the user's modules, functions of a script, and data."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from flatmin import __version__
from flatmin.study import pool
from flatmin.study.config import Study
from flatmin.study.contender import Contender
from flatmin.study.tasks.runs import task_of

#: Folders of installed packages, which every machine has to have itself.
INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class Parcel:
    """What a process of another machine is given.

    Args:
        version: of flatmin here.
        modules: the source of modules, by path below a folder of modules.
        path: where this process looks for modules.
        begin: a pickled function to call afterwards.
    """

    version: str
    modules: dict[str, bytes]
    path: list[str]
    begin: bytes


def pack(study: Study, *, data: bool = False) -> Parcel:
    """What the runs of a study need.

    The modules that the study names (task, network, methods, bases) are shipped as files, with all modules beside them
    that this process has imported. Installed packages are not. A function of a script or notebook is pickled with the
    objects that it uses.

    Args:
        study: a canonical study whose data are loaded.
        data: whether to bring the data, too.
    """
    from ray import cloudpickle

    begin = cloudpickle.dumps(task_of(study.task).shipped(study, data=data))
    return Parcel(__version__, dict(_modules(study)), list(sys.path), begin)


#: The parcel that this process has unpacked: its modules, and the folder that holds them.
_unpacked: list[tuple[Parcel, tempfile.TemporaryDirectory[str]]] = []


def unpack(parcel: Parcel) -> None:
    """Be ready for the runs of a study. The modules of an earlier one are forgotten.

    Raises:
        ValueError: this machine has another version of flatmin.
        AbsentError: the data are not here, and the parcel does not bring them.
    """
    if parcel.version != __version__:
        raise ValueError(
            f"a worker has flatmin {__version__}, and the process that leads the study {parcel.version}; install the "
            "same version on all machines"
        )
    for old, place in _unpacked:
        for path in old.modules:
            sys.modules.pop(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."), None)
        sys.path.remove(place.name)
        place.cleanup()
    folder = tempfile.TemporaryDirectory(prefix="flatmin-modules-")
    _unpacked[:] = [(parcel, folder)]
    for path, source in parcel.modules.items():
        file = Path(folder.name) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source)
    sys.path.insert(0, folder.name)
    sys.path += [place for place in parcel.path if place not in sys.path]
    os.environ.update(pool.OFFLINE)
    pickle.loads(parcel.begin)()


def _modules(study: Study) -> Iterator[tuple[str, bytes]]:
    contenders = [Contender.parse(name) for name in study.methods]
    named = [study.task, study.model, *(part for one in contenders for part in (one.method, one.base))]
    tops = {name.partition(":")[0].partition(".")[0] for name in named if ":" in name}
    packages = {place for top in tops if (place := _place(sys.modules.get(top))) is not None}
    folders = {place.parent for place in packages} | ({Path.cwd()} if "__main__" in tops else set())  # of a notebook
    for name, module in sorted(sys.modules.items()):
        file = _file(module)
        if file is not None and name != "__main__" and any(file.is_relative_to(folder) for folder in folders):
            path = name.replace(".", "/")
            yield f"{path}/__init__.py" if hasattr(module, "__path__") else f"{path}.py", file.read_bytes()
    for package in packages:
        for file in package.rglob("*.py") if package.is_dir() else ():  # also what it imports later
            yield file.relative_to(package.parent).as_posix(), file.read_bytes()


def _place(module: ModuleType | None) -> Path | None:
    """The file of a module, or the folder of a package; None if it is installed, or has no source."""
    if (paths := list(getattr(module, "__path__", ()))) and not INSTALLED & {*Path(paths[0]).parts}:
        return Path(paths[0]).resolve()
    return _file(module)


def _file(module: ModuleType | None) -> Path | None:
    """The source of a module; None if it is installed, or has none."""
    file = getattr(module, "__file__", None)
    if module is None or not file or not file.endswith(".py") or module.__name__.partition(".")[0] == "flatmin":
        return None
    path = Path(file).resolve()
    return None if INSTALLED & {*path.parts} or not path.exists() else path

"""Who imports whom: a few rooms, a few arrows between them, no circle, and who alone writes weights and gradients."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flatmin

ROOT = Path(flatmin.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

#: Room -> the rooms that it may import from. Imports for type checkers count, too. A room is a module or package of
#: flatmin, or of flatmin.study. A module that is in no room fails the tests: say here what it may know.
ARROWS = {
    "checks": set(),
    "distributed": set(),
    "selectors": set(),
    "vectors": {"distributed", "selectors"},
    "protocol": {"vectors"},
    "estimators": {"checks", "entry", "protocol", "vectors"},
    "engine": {"distributed", "estimators", "protocol", "vectors"},
    "entry": {"checks", "protocol"},
    "methods": {"checks", "entry", "protocol", "selectors", "vectors"},
    "registry": {"entry", "protocol"},
    "bases": {"checks"},
    "losses": {"checks"},
    "preserve": set(),
    "half_inverse": {"checks"},
    "stability": {"checks", "preserve"},
    "subspace": {"checks", "distributed", "preserve"},
    "robustness": {"checks", "distributed"},
    "create": {"checks", "engine", "registry", "selectors"},
    "checkpoint": {"engine"},
    "integrations": {"engine", "protocol"},
    "testing": {"engine", "protocol"},
    "flatness": {"distributed", "engine", "preserve", "protocol", "vectors"},
    "landscape": {"engine", "protocol", "registry"},
    "study": {"registry", "study.bases", "study.own_study", "study.tasks"},
    "study.toml": {"checks"},
    "study.config": {"checks", "study.toml"},
    "study.files": set(),
    "study.stats": set(),
    "study.metric": {"study.stats"},
    "study.pool": set(),
    "study.bases": {"distributed", "registry"},
    "study.outside": {"checks", "engine", "protocol", "registry", "study.bases"},
    "study.contender": {
        "checks",
        "engine",
        "estimators",
        "protocol",
        "registry",
        "selectors",
        "study.bases",
        "study.outside",
    },
    "study.settings": {"checks", "registry", "study.config", "study.contender"},
    "study.tuning": {"study.files", "study.metric"},
    "study.data": {"study.files"},
    "study.networks": {"checks"},
    "study.training": {
        "__init__",
        "distributed",
        "engine",
        "protocol",
        "robustness",
        "study.config",
        "study.contender",
        "study.data",
        "study.files",
        "study.metric",
        "study.networks",
        "study.pool",
    },
    "study.tasks": {
        "checks",
        "engine",
        "study.config",
        "study.contender",
        "study.data",
        "study.files",
        "study.metric",
        "study.networks",
        "study.settings",
        "study.training",
    },
    "study.progress": set(),
    "study.minima": {
        "checks",
        "flatness",
        "study.config",
        "study.data",
        "study.files",
        "study.networks",
        "study.progress",
        "study.tasks",
        "study.training",
    },
    "study.launchers": {
        "__init__",
        "checks",
        "study.config",
        "study.contender",
        "study.files",
        "study.minima",
        "study.pool",
        "study.tasks",
    },
    "study.plan": {"checks", "study.config", "study.contender", "study.settings", "study.tasks", "study.tuning"},
    "study.search": {
        "registry",
        "study.config",
        "study.files",
        "study.launchers",
        "study.metric",
        "study.plan",
        "study.pool",
        "study.progress",
        "study.settings",
        "study.stats",
        "study.tasks",
        "study.training",
        "study.tuning",
    },
    "study.report": {
        "registry",
        "study.config",
        "study.files",
        "study.metric",
        "study.minima",
        "study.settings",
        "study.stats",
        "study.tasks",
        "study.training",
        "study.tuning",
    },
    "study.comparison": {
        "study.config",
        "study.files",
        "study.launchers",
        "study.minima",
        "study.plan",
        "study.progress",
        "study.report",
        "study.search",
        "study.tasks",
        "study.training",
        "study.tuning",
    },
    "study.own_study": {"study.comparison", "study.config", "study.launchers", "study.report", "study.tasks"},
    "study.estimate": {
        "registry",
        "study.config",
        "study.plan",
        "study.pool",
        "study.search",
        "study.settings",
        "study.tasks",
        "study.training",
    },
    "study.display": {"study.config", "study.files", "study.progress", "study.tasks", "study.training"},
    "pictures": {"flatness", "landscape", "preserve", "study.files", "study.minima", "study.progress", "study.report"},
    "commands": {
        "checks",
        "landscape",
        "pictures",
        "registry",
        "study.comparison",
        "study.config",
        "study.display",
        "study.estimate",
        "study.launchers",
        "study.minima",
        "study.plan",
        "study.report",
        "study.search",
        "study.training",
        "study.tuning",
    },
    "cli": {"__init__", "commands", "study.pool"},
    "__main__": {"cli"},
    "__init__": {
        "bases",
        "create",
        "engine",
        "estimators",
        "half_inverse",
        "methods",
        "protocol",
        "registry",
        "selectors",
        "stability",
        "subspace",
        "vectors",
    },
}


def _module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("flatmin", *parts)).removesuffix(".__init__")


MODULES = {_module(path): path for path in FILES}


def _imports(path):
    """The modules of flatmin that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


IMPORTS = {module: {name for name in _imports(path) if name in MODULES} for module, path in MODULES.items()}


def _room(module):
    parts = module.split(".")[1:]
    return ".".join(parts[:2] if parts[:1] == ["study"] else parts[:1]) or "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module):
    room = _room(module)
    assert room in ARROWS, f"{room} is no room yet: add it to ARROWS"
    for name in IMPORTS[module]:
        assert _room(name) in ARROWS[room] | {room}, f"{module} imports {name}, and {room} must not know {_room(name)}"


def test_every_arrow_is_used():
    drawn = {room: set() for room in ARROWS}
    for module, names in IMPORTS.items():
        drawn[_room(module)] |= {_room(name) for name in names} - {_room(module)}
    assert drawn == ARROWS


def _circle(arrows):
    """Nodes of which none can come before all that it imports; empty if there is no circle."""
    left = {node: set(targets) - {node} for node, targets in arrows.items()}
    while free := [node for node, targets in left.items() if not targets & set(left)]:
        for node in free:
            del left[node]
    return set(left)


def test_there_is_no_circle_of_rooms():
    assert not _circle(ARROWS)


def test_there_is_no_circle_of_modules():
    # A package's __init__ hands names on; its modules may not import from it.
    assert not _circle(IMPORTS)


def test_circles_are_found():
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {"a", "b", "c", "d"}


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda path: path.name)
def test_methods_are_small_and_import_no_torch(path):
    text = path.read_text(encoding="utf-8")
    allowed = {"__future__", "dataclasses", "typing", "math", "collections", "flatmin"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            assert [alias.name for alias in node.names] == ["Tensor"]  # a type only
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert {name.split(".")[0] for name in names} <= allowed


ENGINE = [path for path in FILES if path.parent.name == "engine"]


def _in_place(tree):
    """(method, receiver) of every call whose name says that it works in place: `x.add_(...)`, `_foreach_add_(xs)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name.endswith("_") and not name.endswith("__"):
                target = node.args[0] if name.startswith("_foreach") else node.func.value
                yield name, ast.unparse(target)


#: In-place calls of the engine outside of `perturbation.py`, by what they write: none of it is a weight.
WRITTEN = {
    "gradients.py": {"p.grad", "targets"},
    "batchnorm.py": {"self._buffers"},
    "state.py": {"target"},
    "scaling.py": {"self._scaler"},  # GradScaler.unscale_
}


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: path.name)
def test_only_perturbation_writes_weights(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name != "perturbation.py":
        assert {target for _, target in _in_place(tree)} == WRITTEN.get(path.name, set())
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "data"], "no p.data"


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: path.name)
def test_only_gradients_writes_p_grad(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    targets = [
        target
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete)
        for target in (getattr(node, "targets", None) or [node.target])
    ]
    written = [ast.unparse(t) for target in targets for t in ast.walk(target) if getattr(t, "attr", "") == "grad"]
    assert bool(written) == (path.name == "gradients.py"), written


def test_the_library_needs_only_torch():
    """Importing flatmin loads nothing of the study extra."""
    code = "import sys, flatmin; print([m for m in ('sklearn','scipy','matplotlib','rich','tyro') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

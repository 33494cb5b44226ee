"""The wheel that `make dist` builds is complete, and works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import flatmin

#: One process of the test run has all tests, so that what they share is made once.
pytestmark = pytest.mark.xdist_group("wheel")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the sources, by way of the source distribution."""
    pytest.importorskip("build", reason="building a wheel needs the package build; install it with pip install build")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert len(list(out.glob("flatmin-*.tar.gz"))) == 1
    (found,) = out.glob("flatmin-*.whl")
    return found


def test_the_wheel_holds_every_file_of_the_package(wheel):
    package = ROOT / "src" / "flatmin"
    files = {path.relative_to(package.parent).as_posix() for path in package.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    assert {"flatmin/py.typed", "flatmin/study/report/page/report.html"} <= expected
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.startswith("flatmin/")} == expected


def test_the_wheel_works_in_an_empty_environment(wheel, tmp_path):
    """torch and the other dependencies are those of this environment; flatmin is only what the wheel holds."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--no-compile", str(wheel)], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")

    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command):
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert "usage: flatmin COMMAND" in run(home / "bin" / "flatmin", "--help")
    code = "import flatmin; print(flatmin.__file__, flatmin.__version__, flatmin.build('sam', rho=0.1))"
    file, version, method = run(python, "-c", code).split(" ", 2)
    assert Path(file).is_relative_to(packages) and version == flatmin.__version__
    assert method == "SAM(rho=0.1, p=2)\n"

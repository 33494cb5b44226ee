"""Every example runs as its docstring says, and learns."""

import re
import runpy
import warnings
from pathlib import Path

import pytest
import torch

from support import script
from support.forked import Ranks

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Without what others import: the data, and tasks and bases of studies, which have tests of their own.
IMPORTED = ("digits.py", "own_task.py", "reshuffled_labels.py", "set_task.py", "two_bases.py")
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.name not in IMPORTED)
#: What the last accuracy that is printed must be above, where it is not 0.93.
ABOVE = {"continual_learning": 0.8}
NEEDS = {"lightning": "lightning", "accelerate": "accelerate", "hf": "transformers", "peft": "peft"}
#: What torch says when it aborts while it takes a process group apart: on a busy machine gloo does, once in some dozens
#: of runs, after all work is done. Nothing else is tried again.
ABORT = "terminate called without an active exception"


def launched(path, folder):
    """What a script for several processes prints."""
    for _ in range(3):
        codes, printed, errors = zip(*Ranks(script.run, path, folder=folder).finish(), strict=True)
        if not any(ABORT in each for each in errors):
            break
    assert codes == (0, 0), errors
    return "".join(printed)


#: One process of the test run has all tests that fork, see support.forked.
RUNS = [
    pytest.param(path, marks=pytest.mark.xdist_group("processes") if path.stem.startswith("torchrun") else ())
    for path in SCRIPTS
]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_an_example_runs_and_learns(path, tmp_path, capfd, monkeypatch):
    pytest.importorskip("sklearn")
    kind = path.stem.split("_")[0]
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    monkeypatch.chdir(tmp_path)  # a folder of its own, so that we see what it leaves behind
    monkeypatch.setattr("sys.argv", [str(path)])
    if kind == "torchrun":
        printed = launched(path, tmp_path)
    else:  # in this process, which has imported most of what it needs
        monkeypatch.syspath_prepend(path.parent)
        with warnings.catch_warnings(action="ignore"), torch.random.fork_rng():
            runpy.run_path(str(path), run_name="__main__")
        printed = capfd.readouterr().out
    assert float(re.findall(r"^test accuracy (\d\.\d+)$", printed, re.MULTILINE)[-1]) > ABOVE.get(path.stem, 0.93)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 85
    assert re.search(rf"^(python|torchrun .*) examples/{path.name}\b", text, re.MULTILINE)

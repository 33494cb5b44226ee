"""Fixtures of all tests, the choice of `--quick`, and a last line on what could not be tested."""

import gc
import re
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
gc.disable()  # until all tests are collected: they all stay

#: What the reason of a skipped browser test contains.
BROWSER = "no chromium"
#: The tests of `make quick`: path below tests/ -> what a test's name must match.
QUICK = {
    "test_layers.py": "",
    "engine/test_engine.py": "",
    "engine/test_loops.py": "",
    "engine/test_random_loops.py": "",
    "vectors/test_ranking.py": "",
    "vectors/test_small_numbers.py": "",
    "methods/test_twins.py": r"\[(ugd|pugd|sam|asam|msam|s-sgd)\b",
    "testing/test_contract.py": r"\[\w+-(ugd|pugd|sam|asam|msam|s-sgd)\]$",
    "study/test_study.py": "test_a_study_folder_holds_everything",
}


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="the contract on six methods, engine, vectors, a tiny study")


def pytest_ignore_collect(collection_path, config):
    """With --quick nothing else is even imported. Call `pytest --quick tests`: src is not ours to ignore."""
    if config.getoption("--quick") and collection_path.suffix == ".py":
        inside = collection_path.is_relative_to(TESTS) and collection_path.relative_to(TESTS).as_posix() in QUICK
        return None if inside else True
    return None


def pytest_collection_modifyitems(config, items):
    """With --quick a choice of the tests in each file."""
    if config.getoption("--quick"):
        mine = [item for item in items if item.path.is_relative_to(TESTS)]
        chosen = [item for item in mine if re.search(QUICK[item.path.relative_to(TESTS).as_posix()], item.name)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen


def pytest_collection_finish(session):
    """Leave ten thousand tests and all modules out of every garbage collection from now on.

    One takes half a second otherwise, and Trainer asks for one after every training.
    """
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Say last, after pytest's own summary, that browser tests were skipped."""
    yield
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", []) if report.longrepr]
    missing = sum(BROWSER in reason for reason in reasons)
    if missing:
        line = f"{missing} browser tests skipped: install chromium (Debian and Ubuntu: apt-get install chromium)"
        terminalreporter.write_line(line, yellow=True, bold=True)


@pytest.fixture
def batch():
    """Sixteen 8x8 images with labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 1, 8, 8, generator=generator), torch.randint(10, (16,), generator=generator)

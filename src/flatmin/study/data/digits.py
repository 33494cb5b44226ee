"""scikit-learn's digits and their splits, without importing scikit-learn, which takes longer than many a training."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: Within the package.
FILE = "datasets/data/digits.csv.gz"


def read() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images, (1797, 8, 8) in 0..16, and the labels, (1797,), from the file that scikit-learn ships.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    package = find_spec("sklearn")
    if package is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    file = Path((package.submodule_search_locations or [""])[0]) / FILE
    if file.exists():
        with gzip.open(file, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    else:  # another version of scikit-learn keeps it elsewhere
        from sklearn.datasets import load_digits

        table = np.column_stack(load_digits(return_X_y=True)).astype(np.int64)
    return table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1]


def split(rows: NDArray[np.int64], labels: NDArray[np.int64], share: float) -> list[NDArray[np.int64]]:
    """Cut `rows` in two, shuffled and stratified by class.

    The same rows as of scikit-learn's `train_test_split(rows, train_size=share, stratify=labels, random_state=0)`, as
    they are in published results. numpy guarantees that the stream of `RandomState` never changes.

    Args:
        rows: (n,).
        labels: (n,), in 0, 1, ..., each at least once.
        share: of the first part, in (0, 1).
    """
    random = np.random.RandomState(0)
    counts, first = np.bincount(labels), int(share * len(rows))
    here = _apportion(counts, first, random)
    there = _apportion(counts - here, len(rows) - first, random)
    orders = [random.permutation(count) for count in counts]
    mine = [np.flatnonzero(labels == label)[order] for label, order in enumerate(orders)]
    one = [each[:n] for each, n in zip(mine, here, strict=True)]
    other = [each[n : n + m] for each, n, m in zip(mine, here, there, strict=True)]
    return [rows[random.permutation(np.concatenate(part))] for part in (one, other)]


def _apportion(counts: NDArray[np.int64], seats: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """Seats for each class in proportion to its count, by largest remainders; equal ones draw lots."""
    exact = counts / counts.sum() * seats
    given, remainders = np.floor(exact), exact % 1
    for remainder in np.unique(remainders)[::-1]:
        left = int(seats - given.sum())
        if left == 0:
            break
        tied = np.flatnonzero(remainders == remainder)
        given[random.choice(tied, size=min(len(tied), left), replace=False)] += 1
    seated: NDArray[np.int64] = given.astype(np.int64)
    return seated

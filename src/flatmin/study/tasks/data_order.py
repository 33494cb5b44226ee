"""The order of a task's data, and the generators that it is drawn from."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatmin.study.config import number
from flatmin.study.tasks.outcome import TaskError

#: States of torch's generator on the CPU, of numpy's and of Python's.
State = tuple[Tensor, Any, Any]


def seed_all(seed: int) -> None:
    """Seed the generators of torch on the CPU, numpy and Python."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_state() -> State:
    """The state of these generators."""
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def set_random_state(state: State) -> None:
    """Put these generators into a state."""
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])


def as_plain(state: State) -> dict[str, Any]:
    """A state as a checkpoint may hold it: tensors, numbers, lists."""
    (kind, keys, *rest), (version, internal, following) = state[1:]
    return {
        "torch": state[0],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": [version, torch.tensor(internal), following],
    }


def from_plain(state: Mapping[str, Any]) -> State:
    """The state of `as_plain`."""
    kind, keys, *rest = state["numpy"]
    version, internal, following = state["python"]
    return state["torch"], (kind, keys.numpy().astype(np.uint32), *rest), (version, tuple(internal.tolist()), following)


class DataOrder:
    """Batches whose order depends on the seed and the epoch only.

    Args:
        batches: can be iterated over again and again.
        seed: of the run.
    """

    def __init__(self, batches: Iterable[Any], seed: int) -> None:
        self._batches, self._seed = batches, seed
        self._epoch = -1
        self._iterator: Iterator[Any] = iter(())
        self._state: State | None = None

    def next(self) -> Any:
        """The next batch, if need be of the next epoch."""
        with self._own_state():
            try:
                batch: Any = next(self._iterator)
            except StopIteration:
                self._begin(self._epoch + 1)
                try:
                    batch = next(self._iterator)
                except StopIteration:
                    raise TaskError(
                        f"trial.steps: there are no batches in epoch {self._epoch}; give it what can be iterated over "
                        "again, such as a DataLoader, and not an iterator"
                    ) from None
        return batch

    def skip(self, count: int) -> None:
        """Leave out the first batches of the training."""
        if not count:
            return
        try:
            per_epoch = len(self._batches)  # type: ignore[arg-type]  # not everything has a length
        except TypeError:
            per_epoch = 0
        whole, rest = divmod(count, per_epoch) if per_epoch else (0, count)
        if whole:
            with self._own_state():
                self._begin(whole)
        for _ in range(rest):
            self.next()

    def _begin(self, epoch: int) -> None:
        """Begin an epoch, in its own state."""
        self._epoch = epoch
        seed_all(number(self._seed, f"data order {epoch}"))
        for holder in (self._batches, getattr(self._batches, "sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(number(self._seed, f"generator {epoch}"))
        for sampler in (getattr(self._batches, name, None) for name in ("sampler", "batch_sampler")):
            set_epoch = getattr(sampler, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
        self._iterator = iter(self._batches)

    @contextmanager
    def _own_state(self) -> Iterator[None]:
        """The global generators are in the data's state inside the block."""
        outside = random_state()
        if self._state is not None:
            set_random_state(self._state)
        try:
            yield
            self._state = random_state()
        finally:
            set_random_state(outside)

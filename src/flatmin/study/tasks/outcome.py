"""What a training function of one's own returns, and what is refused of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from flatmin.study.metric import Better, Metric

#: A number, or a function that computes it.
Value = float | Callable[[], float]
EXAMPLE = 'return Outcome(validation=..., test=lambda: ..., better="lower")'


class TaskError(ValueError):
    """A training function does not do what a study needs; the message says what to write."""


class NotFiniteError(ValueError):
    """The result of a training is not a finite number, which its settings may explain."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training function returns.

    Args:
        validation: on validation data, after the last step; searches choose by it.
        test: on test data, of the same metric. A function is called in final runs only, so that searches do not read
            the test data. The value of a search run is ignored.
        better: lower or higher.
        metric: the name of both, for tables and plots.
        unit: of both; may be empty.
        others: further numbers of final runs, which are shown and decide nothing; values may be functions.
        diverged: whether the training failed. Then `validation` and `test` must be finite numbers all the same, such as
            those of a constant prediction.
        net: the network that was tested. With `--robustness` its weights are changed, and `test`, a function that reads
            it, is called again. With `loss` and `batches`, for the flatness of its minimum.
        loss: (outputs, targets) -> the mean over the examples of a batch, or their losses (n,).
        batches: (inputs, targets), training data in a fixed order: a list, or a DataLoader without shuffling.
        forgetting: goes on with a copy of the network and other data; returns the metric on the first test data after
            that, and the metric on test data of the others. Called in final runs only; None measures nothing.

    Raises:
        TaskError: a value is missing or of the wrong type.
    """

    validation: float | None = None
    test: Value | None = None
    better: Better | None = None
    metric: str = "score"
    unit: str = ""
    others: Mapping[str, Value] = field(default_factory=dict)
    diverged: bool = False
    net: nn.Module | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    batches: Iterable[Any] | None = None
    forgetting: Callable[[], tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        if self.validation is None:
            raise TaskError(f"Outcome lacks validation, the number that searches choose by; write {EXAMPLE}")
        if self.better not in ("lower", "higher"):
            raise TaskError(f"Outcome needs better, 'lower' or 'higher', got {self.better!r}; write {EXAMPLE}")
        given = [name for name in ("net", "loss", "batches") if getattr(self, name) is not None]
        if len(given) < 3 and given not in ([], ["net"]):
            raise TaskError(f"Outcome got {' and '.join(given)}; flatness needs net, loss and batches, all three")

    def scored_by(self) -> Metric:
        """The metric."""
        assert self.better is not None
        return Metric(self.metric, self.better, self.unit)

    def scored_network(self) -> tuple[nn.Module, Callable[[], float]]:
        """The network, and the function that computes the metric on test data from it.

        Raises:
            TaskError: there is no network, or `test` is no function of it.
        """
        write = "write Outcome(test=lambda: ..., net=net), with a function that evaluates net"
        if self.net is None or not callable(self.test):
            raise TaskError(f"robustness needs the network that is tested, and test as a function of it; {write}")
        net, test, ran = self.net, self.test, set[int]()
        hook = register_module_forward_pre_hook(lambda module, inputs: ran.add(id(module)))
        try:
            test()
        finally:
            hook.remove()
        if ran.isdisjoint(map(id, net.modules())):
            raise TaskError(f"robustness: test does not call the network that is handed over as net; {write}")
        return net, lambda: plain("test", test())


def plain(name: str, value: Any) -> float:
    """A number, perhaps from a tensor.

    Raises:
        TaskError: it is none.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TaskError(f"{name} must be a number, got {value!r}; write {EXAMPLE}")
    return float(value)


def evaluate(name: str, value: Any) -> float:
    """A number of an outcome, computed if it is a function.

    Raises:
        TaskError: it is no number.
        NotFiniteError: it is not finite.
    """
    found = plain(name, value() if callable(value) else value)
    if not math.isfinite(found):
        raise NotFiniteError(
            f"{name} is {found}; a training that failed returns Outcome(..., diverged=True) with finite numbers"
        )
    return found

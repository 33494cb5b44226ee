"""The estimators by name: where each comes from, what it costs, what to search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flatmin.entry import Paper, Range
from flatmin.estimators.estimated import Estimator
from flatmin.estimators.forward import FORWARD_PAPER, MULTI_TANGENT_PAPER, ForwardGradient, MultiTangent
from flatmin.estimators.zeroth_order import HYBRID_PAPER, MEZO_PAPER, HybridZerothOrder, ZerothOrder


@dataclass(frozen=True)
class EstimatorEntry:
    """One estimator.

    Args:
        make: called with its options by name.
        summary: what it does, in one line.
        gradients: what an estimate costs at the defaults, in gradients; a forward pass is a third of one.
        paper: where it comes from.
        space: options worth searching.
        lr: the default learning rate of a base is multiplied by this, since estimates are longer than gradients.
    """

    make: Callable[..., Estimator]
    summary: str
    gradients: float
    paper: Paper
    space: Mapping[str, Range] = field(default_factory=dict)
    lr: float = 1.0

    def options(self, settings: Mapping[str, float]) -> dict[str, Any]:
        """Its options among the settings of a contender."""
        return {name: value for name, value in settings.items() if name in self.space}


#: name -> entry, as contenders of a study are named: `forward`, `sam~zeroth`.
ESTIMATORS: dict[str, EstimatorEntry] = {
    "forward": EstimatorEntry(ForwardGradient, "a derivative along a random tangent", 1.0, FORWARD_PAPER, lr=1e-3),
    "multi-tangent": EstimatorEntry(
        MultiTangent, "the gradient projected on the span of four tangents", 4.0, MULTI_TANGENT_PAPER
    ),
    "zeroth": EstimatorEntry(
        ZerothOrder,
        "losses at two points on a random line",
        2 / 3,
        MEZO_PAPER,
        space={"mu": Range(1e-4, 1e-1)},
        lr=1e-3,
    ),
    "hybrid-zeroth": EstimatorEntry(
        HybridZerothOrder,
        "losses along four random directions and eight coordinates",
        8.0,
        HYBRID_PAPER,
        space={"mu": Range(1e-4, 1e-1)},
        lr=1e-3,
    ),
}

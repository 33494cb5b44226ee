"""Unit steps on a mean of the losses that discounts large ones, more and more as the learning rate falls.

Ours. The weights of the examples are those of tilted empirical risk minimization with a negative tilt: arXiv
2007.01162.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flatmin.checks import at_least
from flatmin.entry import Bad, Entry, Paper, Range
from flatmin.protocol import Ask, Conversation, Memory, Weights

PAPER = Paper(
    "Tilted Empirical Risk Minimization",
    "Li, Tian and Beirami, Ahmad and Sanjabi, Maziar and Smith, Virginia",
    2020,
    "2007.01162",
)


@dataclass(frozen=True)
class TiltedUGD:
    """Descend along the unit gradient of a mean in which examples with large losses count less and less.

        t  = tilt (1 − lr / lr_max)              lr_max is the highest learning rate so far
        pᵢ = exp(−t ℓᵢ) / Σⱼ exp(−t ℓⱼ)           ℓᵢ is the loss of example i of the batch
        g  = Σᵢ pᵢ ∇ℓᵢ(w)
        u  = g / ‖g‖

    It begins as UGD, where all examples count alike, and follows the schedule of the learning rate. A network learns
    right labels before wrong ones. So late in training the large losses are those of wrong labels, and these lose their
    influence. A constant tilt was best below 1 on the digits, and a growing one may be larger.

    tilt = 0 is UGD, and so is a constant learning rate.

    Args:
        tilt: t at the end of a schedule that ends at 0, in units of 1 / loss; >= 0.

    Cost: one gradient per step, no extra memory. The method needs the loss of every example: `probe.backward(losses)`.

    The weights sum to one over the examples of one call of `backward`. With micro-batches or several processes these
    are a part of the batch.

    Examples:
        >>> TiltedUGD(tilt=2.0)
        TiltedUGD(tilt=2.0)
    """

    per_example: ClassVar[bool] = True

    tilt: float = 5.0

    def __post_init__(self) -> None:
        at_least("tilt", self.tilt, 0)

    def direction(self, w: Weights, memory: Memory) -> Conversation:
        """u = Σ pᵢ gᵢ as a unit vector."""
        memory["lr_max"] = lr_max = max(memory.get("lr_max", 0.0), w.lr)
        t = self.tilt * (1 - w.lr / lr_max) if lr_max > 0 else 0.0

        def small_losses_first(losses: Any, labels: Any) -> Any:
            return len(losses) * (-t * losses).softmax(0)

        g = yield Ask(weigh=small_losses_first)
        return g.unit()


ENTRY = Entry(
    "tilted-ugd",
    TiltedUGD,
    "unit gradient of a mean that discounts large losses",
    group="Choosing examples",
    paper=PAPER,
    gradients=1,
    copies=0,
    space={"tilt": Range(0.1, 30.0)},
    examples=({"tilt": 0.5}, {"tilt": 0.0}),
    bad=(Bad({"tilt": -1.0}, "tilt must be >= 0, got -1.0"),),
)

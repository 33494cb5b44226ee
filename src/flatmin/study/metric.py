"""What the runs of a study are scored by: which values are better, and how reports write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flatmin.study.stats import Interval

Better = Literal["higher", "lower"]
Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Metric:
    """A number that is measured on the validation and on the test split.

    Args:
        name: such as accuracy or RMSE.
        better: higher or lower.
        unit: may be empty.
        scale: reports show this multiple of a value.
        ends: the smallest and the largest possible value; None if there are none.
    """

    name: str
    better: Better = "higher"
    unit: str = ""
    scale: float = 1.0
    ends: tuple[float, float] | None = None

    def as_json(self) -> dict[str, str]:
        """What a record holds; empty for accuracies, whose records are older than this class."""
        return {} if self == ACCURACY else {"name": self.name, "better": self.better, "unit": self.unit}

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Metric:
        """What a record says.

        Raises:
            TypeError: it says something else.
        """
        return Metric(**found) if found else ACCURACY

    def key(self, split: Split) -> str:
        """The name of its value in records and results."""
        return f"{split}_accuracy" if self == ACCURACY else split

    # -- order ---------------------------------------------------------------------------------------------------------

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return 1 if self.better == "higher" else -1

    def best(self, values: Iterable[float]) -> float:
        """The best of the values."""
        return max(values, key=lambda value: self.sign * value)

    def reaches(self, value: float, target: float) -> bool:
        """Whether `value` is at least as good as `target`."""
        return self.sign * value >= self.sign * target

    def is_near(self, value: float, best: float, share: float) -> bool:
        """Whether `value` is worse than `best` by at most the fraction 1 - `share` of it."""
        if self.better == "higher" and best >= 0:
            return value >= share * best
        return self.sign * (value - best) >= -(1 - share) * abs(best)

    def error(self, value: float) -> float:
        """The value as one of which lower is better: of an accuracy the error, else -value."""
        if self.better == "lower":
            return value
        return -value if self.ends is None else self.ends[1] - value

    # -- words ---------------------------------------------------------------------------------------------------------

    def header(self, split: Split | Literal[""] = "") -> str:
        """`test accuracy, %`."""
        return f"{split} {self.name}".strip() + (f", {self.unit}" if self.unit else "")

    @property
    def error_header(self) -> str:
        """What `error` of the test split is called."""
        if self.ends is not None:
            return f"test error, {self.unit}"
        return self.header("test") if self.better == "lower" else f"minus {self.header('test')}"

    @property
    def worse_edge(self) -> str:
        """Where worse values are in plots."""
        return "lower" if self.better == "higher" else "upper"

    @property
    def comparatives(self) -> tuple[str, str]:
        """How a better and a worse method is called."""
        return ("more accurate", "less accurate") if self == ACCURACY else ("better", "worse")

    @property
    def difference_header(self) -> str:
        """What a difference is measured in."""
        return "percentage points of test accuracy" if self == ACCURACY else self.header("test")

    def number(self, value: float) -> str:
        """A single value: `93.61`, and four significant digits where there is no scale of its own."""
        return f"{self.scale * value:.2f}" if self.ends is not None else f"{value:.4g}"

    def written(self, interval: Interval, sign: str = "") -> str:
        """`93.61 ± 0.52`; a dash where one value tells nothing about spread.

        An interval ends where values end, of accuracies at 0 and 100. One that is cut off there is written with its
        ends: `99.50 [97.10, 100]`. With the sign "+" it is a difference, of accuracies from -100 to 100. Numbers that
        have no scale of their own are written to two digits of the half-width.
        """
        mean, half = self.scale * interval.mean, interval.half_width
        if self.ends is None:
            places = _places(mean, half)
            return f"{mean:{sign}.{places}f} ± {'–' if half is None else format(half, f'.{places}f')}"
        if half is None:
            return f"{mean:{sign}.2f} ± –"
        half *= self.scale
        low, high = self.clipped(mean, half, difference=bool(sign))
        if high - low > 2 * half - 0.005:  # nothing is cut off that two decimal places would show
            return f"{mean:{sign}.2f} ± {half:.2f}"
        written = (format(end, ".0f" if abs(end) in (0.0, 100.0) else ".2f") for end in (low, high))
        return f"{mean:{sign}.2f} [{', '.join(written)}]"

    def clipped(self, mean: float, half_width: float, *, difference: bool = False) -> tuple[float, float]:
        """The ends of an interval as it is shown, scaled, cut off where values or their differences end."""
        low, high = mean - half_width, mean + half_width
        if self.ends is None:
            return low, high
        smallest, largest = (self.scale * end for end in self.ends)
        return max(smallest - largest * difference, low), min(largest, high)


def _places(mean: float, half_width: float | None) -> int:
    """Decimal places that show two digits of the half-width, or four of the mean if there is none; at most eight."""
    size, digits = (abs(half_width), 2) if half_width else (abs(mean), 4)
    if not size or not math.isfinite(size):
        return 2
    return min(8, max(0, digits - 1 - math.floor(math.log10(size))))


#: The fraction of examples that are classified correctly, shown in percent.
ACCURACY = Metric("accuracy", "higher", "%", 100.0, (0.0, 1.0))

"""What a run records if it is asked to, after its last step and on test data; the same for all methods.

Runs of one seed have the same draws of all noise, whatever the method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from flatmin import robustness
from flatmin.robustness import Calibration
from flatmin.study.config import number
from flatmin.study.metric import Metric

BITS = (8, 4, 3)
#: Fractions of a filter's norm, and draws that each is averaged over.
WEIGHT_NOISE, DRAWS = (0.01, 0.05, 0.1), 5
#: In standard deviations of the training images, one draw per image; and in pixels.
INPUT_NOISE, BLUR = (0.25, 0.5), (0.5, 1.0)
#: Passes over the test split that changes of weights take, and those that all of it takes for images; the last one is
#: for the calibration.
OF_WEIGHTS = len(BITS) + DRAWS * len(WEIGHT_NOISE)
PASSES = OF_WEIGHTS + len(INPUT_NOISE) + len(BLUR) + 1

#: Group -> level -> number, as in `result.json`. None is not finite.
Robustness = dict[str, dict[str, "float | None"]]
#: (batch of standardised images, place of its first one in the split) -> the changed batch.
Change = Callable[[Tensor, int], Tensor]
#: The scores of all test examples, see `flatmin.robustness.scored`, with or without a change of their images.
Judge = Callable[["Change | None"], Tensor]


def of_weights(net: nn.Module, score: Callable[[], float], seed: int) -> Robustness:
    """A number of a network after rounding its weights, and its mean over draws of noise on them.

    Args:
        net: the network.
        score: computes the number: accuracy, or a loss.
        seed: of the run.

    Cost: 18 scores.
    """
    draws = number(seed, "weight noise")
    return {
        "rounding": _by_level(robustness.after_rounding(net, score, BITS)),
        "weight_noise": _by_level(robustness.after_noise(net, score, WEIGHT_NOISE, draws=DRAWS, seed=draws)),
    }


def of_images(net: nn.Module, judge: Judge, seed: int) -> Robustness:
    """The accuracy after changes of weights and of images, and the calibration without any.

    Args:
        net: the network.
        judge: scores the test examples.
        seed: of the run.

    Cost: 23 passes over the test examples.
    """

    def accuracy(change: Change | None = None) -> float:
        return Calibration.of(judge(change)).accuracy

    def noise(scale: float) -> Change:
        return lambda images, first: robustness.noisy_images(images, scale, number(seed, f"input noise {first}"))

    def blur(sigma: float) -> Change:
        return lambda images, first: robustness.blurred_images(images, sigma)

    plain = Calibration.of(judge(None))
    return of_weights(net, accuracy, seed) | {
        "input_noise": _by_level({scale: accuracy(noise(scale)) for scale in INPUT_NOISE}),
        "blur": _by_level({sigma: accuracy(blur(sigma)) for sigma in BLUR}),
        "calibration": _by_level({"nll": plain.nll, "ece": plain.ece}),
    }


def of_forgetting(metric: Metric, before: float, after: float, second: float) -> Robustness:
    """What is forgotten of a first task after the training has gone on with a second one.

    Args:
        metric: of all numbers.
        before: on test data of the first task, after the last step of the study.
        after: on the same data, after the training on the second task.
        second: on test data of the second task, then.
    """
    lost = metric.sign * (before - after)
    return {"forgetting": _by_level({"after": after, "lost": lost, "second": second})}


def _by_level(found: Mapping[int, float] | Mapping[float, float] | Mapping[str, float]) -> dict[str, float | None]:
    return {f"{level}": value if math.isfinite(value) else None for level, value in found.items()}

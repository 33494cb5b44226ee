"""What flat minima are said to buy: accuracy with rounded weights, noisy weights and changed images, and calibration.

    with robustness.rounded(net, bits=4):
        print(accuracy(net))

    print(robustness.after_rounding(net, lambda: accuracy(net)))  # {8: ..., 4: ..., 3: ...}

All of it is for any network, and for any number that you compute of one: an accuracy, a loss, bits per character. The
data, the evaluation mode and `torch.no_grad()` are yours.

Weights are changed filter by filter. A filter is what one output channel is computed with: an index of a parameter's
first dimension, or the like of transposed convolutions. Vectors (biases, the scales and shifts of normalisation layers)
and buffers stay. So BatchNorm keeps the running statistics of the weights before the change; they are not computed
again, as on a device that rounds a network and has no data.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatmin.checks import at_least, between
from flatmin.distributed import is_sharded

__all__ = [
    "Calibration",
    "after_noise",
    "after_rounding",
    "blurred_images",
    "calibration",
    "noisy",
    "noisy_images",
    "rounded",
    "scored",
]

#: A number of the network as it is when this is called.
Score = Callable[[], "float | Tensor"]


@contextmanager
def rounded(net: nn.Module, bits: int = 8) -> Iterator[None]:
    """The network with rounded weights, and afterwards as it was, bit for bit, whatever happens.

    Rounding is symmetric and uniform, with one step s per filter w, and to the nearest (ties to even):

        s = max|w| / (2^(bits - 1) - 1),    w <- s round(w / s)

    So no weight moves by more than s / 2, and weights that are multiples of a step already stay. This is computed in
    float32 or wider, then stored in the dtype of the weights, whose own rounding comes on top: up to 0.2 % of a weight
    in bfloat16.

    Only weights are rounded: not activations, and not what a parametrisation (`weight_norm`) computes from parameters.
    Frozen parameters are rounded, too. Integers are left: they are rounded already.

    Args:
        net: any network. A parameter that several layers share is rounded once. DistributedDataParallel and
            `torch.compile` may stay on.
        bits: per weight, in [2, 16].

    Raises:
        TypeError: weights are complex or sharded; `bits` is no int.
        ValueError: `bits` is out of range.

    Cost: a copy of the weights while it lasts.

    Source: the plainest of the quantizers in R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient
        inference", 2018 (arXiv 1806.08342), section 2.2 and 3.1.2.

    Examples:
        >>> net = nn.Linear(3, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[0.3, -0.4, 0.6]]))
        >>> with rounded(net, bits=3):  # multiples of 0.2, from -0.6 to 0.6
        ...     print([round(w, 3) for w in net.weight[0].tolist()])
        [0.4, -0.4, 0.6]
    """
    at_least("bits", bits, 2, whole=True)
    between("bits", bits, 2, 16)
    most = 2 ** (bits - 1) - 1

    def change(filters: Tensor) -> Tensor:
        step = filters.abs().amax(1, keepdim=True) / most
        step.clamp_(min=torch.finfo(step.dtype).tiny)  # of a filter of zeros
        multiples: Tensor = (filters / step).round_()
        return multiples.mul_(step)

    with _changed(net, change):
        yield


@contextmanager
def noisy(net: nn.Module, scale: float = 0.05, seed: int = 0) -> Iterator[None]:
    """The network with Gaussian noise on its weights, and afterwards as it was, bit for bit, whatever happens.

        w <- w + scale ||w|| z / sqrt(d),    z standard normal, d the number of weights of the filter w

    So the noise on a filter has a root mean square length of `scale` times the filter's norm, and the network's outputs
    change alike when a layer is scaled up and the next one down. In `flatness.average(noise="filter")` every draw has
    this length exactly.

    The same seed gives the same z to networks of the same shapes, on every device and in every dtype, so that methods
    can be compared on the same draws. torch's global generators are not touched.

    Args:
        net: any network; as in `rounded`.
        scale: a fraction of a filter's norm; >= 0.
        seed: of the noise; >= 0.

    Raises:
        TypeError: weights are complex or sharded; a number is of the wrong type.
        ValueError: a number is out of range.

    Cost: a copy of the weights while it lasts; a draw per weight, on the CPU.

    Examples:
        >>> net = nn.Linear(1000, 1)
        >>> before = net.weight.detach().clone()
        >>> with noisy(net, 0.1):
        ...     print(round(((net.weight - before).norm() / before.norm()).item(), 2))
        0.1
    """
    at_least("scale", scale, 0)
    at_least("seed", seed, 0, whole=True)
    generator = torch.Generator().manual_seed(seed)

    def change(filters: Tensor) -> Tensor:
        z = torch.randn(filters.shape, generator=generator).to(filters)
        lengths = torch.linalg.vector_norm(filters, dim=1, keepdim=True)
        return z.mul_(lengths * (scale / math.sqrt(filters.shape[1]))).add_(filters)

    with _changed(net, change):
        yield


def after_rounding(net: nn.Module, score: Score, bits: Sequence[int] = (8, 4, 3)) -> dict[int, float]:
    """A number of the network after rounding its weights, see `rounded`.

    Args:
        net: any network.
        score: computes the number, for example `lambda: accuracy(net)`, or `risk.value` of a `flatness.Risk`.
        bits: per weight, each in [2, 16].

    Returns:
        The number, by bits.

    Raises:
        TypeError, ValueError: as `rounded`.

    Cost: a score for each.
    """
    found = {}
    for each in bits:
        with rounded(net, each):
            found[each] = float(score())
    return found


def after_noise(
    net: nn.Module, score: Score, scales: Sequence[float] = (0.01, 0.05, 0.1), *, draws: int = 5, seed: int = 0
) -> dict[float, float]:
    """The mean of a number of the network over draws of noise on its weights, see `noisy`.

    Args:
        net: any network.
        score: computes the number; as in `after_rounding`.
        scales: fractions of a filter's norm, each >= 0. All of them have the same draws.
        draws: number of draws; >= 1.
        seed: of the draws; >= 0.

    Returns:
        The mean over the draws, by scale.

    Raises:
        TypeError, ValueError: as `noisy`.

    Cost: `draws` scores for each scale.
    """
    at_least("draws", draws, 1, whole=True)
    at_least("seed", seed, 0, whole=True)
    seeds = torch.randint(2**63 - 1, (draws,), generator=torch.Generator().manual_seed(seed)).tolist()

    def one(scale: float, draw: int) -> float:
        with noisy(net, scale, draw):
            return float(score())

    return {scale: statistics.fmean(one(scale, draw) for draw in seeds) for scale in scales}


def noisy_images(images: Tensor, scale: float, seed: int = 0) -> Tensor:
    """Images with Gaussian noise: a copy, which may leave the range of the pixels.

    Args:
        images: of any shape and floating dtype.
        scale: standard deviation of the noise, in the unit of the images; >= 0. In a study this unit is the standard
            deviation of the training images.
        seed: of the noise; >= 0. The same one gives the same noise on every device.

    Raises:
        TypeError: the images are not of a floating dtype; a number is of the wrong type.
        ValueError: a number is out of range.
    """
    _check_images(images)
    at_least("scale", scale, 0)
    at_least("seed", seed, 0, whole=True)
    z = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return images + scale * z.to(images)


def blurred_images(images: Tensor, sigma: float) -> Tensor:
    """Images after a Gaussian blur: a copy.

    Means of the pixels weighted by exp(-(dx² + dy²) / 2 sigma²), cut off at 3 sigma. Pixels outside of an image are
    those at its edge, so a constant image stays.

    Args:
        images: (..., height, width), of a floating dtype.
        sigma: in pixels; > 0.

    Raises:
        TypeError: the images are not of a floating dtype.
        ValueError: they have fewer than two dimensions; `sigma` is not positive.
    """
    _check_images(images)
    if images.ndim < 2:
        raise ValueError(f"images must have the shape (..., height, width), got {(*images.shape,)}")
    at_least("sigma", sigma, 0, strictly=True)
    reach = math.ceil(3 * sigma)
    bell = torch.exp(-((torch.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    weights: list[float] = (bell / bell.sum()).tolist()
    for dim in (-2, -1):
        size = images.shape[dim]
        places = torch.arange(-reach, size + reach, device=images.device).clamp(0, size - 1)
        padded = images.index_select(dim, places)
        images = sum(
            (weight * padded.narrow(dim, start, size) for start, weight in enumerate(weights)),
            start=torch.zeros_like(images),
        )
    return images


@dataclass(frozen=True)
class Calibration:
    """How far predicted probabilities are right.

    Args:
        accuracy: the fraction of examples whose most probable class is the label, in [0, 1].
        nll: mean negative log likelihood of the labels, in nats; not finite where a label has probability 0.
        ece: expected calibration error, in [0, 1]: |fraction right - mean confidence| in each bin of the confidence,
            weighted by the fraction of examples in it. The confidence is the probability of the most probable class.
    """

    accuracy: float
    nll: float
    ece: float

    @classmethod
    def of(cls, scores: Tensor, bins: int = 15) -> Calibration:
        """From the scores of single examples, (n, 3) as `scored` gives them; for the rest see `calibration`."""
        at_least("bins", bins, 1, whole=True)
        if not len(scores):
            raise ValueError("calibration needs at least one example, got none")
        right, confidence, nll = scores.unbind(1)
        which = (confidence * bins).ceil().nan_to_num().long().clamp(1, bins) - 1
        gaps = torch.zeros(bins, dtype=scores.dtype).index_add_(0, which, right - confidence)
        return cls(right.mean().item(), nll.mean().item(), gaps.abs().sum().item() / len(scores))


def calibration(predictions: Iterable[tuple[Tensor, Tensor]], bins: int = 15) -> Calibration:
    """Negative log likelihood and expected calibration error of a classifier.

    Args:
        predictions: batches (outputs, labels): logits or logarithms of probabilities, (n, classes), and (n,) int64.
        bins: of the confidence, equally wide: (0, 1/bins], ..., (1 - 1/bins, 1]. The error depends on their number, and
            few examples raise it: chance in a bin counts as miscalibration.

    Raises:
        ValueError: there is no example; outputs are not (n, classes).

    Cost: three float64 numbers per example.

    Source: M. P. Naeini, G. F. Cooper, M. Hauskrecht, AAAI 2015; 15 bins as in C. Guo et al., 2017 (arXiv 1706.04599).

    Examples:
        >>> sure = torch.tensor([[0.8, 0.2]]).log().expand(10, 2)
        >>> found = calibration([(sure, torch.tensor([0] * 7 + [1] * 3))])
        >>> round(found.accuracy, 3), round(found.ece, 3)
        (0.7, 0.1)
    """
    parts = [scored(outputs, labels) for outputs, labels in predictions]
    return Calibration.of(torch.cat(parts) if parts else torch.empty(0, 3), bins)


def scored(outputs: Tensor, labels: Tensor) -> Tensor:
    """Of each example, whether its prediction is right (0 or 1), the confidence, and the negative log likelihood.

    Args:
        outputs: logits or logarithms of probabilities, (n, classes).
        labels: (n,) int64.

    Returns:
        (n, 3) float64 on the CPU, for `Calibration.of`.

    Raises:
        ValueError: outputs are not (n, classes).
    """
    if outputs.ndim != 2 or outputs.shape[:1] != labels.shape:
        raise ValueError(
            f"outputs must be (n, classes) and labels (n,), got {(*outputs.shape,)} and {(*labels.shape,)}; "
            "for text write (outputs.flatten(0, -2), labels.flatten())"
        )
    logarithms = outputs.detach().to("cpu", torch.float64).log_softmax(1)
    labels = labels.cpu()
    highest, predicted = logarithms.max(1)
    likelihood = logarithms.gather(1, labels[:, None])[:, 0]
    return torch.stack([(predicted == labels).double(), highest.exp(), -likelihood], 1)


@contextmanager
def _changed(net: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The network with changed filters; `change` gets those of one parameter as rows, in float32 or wider."""
    copies: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for p, groups in _matrices(net):
                copies.append((p, p.clone()))  # before it is written: an error may come at any time
                wide = torch.promote_types(p.dtype, torch.float32)
                p.copy_(_parameter(change(_filters(p.to(wide), groups)), p, groups))
        torch.clear_autocast_cache()  # under an autocast of the caller's it holds the weights from before
        yield
    finally:
        with torch.no_grad():
            for p, before in reversed(copies):
                p.copy_(before)
        torch.clear_autocast_cache()


def _matrices(net: nn.Module) -> list[tuple[Tensor, int]]:
    """The parameters that have filters, each memory once; with the groups of a transposed convolution, else 0."""
    transposed = {
        id(module._parameters.get("weight")): module.groups
        for module in net.modules()
        if isinstance(module, nn.modules.conv._ConvTransposeNd)
    }
    found: dict[tuple[object, ...], tuple[Tensor, int]] = {}
    for name, p in net.named_parameters():
        if is_sharded(p):
            raise TypeError(
                f"net must have whole weights, got shards of {name!r}; save with flatmin.checkpoint.save and "
                "load into a network that is not sharded"
            )
        if p.is_complex():
            raise TypeError(f"net must have real weights, got {p.dtype} for {name!r}")
        if p.ndim > 1 and p.numel() and p.is_floating_point():
            found.setdefault((p.device, p.data_ptr(), p.shape, p.stride()), (p, transposed.get(id(p), 0)))
    return [*found.values()]


def _filters(weight: Tensor, groups: int) -> Tensor:
    """A parameter as one row per filter; a copy, or a view of `weight`."""
    if groups:  # (in, out / groups, ...): the first output channel of each group comes first
        weight = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)


def _parameter(filters: Tensor, p: Tensor, groups: int) -> Tensor:
    """The reverse: rows in the shape of the parameter p."""
    if not groups:
        return filters.view(p.shape)
    inputs = p.shape[0] // groups
    return filters.view(groups, p.shape[1], inputs, *p.shape[2:]).transpose(1, 2).reshape(p.shape)


def _check_images(images: Tensor) -> None:
    if not images.is_floating_point():
        raise TypeError(f"images must be of a floating dtype, got {images.dtype}; write images.float()")

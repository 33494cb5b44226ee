"""Weights drawn from the distribution that a method has learnt, and predictions averaged over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from flatmin.distributed import reshard
from flatmin.engine.context import displace, weights_of
from flatmin.engine.optimizer import FlatOptimizer
from flatmin.engine.perturbation import Perturbation
from flatmin.engine.state import thaw
from flatmin.vectors.blocks import Scope

#: Distinguishes these draws from those of the steps, beside their number.
SAMPLES = -1


@contextmanager
def sampled_weights(opt: Optimizer, number: int = 0) -> Iterator[None]:
    """Inside the block the weights are a draw of the distribution that the method has learnt; then they come back.

    Args:
        opt: a `FlatOptimizer` with such a method: `flatmin.IVON`.
        number: of the draw, >= 0. The same number gives the same draw until the next step, on all workers.

    Cost: one parameter copy inside the block. Groups with `perturb=False` stay.

    Raises:
        TypeError: `opt` is no FlatOptimizer, or its method learns no distribution.
        RuntimeError: the weights are perturbed already, or were written inside the block: `opt.step()` and
            `net.load_state_dict` belong outside.

    Examples:
        >>> import torch, flatmin
        >>> net = torch.nn.Linear(4, 3)
        >>> base = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> opt = flatmin.FlatOptimizer(base, flatmin.IVON(ess=1000), model=net)
        >>> with flatmin.sampled_weights(opt):
        ...     logits = net(torch.zeros(2, 4))
    """
    opt = getattr(opt, "optimizer", opt)  # Accelerate and Lightning wrap it
    if not isinstance(opt, FlatOptimizer):
        raise TypeError(
            f"opt must be a FlatOptimizer, got {type(opt).__name__}; write FlatOptimizer(base, flatmin.IVON(ess=...))"
        )
    if not callable(sample := getattr(opt.method, "sample", None)):
        raise TypeError(
            f"{opt.method!r} learns no distribution of the weights; write FlatOptimizer(base, flatmin.IVON(ess=...))"
        )
    context = opt.between_steps()
    scope = Scope(context.params, range(len(context.params)))
    perturbation = Perturbation()
    try:
        with torch.no_grad():
            draw = sample(weights_of(context, scope, SAMPLES, number), thaw(context.memory, scope))
            displace(perturbation, context, scope, draw)
        if any(scope.shards):
            reshard(opt.model)
        yield
        if perturbation.written():
            raise RuntimeError(
                "weights were written inside sampled_weights, and restoring them has undone it; "
                "write opt.step() and net.load_state_dict(...) outside of the block"
            )
    finally:
        perturbation.restore()
        if any(scope.shards):
            reshard(opt.model)


@torch.no_grad()
def predict(opt: Optimizer, forward: Callable[[], Tensor], samples: int = 8) -> tuple[Tensor, Tensor]:
    """Mean and variance of what a network predicts, over weights drawn from what the method has learnt.

    Args:
        opt: as for `sampled_weights`.
        forward: computes the predictions with the weights as they are: `lambda: net(x).softmax(1)`. Averages of
            probabilities are probabilities; logits may be averaged as well.
        samples: number of draws, >= 1.

    Returns:
        Mean and (biased) variance over the draws, each in the shape of the predictions.

    Cost: one forward pass per draw. Put the network into evaluation mode first: `net.eval()`.

    Raises:
        ValueError: `samples` is smaller than 1.

    Examples:
        >>> import torch, flatmin
        >>> net = torch.nn.Linear(4, 3)
        >>> base = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> opt = flatmin.FlatOptimizer(base, flatmin.IVON(ess=1000), model=net)
        >>> mean, variance = flatmin.predict(opt, lambda: net(torch.zeros(2, 4)).softmax(1), samples=4)
        >>> mean.shape, variance.shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    if samples < 1:
        raise ValueError(f"samples must be >= 1, got {samples!r}")
    mean = squares = torch.zeros(())
    for number in range(samples):
        with sampled_weights(opt, number):
            p = forward()
        # Welford's update: no difference of large numbers.
        change = p - mean
        mean = mean + change / (number + 1)
        squares = squares + change * (p - mean)
    return mean, squares / samples

"""`Risk`: the mean loss of a network over a data set, as a function of its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatmin.engine.perturbation import Perturbation
from flatmin.flatness import curvature, determinism
from flatmin.flatness.arguments import check_model, choice
from flatmin.flatness.curvature import BatchLoss
from flatmin.flatness.examples import batches, chunks
from flatmin.flatness.layout import Layout
from flatmin.flatness.processes import Processes, bare
from flatmin.preserve import preserved, random_state_preserved
from flatmin.vectors.blocks import Scope
from flatmin.vectors.vector import Tensors, Vec
from flatmin.vectors.weights import Weights

Product = Callable[[BatchLoss, Sequence[Sequence[Tensor]]], Iterator[list[Tensor]]]


class Risk:
    """L(w) = mean over the examples of the loss, with its gradient and its curvature.

    Batches are visited one at a time, so memory does not grow with their number. Each counts by its examples, so the
    last may be smaller. Derivatives of a batch are computed in the dtype of the weights and added up in float64.

    The network is left as it was: weights, `p.grad`, `requires_grad`, buffers, the mode of every module, and torch's
    random generators. Every call uses the weights as they are then.

    Under an initialised process group every process holds its own share of the data, any number of batches, perhaps
    none, and the same weights. At the end of a pass the sums over examples are all-reduced once: the loss and the
    number of examples, one number per weight for a gradient or a product. So all processes get the same numbers, those
    of one process with all the data. The group is that of a DistributedDataParallel model, or else the default one.

    Args:
        model: the network; it returns one tensor. DistributedDataParallel and `torch.compile` are taken off. Parameters
            that do not require a gradient are constants.
        loss: (outputs, y) -> the mean over the examples of a batch, or their losses (n,).
        data: batches (x, y), the same ones every time it is iterated over: a list, a DataLoader without shuffling.
        mode: "eval": dropout is off, and BatchNorm uses its running statistics, which are constants. "train": BatchNorm
            uses the statistics of each batch, so the loss depends on how the data is batched; dropout must be zero.
        alone: this process has all of the data, and the others, if there are any, take no part.

    Raises:
        TypeError: `data` can be used only once, or yields no pairs of tensors; the weights are complex or DTensors.
        ValueError: there is no data, or no parameter that requires a gradient; the loss is not finite, is a sum, or is
            not the same twice.

    Cost: two passes over the data at construction, to see that both give the same.

    Examples:
        >>> net = nn.Linear(3, 2)
        >>> batch = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
        >>> risk = Risk(net, nn.CrossEntropyLoss(), [batch])
        >>> risk.parameters, risk.examples
        (8, 5)
        >>> risk.product(torch.ones(8)).shape
        torch.Size([8])
    """

    def __init__(self, model: nn.Module, loss: Any, data: Iterable[Any], *, mode: str = "eval", alone: bool = False):
        choice("mode", mode, ("eval", "train"))
        check_model(model)
        determinism.check_reusable(data)
        self._processes = Processes(model, alone)
        self.model, self.loss, self.data, self.mode = bare(model), loss, data, mode
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self._names, self._params = [name for name, _ in named], [p for _, p in named]
        self._layout = Layout(self._params)
        self._operators: dict[str, Product] = {"hessian": curvature.Hessian(), "ggn": curvature.ggn}
        #: How many times the whole data set was gone over, by what for.
        self.passes = {"values": 0, "gradients": 0, "products": 0}
        #: Of the parameters; where there are several, of the first.
        self.device, self.dtype = self._params[0].device, self._params[0].dtype
        self._wide = torch.float32 if self.device.type == "mps" else torch.float64
        #: Over all processes.
        self.examples = self._checked()

    @property
    def parameters(self) -> int:
        """The number of weights d."""
        return self._layout.count

    def value(self) -> float:
        """L(w). Not finite where the loss is not."""
        total = torch.zeros((), dtype=self._wide, device=self.device)

        def add(part: BatchLoss) -> None:
            total.add_(part.mean(part.outputs()), alpha=part.batch.examples)

        with torch.no_grad():
            self._pass("values", add)
        return float(self._processes.add_up(total)) / self.examples

    def gradient(self) -> tuple[float, Tensor]:
        """L(w) and ∇L(w), the latter (d,) float64 on the device of the weights."""
        sums = torch.zeros(1 + self.parameters, dtype=self._wide, device=self.device)
        views = self._layout.views(sums[1:])

        def add(part: BatchLoss) -> None:
            loss, slopes = curvature.gradient(part)
            sums[0].add_(loss, alpha=part.batch.examples)
            torch._foreach_add_(views, slopes, alpha=part.batch.examples)

        self._pass("gradients", add)
        mean = self._processes.add_up(sums) / self.examples
        return float(mean[0]), mean[1:]

    def product(self, vectors: Tensor, operator: str = "hessian") -> Tensor:
        """The Hessian or the Gauss-Newton matrix times one or several vectors.

        Args:
            vectors: (d,), or (k, d) with one per row; any real dtype, any device.
            operator: "hessian" or "ggn".

        Returns:
            The products in the same shape, float64 on the device of the weights.

        Raises:
            ValueError: `vectors` has another shape, or a product is not finite.

        Cost: one pass over the data whatever k; about three gradients for the first vector and two for each other one
        (five thirds of a gradient for each with "ggn"). The graph of one batch, and k float64 vectors.
        """
        choice("operator", operator, tuple(self._operators))
        rows = vectors.detach().reshape(-1, vectors.shape[-1]) if vectors.ndim else vectors
        if vectors.ndim not in (1, 2) or rows.shape[-1] != self.parameters:
            raise ValueError(
                f"vectors must have the shape ({self.parameters},) or (k, {self.parameters}), got {(*vectors.shape,)}; "
                f"write torch.randn(k, risk.parameters)"
            )
        directions = [self._layout.tensors(row) for row in rows]
        sums = torch.zeros(len(rows), self.parameters, dtype=self._wide, device=self.device)
        views = [self._layout.views(row) for row in sums]

        def add(part: BatchLoss) -> None:
            for view, found in zip(views, self._operators[operator](part, directions), strict=True):
                torch._foreach_add_(view, found, alpha=part.batch.examples)

        self._pass("products", add, len(rows))
        mean = self._processes.add_up(sums).div_(self.examples)
        if not mean.isfinite().all():
            raise ValueError(f"a product with the {operator} is not finite, where the loss is; write model.double()")
        return mean.reshape(vectors.shape)

    # -- the weights --------------------------------------------------------------------------------------------------

    def weights(self) -> Tensor:
        """A copy of the weights, (d,) float64 on their device."""
        with torch.no_grad():
            return torch.cat([p.reshape(-1).to(self._wide) for p in self._params])

    def tensors(self, row: Tensor) -> list[Tensor]:
        """A vector (d,) as one tensor per parameter, of its dtype and shape."""
        return self._layout.tensors(row)

    def point(self, *seed: int) -> Weights:
        """The weights as methods see them, with noise that is drawn from a seed."""
        scope = Scope(self._params, range(len(self._params)))
        return Weights(scope, self._params, seed)

    @contextmanager
    def displaced(self, delta: Tensor | Vec) -> Iterator[None]:
        """The weights moved by δ, and afterwards back where they were, bit for bit, whatever happens.

        Args:
            delta: (d,), or an expression over the weights of `point`.

        Cost: one parameter copy while it lasts.
        """
        scope = Scope(self._params, range(len(self._params)))
        move = Tensors(scope, self._layout.tensors(delta)) if isinstance(delta, Tensor) else delta
        perturbation = Perturbation()
        try:
            with torch.no_grad():
                perturbation.apply(move, scope, None, ())
            yield
        finally:
            perturbation.restore()

    def chunks(self, size: int) -> Iterator[Risk]:
        """The risks over this process's examples in chunks of one size, in the order of the data, each alone.

        An incomplete last chunk is left out. x and y of every batch must be tensors.
        """
        for chunk in chunks(self.data, size):
            part = copy.copy(self)
            part.data, part.examples, part._processes = [chunk], size, Processes(self.model, alone=True)
            part.passes = dict.fromkeys(self.passes, 0)
            yield part

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Sums over the processes of numbers that each of them has."""
        found: list[float] = self._processes.add_up(
            torch.tensor(numbers, dtype=self._wide, device=self.device)
        ).tolist()
        return found

    # -- passes over the data -----------------------------------------------------------------------------------------

    def _pass(self, kind: str, add: Callable[[BatchLoss], None], times: int = 1) -> None:
        self.passes[kind] += times
        with random_state_preserved(self.device), self._ready():
            for part in self._batch_losses():
                add(part)

    def _checked(self) -> int:
        """The number of examples, over all processes, if the loss is the same twice."""
        with random_state_preserved(self.device), torch.no_grad():  # random numbers go on between the two passes
            first, wrong = determinism.twice(self._ready, self._batch_losses, self.loss)
        examples, loss, refused = self.total([first.examples, first.loss, float(wrong is not None)])
        if wrong is not None or refused:
            raise ValueError(wrong or "another process refused its share of the data; its own message says why")
        determinism.check_value(loss, examples, self.data)
        return round(examples)

    @contextmanager
    def _ready(self) -> Iterator[nn.Module]:
        # Fused attention has no second derivatives.
        with preserved(self.model, self.mode == "train"), sdpa_kernel(SDPBackend.MATH):
            yield self.model

    def _batch_losses(self) -> Iterator[BatchLoss]:
        for batch in batches(self.data, self.device):
            yield BatchLoss(self.model, self.loss, self._names, self._params, batch)

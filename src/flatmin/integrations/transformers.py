"""Hugging Face's `Trainer`, with micro-batches that every probe sees.

`Trainer` runs backward on one micro-batch after another and then calls `optimizer.step()`. A method that asks for
several gradients needs all micro-batches of an update at each of them. `Trainer` loads them before it runs the first.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flatmin.engine.optimizer import FlatOptimizer
from flatmin.protocol import Method

try:
    from transformers import Trainer
except ImportError as error:
    raise ImportError(
        "flatmin.integrations.transformers needs transformers and accelerate: pip install 'flatmin[transformers]'"
    ) from error

if TYPE_CHECKING:
    from transformers import Trainer as Base
else:
    Base = object  # a mixin: for Trainer and the classes made of it


class FlatTrainerMixin(Base):
    """A mixin that makes any `Trainer` descend along the direction of a flat-minima method.

    The optimizer is the one that `Trainer` would have, from `args` or `optimizers=(base, scheduler)`, wrapped in a
    `FlatOptimizer`. `max_grad_norm` clips the direction, and `grad_norm` in the logs is its length. The loss in the
    logs is the first probe's. Steps, schedules, logs and checkpoints are counted as usual. A step costs as many forward
    and backward passes as the method asks for gradients, on all micro-batches of `gradient_accumulation_steps`.

    Args:
        *args: for `Trainer`.
        method: what to ask for and where to go, for example `flatmin.PUGD()`. None where `optimizers` has a
            `FlatOptimizer`, which is used as it is: that of a study's trial.
        **kwargs: for `Trainer`.

    Examples:
        >>> from transformers import Seq2SeqTrainer
        >>> class FlatSeq2SeqTrainer(FlatTrainerMixin, Seq2SeqTrainer):
        ...     pass  # to be made with method=flatmin.SAM()
    """

    def __init__(self, *args: Any, method: Method | None = None, **kwargs: Any):
        self.method = method
        self._flat: FlatOptimizer | None = None
        self._micro_batches: list[Any] = []
        super().__init__(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Optimizer:
        """`Trainer`'s optimizer as the base of a `FlatOptimizer`.

        Raises:
            TypeError: `optimizers` has a `FlatOptimizer`, and there is a method besides.
            ValueError: there is neither.
        """
        base = super().create_optimizer(*args, **kwargs)
        if self._flat is None or getattr(base, "optimizer", base) is not self._flat:  # else `train` is called again
            scaler = self.accelerator.scaler
            if self.method is not None:
                base = FlatOptimizer(base, self.method, model=self.model, scaler=scaler)
            elif not isinstance(base, FlatOptimizer):
                raise ValueError(
                    "FlatTrainer got no method; write FlatTrainer(method=flatmin.PUGD(), ...), or "
                    "optimizers=(flat_optimizer, None)"
                )
            base.scaler = scaler
            self.optimizer = self._flat = base
            if scaler is not None:  # for clipping; p.grad holds the direction, which has no scale
                self.accelerator.unscale_gradients = lambda optimizer=None: None
        return base

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """All micro-batches of the next update."""
        self._micro_batches, items = super().get_batch_samples(*args, **kwargs)
        return self._micro_batches, items

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """At the last micro-batch of an update run all of them, in every probe; before it, wait.

        Returns:
            The loss of the update, at its last micro-batch; 0 at the others.
        """
        loss = torch.zeros((), device=self.args.device)
        if inputs is not self._micro_batches[-1]:
            return loss
        assert self._flat is not None
        for probe in self._flat.probes():
            for micro_batch in self._micro_batches:
                with nullcontext() if micro_batch is inputs else self.accelerator.no_sync(model):
                    value = super().training_step(model, micro_batch, *args, **kwargs)
                loss = loss + value if probe == 0 else loss
        return loss


class FlatTrainer(FlatTrainerMixin, Trainer):
    """Hugging Face's `Trainer` with `method=flatmin.PUGD()` and the like. See `FlatTrainerMixin`."""

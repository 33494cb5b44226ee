"""Updates that leave a subspace alone: what a network does with inputs of that subspace stays as it is.

The gradient of a linear layer's weights lies in the span of the layer's inputs. An update without a component in the
span of earlier inputs changes nothing in what the layer computes of these inputs.

Gradient projection memory: arXiv 2103.09762, ICLR 2021. Class gradient projection: ACM MM 2022. Both were read in the
authors' code; nothing here comes from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from flatmin.checks import between, one_of
from flatmin.distributed import is_sharded
from flatmin.preserve import observe

#: The columns of a matrix, (inputs, r), or of several; None for everything: the parameter then stays as it is.
Basis: TypeAlias = "Tensor | Sequence[Tensor] | None"

#: Directions whose singular value is below this share of the largest are taken for rounding errors.
DEPENDENT = 1e-6


def orthonormal(basis: Tensor | Sequence[Tensor]) -> Tensor:
    """One orthonormal basis of all columns together, (inputs, r), in float32 at least.

    Args:
        basis: columns, (inputs, k), or several such matrices. They may overlap.
    """
    columns = basis if isinstance(basis, Tensor) else torch.cat([b.reshape(len(b), -1) for b in basis], dim=1)
    columns = columns.detach().to(torch.promote_types(columns.dtype, torch.float32))
    if not columns.numel():
        return columns[:, :0]
    lengths = torch.linalg.vector_norm(columns, dim=0, keepdim=True)
    u, s, _ = torch.linalg.svd(columns / lengths.clamp(min=torch.finfo(columns.dtype).tiny), full_matrices=False)
    independent: Tensor = u[:, s > DEPENDENT * s[0]]
    return independent


class ProjectOut:
    """Remove a subspace from every update of an optimizer, whatever the update is made of.

        B  one orthonormal basis of all given ones together
        Δw ← Δw − (Δw B) Bᵀ              Δw: rows of the weights' change in `step()`, after momentum, decay and scaling

    Args:
        optimizer: any torch optimizer, a `FlatOptimizer` included. It is given hooks; `remove()` takes them away.
        bases: parameter -> columns to keep out, (inputs, r), or a sequence of such; None keeps the parameter as it is.
            For a convolution the inputs are patches: channels · height · width of the kernel.
        when: "update": what the step has changed is projected. "gradient": `p.grad` is projected before the base reads
            it; weight decay, Adam's scaling, and momentum from before may then have a part in the subspace.

    Several bases of one parameter are joined before they are used. Projections on bases that overlap do not commute:
    taken one after the other, they leave a part in all but the last.

    Cost: with "update" a copy of the parameters that have a basis, during `step()`, and two products of each with its
    basis. Checkpoints do not hold the bases; save `bases` beside the optimizer, and construct this anew.

    Raises:
        TypeError: `optimizer` is none; parameters are sharded.
        ValueError: a parameter is not of this optimizer, or a basis does not fit it.

    Examples:
        >>> layer = nn.Linear(3, 2)
        >>> opt = torch.optim.AdamW(layer.parameters(), lr=0.1)
        >>> old = torch.randn(3, 1)
        >>> guard = ProjectOut(opt, {layer.weight: old, layer.bias: None})
        >>> before = layer(old.T).detach()
        >>> layer(torch.randn(8, 3)).square().mean().backward()
        >>> opt.step()
        >>> torch.allclose(layer(old.T), before, atol=1e-6)
        True
    """

    def __init__(self, optimizer: Optimizer, bases: Mapping[Tensor, Basis] | None = None, *, when: str = "update"):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; "
                "write ProjectOut(opt, bases)"
            )
        one_of("when", when, ("update", "gradient"))
        #: Parameter -> its orthonormal basis, None for everything.
        self.bases: dict[Tensor, Tensor | None] = {}
        self._optimizer = optimizer
        self._before: dict[Tensor, Tensor] = {}
        for parameter, basis in (bases or {}).items():
            self.add(parameter, basis)
        if when == "update":
            hooks = [
                optimizer.register_step_pre_hook(self._remember),
                optimizer.register_step_post_hook(self._project_update),
            ]
        else:
            base = getattr(optimizer, "base", optimizer)
            hooks = [base.register_step_pre_hook(self._project_gradient)]
        self._hooks = hooks

    def add(self, parameter: Tensor, basis: Basis) -> None:
        """Keep more out of the updates of a parameter: joined with what it has.

        Raises:
            TypeError: the parameter is sharded.
            ValueError: it is not of this optimizer, or the basis does not fit it.
        """
        if not any(parameter is p for group in self._optimizer.param_groups for p in group["params"]):
            raise ValueError(
                f"bases has a parameter of shape {tuple(parameter.shape)} that is in no group of the optimizer"
            )
        if is_sharded(parameter):
            raise TypeError("ProjectOut needs whole parameters, got sharded ones")
        known = self.bases.get(parameter)
        if basis is None or (parameter in self.bases and known is None):
            self.bases[parameter] = None
            return
        several = [basis] if isinstance(basis, Tensor) else list(basis)
        width = parameter[0].numel() if parameter.ndim > 1 else 0
        for b in several:
            if b.ndim != 2 or len(b) != width:
                needed = f"({width}, r)" if width else "None: a vector has no inputs"
                raise ValueError(
                    f"the basis of a parameter of shape {tuple(parameter.shape)} must be {needed}, got {tuple(b.shape)}"
                )
        joined = orthonormal([*([] if known is None else [known]), *(b.to(parameter.device) for b in several)])
        self.bases[parameter] = joined

    def remove(self) -> None:
        """Take the hooks away: updates are free again."""
        while self._hooks:
            self._hooks.pop().remove()

    def project(self, parameter: Tensor, change: Tensor) -> Tensor:
        """A change of a parameter without its part in the subspace, in the same shape."""
        if parameter not in self.bases:
            return change
        basis = self.bases[parameter]
        if basis is None:
            return torch.zeros_like(change)
        rows = change.reshape(len(change), -1).to(basis.dtype)
        return (rows - (rows @ basis) @ basis.t()).reshape(change.shape).to(change.dtype)

    @torch.no_grad()
    def _remember(self, *_: Any) -> None:
        self._before = {p: p.clone() for p in self.bases}

    @torch.no_grad()
    def _project_update(self, *_: Any) -> None:
        for p, before in self._before.items():
            kind = torch.promote_types(p.dtype, torch.float32)
            p.copy_(before.to(kind) + self.project(p, p.to(kind) - before.to(kind)))
        self._before = {}

    @torch.no_grad()
    def _project_gradient(self, *_: Any) -> None:
        for p in self.bases:
            if p.grad is not None:
                p.grad.copy_(self.project(p, p.grad))


@torch.no_grad()
def input_bases(
    net: nn.Module,
    inputs: Iterable[Any],
    energy: float = 0.97,
    known: Mapping[Tensor, Tensor | None] | None = None,
) -> dict[Tensor, Tensor | None]:
    """For the weights of every linear layer and convolution the directions that its inputs fill: for `ProjectOut`.

        R̂ = R − B Bᵀ R                   R: inputs of the layer as columns, B: the basis that is known
        B  ← [B, the first left singular vectors of R̂]      as few as hold this share of ‖R‖², those of B included

    Args:
        net: the network. It runs in evaluation mode, and is left in the mode that it was in.
        inputs: batches, each as the network takes it: a tensor, or a tuple of arguments. Some hundred examples suffice.
        energy: the share of the squared length to hold, in (0, 1]. The authors: 0.97, and 0.003 more with each task.
        known: bases from before.

    Returns:
        Weight -> basis; None, which keeps a parameter as it is, for all other parameters: biases, normalization layers.

    Cost: a forward pass per batch, and the inputs of all layers in memory. Convolutions in groups are not supported.

    Raises:
        ValueError: `energy` is out of range, or a convolution has groups.
    """
    between("energy", energy, 0, 1, "(]")
    seen: dict[Tensor, list[Tensor]] = {}

    def note(module: Any, args: tuple[Any, ...], _: Any) -> None:
        x = args[0]
        if isinstance(module, nn.Conv2d):
            if module.groups != 1:
                raise ValueError(f"input_bases takes convolutions without groups, got groups={module.groups}")
            padding: Any = module.padding
            if isinstance(padding, str) or module.padding_mode != "zeros":
                sides = module._reversed_padding_repeated_twice
                mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
                x, padding = functional.pad(x, sides, mode=mode), 0
            x = functional.unfold(x, module.kernel_size, module.dilation, padding, module.stride).transpose(1, 2)
        seen.setdefault(module.weight, []).append(x.reshape(-1, x.shape[-1]).detach())

    layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    observe(net, inputs, layers, note)
    bases: dict[Tensor, Tensor | None] = dict.fromkeys(p for p in net.parameters() if p.requires_grad)
    for weight, parts in seen.items():
        if weight in bases:
            bases[weight] = _filled(torch.cat(parts).t(), energy, (known or {}).get(weight))
    return bases


def _filled(columns: Tensor, energy: float, known: Tensor | None) -> Tensor:
    """An orthonormal basis, the known one first, that holds a share of the squared length of some columns."""
    columns = columns.to(torch.promote_types(columns.dtype, torch.float32))
    basis = columns[:, :0] if known is None else known.to(columns.dtype)
    rest = columns - basis @ (basis.t() @ columns)
    u, s, _ = torch.linalg.svd(rest, full_matrices=False)
    whole, left = columns.square().sum(), rest.square().sum()
    held = (whole - left + torch.cat([s.new_zeros(1), s.square().cumsum(0)])) / whole.clamp(min=1e-30)
    more = int((held < energy * (1 - 1e-6)).sum())
    return torch.cat([basis, u[:, :more]], dim=1)

"""What `FlatOptimizer` and `MultiOptimizer` share: groups and state are those of the optimizers that they hold."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


class Wrapping(Optimizer):
    """An optimizer around others, which has no groups and no state of its own. The hooks registered on it are its own.

    A subclass says where `param_groups` and `state` are, what goes into a checkpoint, and what copies and pickles keep.

    Args:
        defaults: the options of a group that says nothing of them.
    """

    def __init__(self, defaults: dict[str, Any]):
        # Not Optimizer.__init__, which would build groups and state.
        super().__setstate__({"defaults": defaults})

    def _checkpoint(self) -> dict[str, Any]:
        """What `state_dict` returns."""
        raise NotImplementedError

    def _load(self, state: dict[str, Any]) -> None:
        """Load a checkpoint, a shallow copy of the caller's."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The checkpoint, after the hooks."""
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        state = self._checkpoint()
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            state = post_hook(self, state) or state
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint, after the hooks."""
        state = dict(state_dict)
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            state = pre_hook(self, state) or state
        self._load(state)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

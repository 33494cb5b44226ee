"""`flatmin train`: one training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console

from flatmin.study.config import Training


@dataclass(frozen=True)
class Train:
    """Train one network with one optimizer, and write a run folder.

    - The same command continues an interrupted run, with the same numbers.
    - `torchrun --nproc-per-node N -m flatmin train ...` divides every batch
      among N processes, and with --shard also the weights.

    Args:
        contender: METHOD+AVERAGE@BASE, as in `flatmin compare`.
        settings: name=value for learning rate (lr), weight decay (wd), momentum, the method's hyper-parameters,
            ema_decay and swa_start. Others keep their defaults.
        noise: the fraction of training labels that are replaced at random, in [0, 1].
        seed: seed of the initial weights, data order, augmentation, label noise and the method's own noise, >= 0.
        training: The training:
        keep_weights: keep the trained weights in OUT/weights.pt, a state dict, for `flatmin landscape` and other uses.
        keep_path: also keep the weights before the first step and at every evaluation, in OUT/path/.
        out: the run's folder. Gets config.toml, metrics.jsonl and result.json, and checkpoints during training.
        shard: under torchrun, shard the weights over the processes (FSDP2).
        tensorboard: also write the metrics into OUT/tensorboard, against gradient evaluations.
    """

    contender: tyro.conf.Positional[str] = "pugd"
    settings: tuple[str, ...] = ()
    noise: float = 0.0
    seed: int = 0
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)
    keep_weights: bool = False
    keep_path: bool = False
    out: Path = Path("runs/train")
    shard: bool = False
    tensorboard: bool = False

    def __call__(self, typed: str) -> None:
        """Start or continue the training, and print a line per evaluation."""
        from flatmin.study import plan
        from flatmin.study.display import train_and_show
        from flatmin.study.training.snapshots import Snapshots
        from flatmin.study.training.torchrun import torchrun_processes

        run = plan.single(self.training, self.contender, _numbers(self.settings), self.noise, self.seed)
        with torchrun_processes(shard=self.shard) as processes:
            console = Console(quiet=not processes.first)
            weights = None
            if self.keep_weights or self.keep_path:
                weights = Snapshots(self.out, path=self.keep_path, write=processes.first)
            result = train_and_show(run, self.out, processes, console, tensorboard=self.tensorboard, weights=weights)
        for name in (
            "test_accuracy",
            "test",
            "validation_accuracy",
            "validation",
            "gradient_evaluations",
            "seconds",
            "diverged",
        ):
            if result.get(name) is not None:
                console.out(f"{name.replace('_', ' ')}: {result[name]:.6g}", highlight=False)
        for group, levels in (result.get("robustness") or {}).items():
            numbers = (f"{level} {'–' if value is None else format(value, '.4g')}" for level, value in levels.items())
            console.out(f"{group.replace('_', ' ')}: {', '.join(numbers)}", highlight=False)


def _numbers(words: tuple[str, ...]) -> dict[str, float]:
    """Settings from `name=value`."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(f"settings must be name=value with a number, got {word!r}; write lr=0.1") from None
    return found

"""What a training function of one's own is given."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from flatmin.checks import at_least
from flatmin.engine.batchnorm import rebuild_statistics
from flatmin.engine.optimizer import FlatOptimizer
from flatmin.engine.probe import Probe
from flatmin.study.config import Run, number
from flatmin.study.contender import Contender
from flatmin.study.tasks.data_order import DataOrder, as_plain, from_plain, random_state, set_random_state
from flatmin.study.tasks.outcome import NotFiniteError, Outcome, TaskError, plain
from flatmin.study.tasks.task import Attempt
from flatmin.study.training.average import Average
from flatmin.study.training.checkpoints import StopRequest
from flatmin.study.training.schedule import Schedule
from flatmin.study.training.torchrun import Processes


class TrialOptimizer(FlatOptimizer):
    """A `FlatOptimizer` that counts its gradients."""

    #: Gradients so far, in units of whole batches.
    gradients: float = 0.0
    #: Examples of the present batch, if they are known.
    examples: int | None = None
    #: Called after each step.
    after_step: Callable[[], None] | None = None

    def _begin(self, in_closure: bool) -> Generator[Probe, None, None]:
        return self._counted(super()._begin(in_closure))

    def _counted(self, probes: Generator[Probe, None, None]) -> Generator[Probe, None, None]:
        try:
            for probe in probes:
                yield probe
                self.gradients += probe.cost * self._share(probe)
        finally:
            probes.close()

    def _share(self, probe: Probe) -> float:
        """The share of the batch that a probe has seen."""
        if not self.examples or probe.losses is None or probe.losses.ndim == 0:
            return 1.0
        return min(1.0, probe.losses.numel() / self.examples)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """See `FlatOptimizer.step`."""
        loss = super().step(closure)
        if self.after_step is not None:
            self.after_step()
        return loss


class Trial:
    """One run of a training function: its seed, its contender and settings, its budget.

    Before the function is called, the generators of torch, numpy and Python are seeded by `seed`. So runs of one seed
    start from the same weights, whatever the contender, if the network is made before other random numbers are drawn.

    Attributes:
        seed: of the run, >= 0. Searches and final runs have different ones.
        contender: the name of the method with its base, such as `sam@adamw`.
        settings: of the contender by name: `lr`, `wd`, and those of the method.
        noise: the study's condition, 0 unless `--noise` is given: for a task that can spoil its training labels.
        final: whether this is a final run. Runs of a search must not read the test data.
    """

    def __init__(self, run: Run, attempt: Attempt, source: str = "") -> None:
        self.seed, self.settings, self.final = run.seed, dict(run.settings), run.test
        self.contender = run.contender
        self.optimizers: list[TrialOptimizer] = []
        self.rows: list[dict[str, Any]] = []
        #: The number of steps of this contender, once the task has said how long it trains.
        self.planned: int | None = None
        self.read_noise = False
        self._run, self._attempt, self._source = run, attempt, source
        self._entrant = Contender.parse(run.contender, run.average)
        self._average: Average | None = None
        self._evaluated = self._looped = False
        self._per_epoch, self._done, self._given = 1, 0, 0  # steps per epoch, steps done, batches handed out
        self._earlier, self._spent, self._began = 0.0, 0.0, time.perf_counter()

    @property
    def noise(self) -> float:
        """The study's condition, in [0, 1]."""
        self.read_noise = True
        return self._run.noise

    # -- before the loop -----------------------------------------------------------------------------------------------

    def optimizer(
        self,
        parameters: nn.Module | Iterable[Any],
        *,
        model: nn.Module | None = None,
        steps: int | None = None,
        examples: int | None = None,
        **options: Any,
    ) -> FlatOptimizer:
        """The contender: its method on its base optimizer, at the settings of this run.

        Args:
            parameters: to train: `net.parameters()`, groups of them with options of the base optimizer (a group's own
                `weight_decay` is kept; its own `lr` too, so leave that out), or the network.
            model: the network, see `FlatOptimizer`. Contenders with an average need it.
            steps: of the training if a step took one gradient, >= 1; for the methods that must be told.
            examples: number of training examples, >= 1; likewise.
            **options: further arguments of `FlatOptimizer`.

        Raises:
            ValueError: the contender must be told something, and was not; the message says what to write.
        """
        if isinstance(parameters, nn.Module):
            model, parameters = model or parameters, parameters.parameters()
        listed = list(parameters)
        groups = listed if listed and isinstance(listed[0], dict) else [{"params": listed}]
        known = {
            name: count
            for name, count in (("steps", None if steps is None else self.max_steps(steps)), ("examples", examples))
            if count is not None
        }
        try:
            base, method = self._entrant.parts(groups, self.settings, known)
        except KeyError as missing:
            raise TaskError(
                f"{self.contender} must be told the number of {missing.args[0]} of the training; write "
                "trial.optimizer(net.parameters(), model=net, steps=epochs * len(loader), examples=len(data))"
            ) from None
        if self._entrant.average != "none" and self._average is None:
            if model is None:
                raise TaskError(f"{self.contender} averages the weights; write trial.optimizer(..., model=net)")
            self._average = Average(self._entrant.average, self.settings, model, Processes())
        made = TrialOptimizer(base, method, model=model, seed=number(self.seed, self._purpose()), **options)
        self.optimizers.append(made)
        return made

    def _purpose(self) -> str:
        return f"method {len(self.optimizers)}" if self.optimizers else "method"

    def max_steps(self, steps: int) -> int:
        """The number of steps of this contender, for loops that are not over `steps`.

        Args:
            steps: of the training if a step took one gradient, >= 1.

        Returns:
            The same number if all contenders take equal steps; if they compute equal gradients, `steps` divided by the
            contender's gradients per step.
        """
        at_least("steps", steps, 1, whole=True)
        equal_gradients = self._run.budget == "grads"
        self.planned = max(1, int(steps / self._entrant.gradients(self.settings))) if equal_gradients else steps
        return self.planned

    # -- the loop ------------------------------------------------------------------------------------------------------

    def steps(
        self,
        batches: Iterable[Any],
        epochs: int | None = None,
        *,
        steps: int | None = None,
        save: Sequence[Any] = (),
    ) -> Iterator[Any]:
        """The batches of the training: as many as the budget allows this contender, from as many epochs as that takes.

        The order of the data depends on the seed only: while a batch is drawn, the generators of torch, numpy and
        Python are in a state of their own, made of seed and epoch. A `generator` of the loader is seeded likewise.

        Args:
            batches: a DataLoader, or anything else that can be iterated over again and again.
            epochs: passes over it if a step took one gradient, >= 1; needs `len(batches)`.
            steps: or the number of steps instead.
            save: all that the loop changes: network, optimizer, schedulers, whatever has `state_dict` and
                `load_state_dict`, and dicts of plain values. Then the run is saved every 30 seconds and at Ctrl-C, and
                a run that was killed goes on from there, with the same numbers. Without it, such a run starts again.

        Raises:
            TaskError: there are no batches, or `save` lacks the optimizer.
        """
        if (epochs is None) == (steps is None):
            raise TaskError("trial.steps needs one of epochs and steps; write trial.steps(loader, epochs=10)")
        try:
            per_epoch = len(batches)  # type: ignore[arg-type]  # not everything has a length
        except TypeError:
            per_epoch = 0
        if epochs is not None:
            at_least("epochs", epochs, 1, whole=True)
            if not per_epoch:
                raise TaskError("trial.steps got batches without a length; write trial.steps(batches, steps=1000)")
        if save and (missing := [one for one in self.optimizers if not any(one is thing for thing in save)]):
            raise TaskError(f"trial.steps: save lacks the optimizer {missing[0]!r}; write save=[net, opt]")
        total = self.max_steps(epochs * per_epoch if epochs is not None else int(steps or 0))
        self._per_epoch, self._looped = per_epoch or total, True
        return self._steps(batches, total, save)

    def _steps(self, batches: Iterable[Any], total: int, save: Sequence[Any]) -> Iterator[Any]:
        stop, data = StopRequest(), DataOrder(batches, self.seed)
        schedule = Schedule(self._run, 1, self._per_epoch, total, frozenset())
        self._done = self._given = self._restore(save) if save else 0
        data.skip(self._done)
        self._began = time.perf_counter()
        with stop.handling_signals() if save else contextlib.nullcontext():
            while self._done < total:
                batch = data.next()
                for optimizer in self.optimizers:
                    optimizer.examples = _examples(batch)
                self._given = self._done + 1
                yield batch
                self._done += 1
                if self._average is not None:
                    assert self.optimizers[0].model is not None
                    self._average.update(self.optimizers[0].model, self._done / total)
                self._attempt.watch(self._done, schedule, [])
                if save and (self._attempt.checkpoints.due() or stop.requested):
                    self._save(save)
                if stop.requested:
                    raise KeyboardInterrupt
        self._spent += time.perf_counter() - self._began
        self._began = 0.0

    def log(self, *, validation: float, **numbers: float) -> None:
        """Note a point of the learning curve: the metric on validation data, and whatever else.

        A point with a number that is not finite is left out.
        """
        row = {**self._position(), "validation": plain("validation", validation)}
        row |= {name: plain(name, value) for name, value in numbers.items()}
        row["seconds"] = round(self.seconds, 4)
        if all(math.isfinite(value) for value in row.values()):
            self.rows.append(row)
            self._attempt.log(row)

    def evaluated(self, net: nn.Module, inputs: Iterable[Any] = ()) -> nn.Module:
        """The network to evaluate: the average of the weights for contenders that have one, else `net`.

        Args:
            net: the network that is trained.
            inputs: some dozens of training batches, as the network takes them. For methods that never see the weights
                themselves, such as `s-sgd`, BatchNorm's statistics are computed anew from them.
        """
        self._evaluated = True
        found = net if self._average is None else self._average.network(net)
        if self._entrant.entry.perturbed and inputs:
            rebuild_statistics(found, inputs)
        return found

    # -- after the loop ------------------------------------------------------------------------------------------------

    @property
    def gradients(self) -> float:
        """Gradients so far, in units of whole batches."""
        return self._earlier + sum(optimizer.gradients for optimizer in self.optimizers)

    @property
    def seconds(self) -> float:
        """Seconds in the loop so far, over all attempts."""
        return self._spent + (time.perf_counter() - self._began if self._began else 0.0)

    def finish(self, outcome: Outcome) -> dict[str, Any]:
        """Check that the task did its part, and add the last row, unless the task has logged it.

        Returns:
            The last row.

        Raises:
            TaskError: it did not.
            NotFiniteError: the outcome is not a finite number.
        """
        if not self.optimizers or not max(optimizer.steps for optimizer in self.optimizers):
            raise TaskError(
                "no optimizer of the trial took a step, so all methods would train the same; write "
                "opt = trial.optimizer(net.parameters(), model=net), and opt.step() in the loop"
            )
        if self._run.budget == "grads" and self.planned is None:
            raise TaskError(
                "budget = grads, but the task does not ask how many steps it may take; write "
                "for batch in trial.steps(loader, epochs=10), or max_steps = trial.max_steps(10 * len(loader))"
            )
        if self._entrant.average != "none" and not (self._looped and self._evaluated):
            raise TaskError(
                f"{self.contender} evaluates an average of the weights; write for batch in trial.steps(...), and "
                "evaluate trial.evaluated(net) in place of net"
            )
        if self._run.noise and not self.read_noise:
            raise TaskError(
                f"the study has the condition noise = {self._run.noise:g}, but the task does not read trial.noise; "
                "spoil this fraction of the training labels, or write --noise 0"
            )
        value = plain("validation", outcome.validation)
        if not math.isfinite(value):
            raise NotFiniteError(
                f"validation is {value} for {self.contender} at {self.settings}, seed {self.seed}; for a training that "
                "failed write Outcome(..., diverged=True) with a finite number, such as that of a constant prediction"
            )
        end = {**self._position(), "validation": value, "seconds": round(self.seconds, 4)}
        if not self.rows or self.rows[-1]["gradient_evaluations"] != end["gradient_evaluations"]:
            self._attempt.log(end)
        return end

    def _position(self) -> dict[str, float]:
        rounded = round(self.gradients, 2)
        epoch = self._given / self._per_epoch if self._looped else 0.0
        return {"epoch": epoch, "gradient_evaluations": int(rounded) if rounded == int(rounded) else rounded}

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _save(self, things: Sequence[Any]) -> None:
        states = [dict(thing) if isinstance(thing, dict) else thing.state_dict() for thing in things]
        for thing, state in zip(things, states, strict=True):
            if (strange := _strange(state)) is not None:
                raise TaskError(
                    f"save: the state of {type(thing).__name__} holds a {strange}; it may hold tensors, numbers, "
                    "strings, lists and dicts"
                )
        self._attempt.checkpoints.save(
            {
                "run": dataclasses.asdict(self._run),
                "source": self._source,
                "step": self._done,
                "gradients": self.gradients,
                "seconds": self.seconds,
                "rows": self.rows,
                "random": as_plain(random_state()),
                "average": {} if self._average is None else self._average.state_dict(),
                "saved": states,
            }
        )

    def _restore(self, things: Sequence[Any]) -> int:
        """Restore the checkpoint of this run, if there is one; the steps that were taken then."""
        found = self._attempt.checkpoints.load()
        mine = {"run": dataclasses.asdict(self._run), "source": self._source}
        if found is None or {name: found.get(name) for name in mine} != mine or len(found["saved"]) != len(things):
            return 0
        for thing, state in zip(things, found["saved"], strict=True):
            if isinstance(thing, dict):
                thing.clear()
                thing.update(state)
            else:
                thing.load_state_dict(state)
        if self._average is not None:
            self._average.load_state_dict(found["average"])
        self._earlier, self._spent, self.rows = found["gradients"], found["seconds"], found["rows"]
        for row in self.rows:
            self._attempt.log(row)
        set_random_state(from_plain(found["random"]))
        return int(found["step"])


def _examples(batch: Any) -> int | None:
    """The number of examples of a batch, by its first tensor; None if it has none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else None
    inside = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((found for each in inside if (found := _examples(each)) is not None), None)


def _strange(state: Any) -> str | None:
    """The type of something in a state that a checkpoint cannot hold; None if there is nothing of the kind."""
    if state is None or isinstance(state, Tensor | bool | int | float | str):
        return None
    if isinstance(state, Mapping):
        state = [*state, *state.values()]
    if isinstance(state, list | tuple):
        return next((found for each in state if (found := _strange(each)) is not None), None)
    return type(state).__name__

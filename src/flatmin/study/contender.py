"""A contender is a method on a base optimizer, perhaps on estimated gradients, or with an average of its weights.

Its name is `METHOD~ESTIMATOR+AVERAGE@BASE`.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from flatmin.checks import between, known_name
from flatmin.engine.optimizer import FlatOptimizer
from flatmin.estimators.entries import ESTIMATORS, EstimatorEntry
from flatmin.estimators.estimated import Estimated
from flatmin.protocol import Method
from flatmin.registry import METHODS, Entry, Range
from flatmin.selectors import is_matrix
from flatmin.study import outside
from flatmin.study.bases import BASES, Base, Groups, Setting


def parameter_groups(net: nn.Module, decay_vectors: bool) -> Groups:
    """The parameters of `net`, those without weight decay in a group of their own."""
    parameters = list(net.parameters())
    if decay_vectors:
        return [{"params": parameters}]
    matrices, vectors = ([p for p in parameters if is_matrix(p) == which] for which in (True, False))
    groups: Groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


#: Averages of the weights, see `flatmin.study.training.average`: the decay per step of the exponential moving average
#: (ema), and the fraction of the training after which the plain mean (swa) starts.
AVERAGES: dict[str, dict[str, Setting]] = {
    "ema": {"ema_decay": Setting(0.999, Range(0.9, 0.9999, to_one=True))},
    "swa": {"swa_start": Setting(0.75, Range(0.1, 0.95, log=False))},
}

#: The registry's tuned values are for SGD. These are for other bases, from the same search (recipes/digits_tune.toml).
TUNED_ELSEWHERE: dict[str, dict[str, float]] = {"adamw": {"lr": 0.000733}}


#: With estimated gradients the learning rate is searched down to the lowest of its range times this: estimates are
#: longer than gradients, by up to the number of parameters.
ESTIMATED_LR = 1e-3


def _left_to_the_method(base: Any, option: str) -> float:
    """The momentum or weight decay of a base optimizer, or of the first of several, which have none afterwards."""
    several = base if isinstance(base, list | tuple) else [base]
    value = float(several[0].defaults.get(option, 0.0))
    for group in (group for one in several for group in one.param_groups):
        group.update({name: 0.0 for name in (option, f"separate_{option}") if name in group})
    return value


@dataclass(frozen=True)
class Contender:
    """A method of the registry on a base optimizer, perhaps with an average of the weights.

    Args:
        method: a key of `flatmin.registry.METHODS`, or `package.module:Name`, see `flatmin.study.outside`.
        base: a key of `BASES`, or `package.module:name`, likewise.
        average: a key of `AVERAGES`, or none. The average is what is evaluated.
        gradient: a key of `flatmin.estimators.entries.ESTIMATORS`, or none for backpropagation.
    """

    method: str
    base: str = "sgd"
    average: str = "none"
    gradient: str = "none"

    @classmethod
    def parse(cls, text: str, average: str = "none", base: str = "sgd") -> Contender:
        """Read `METHOD`, `METHOD@BASE`, `METHOD+AVERAGE` or `METHOD+AVERAGE@BASE`.

        A base in place of `METHOD` means `plain` on that base, an estimator means `plain` with its estimates, and
        `METHOD~ESTIMATOR` is a method with them. `package.module:Name` is a method of another package, and after the @
        a base of another package.

        Args:
            text: the name.
            average: of a contender that names none.
            base: of a contender that names none.

        Raises:
            ValueError: unknown method, average or base, and the message lists the nearest names; or a method of another
                package that cannot be imported.

        Examples:
            >>> [str(Contender.parse(text)) for text in ("plain@adamw", "pugd@sgd", "plain+ema", "sam+swa@adamw")]
            ['adamw', 'pugd', 'sgd+ema', 'sam+swa@adamw']
            >>> [str(Contender.parse(text)) for text in ("forward", "plain~zeroth", "pugd~zeroth@adamw")]
            ['forward', 'zeroth', 'pugd~zeroth@adamw']
        """
        text, at, named = text.partition("@")
        method, plus, own = text.partition("+")
        method, tilde, gradient = method.partition("~")
        if method in ESTIMATORS and not tilde:
            method, tilde, gradient = "plain", "~", method
        if method in BASES and not at and not tilde:
            method, at, named = "plain", "@", method
        base = named if at else base
        if ":" in method:
            outside.entry(method)
        else:
            known_name("method", method, [*METHODS, *ESTIMATORS] if at else [*METHODS, *BASES, *ESTIMATORS])
        if tilde:
            known_name("estimator", gradient, ESTIMATORS)
        if ":" in base:
            outside.base(base)
        else:
            known_name("base optimizer", base, BASES)
        if plus:
            known_name("average", own, AVERAGES)
        return cls(method, base, own if plus else average, gradient if tilde else "none")

    def __str__(self) -> str:
        plus = f"+{self.average}" if self.average != "none" else ""
        shown = self.method
        if self.gradient != "none":
            shown = self.gradient if self.method == "plain" else f"{self.method}~{self.gradient}"
        elif self.method == "plain" and ":" not in self.base:
            return self.base + plus
        return shown + plus + (f"@{self.base}" if self.base != "sgd" else "")

    @property
    def entry(self) -> Entry:
        """The method's entry, in the registry or of another package."""
        return outside.entry(self.method) if ":" in self.method else METHODS[self.method]

    @property
    def base_entry(self) -> Base:
        """The base optimizer with its settings, of `BASES` or of another package."""
        return outside.base(self.base) if ":" in self.base else BASES[self.base]

    @property
    def estimator(self) -> EstimatorEntry | None:
        """The entry of the estimator; None for backpropagation."""
        return ESTIMATORS.get(self.gradient)

    def default(self) -> dict[str, float]:
        """The settings of the default arm: those of base and average, and the method's published radius."""
        found = {**self.base_entry.settings, **AVERAGES.get(self.average, {})}
        return {name: self.default_of(name) for name, setting in found.items() if not setting.optional}

    def default_of(self, name: str) -> float:
        """The default value of a setting, one of `names`."""
        found = {**self.base_entry.settings, **AVERAGES.get(self.average, {})}
        if name in found:
            shorter = self.estimator.lr if self.estimator is not None and name == "lr" else 1.0
            return found[name].default * shorter
        if self.estimator is not None and name in self.estimator.space:
            return float(inspect.signature(self.estimator.make).parameters[name].default)
        return float(inspect.signature(self.entry.make).parameters[name].default)

    def tuned(self) -> dict[str, float]:
        """The published settings of the tuned arm; empty if there are none. What they lack is as in `default`."""
        if self.average != "none" or self.gradient != "none":
            return {}
        return dict(self.entry.tuned) if self.base == "sgd" else dict(TUNED_ELSEWHERE.get(str(self), {}))

    def names(self) -> list[str]:
        """The names of all settings: base, method, average, estimator."""
        estimator = () if self.estimator is None else self.estimator.space
        return [*self.base_entry.settings, *self.entry.space, *AVERAGES.get(self.average, {}), *estimator]

    def space(self, optional: Collection[str] = ()) -> dict[str, Range]:
        """The ranges of a search: learning rate and weight decay, the method's hyper-parameters, and the average's.

        Args:
            optional: names of optional settings that are searched, too.
        """
        base = {
            name: setting.range
            for name, setting in self.base_entry.settings.items()
            if not setting.optional or name in optional
        }
        average = {name: setting.range for name, setting in AVERAGES.get(self.average, {}).items()}
        if self.estimator is None:
            return {**base, **self.entry.space, **average}
        base["lr"] = replace(base["lr"], low=base["lr"].low * ESTIMATED_LR)
        return {**base, **self.entry.space, **average, **self.estimator.space}

    def own(self, settings: Mapping[str, float]) -> dict[str, float]:
        """The hyper-parameters of the method among `settings`."""
        estimator = () if self.estimator is None else self.estimator.space
        others = {*self.base_entry.settings, *AVERAGES.get(self.average, {}), *estimator}
        return {name: value for name, value in settings.items() if name not in others}

    def check(self, settings: Mapping[str, float]) -> None:
        """Refuse values of base, method and average that are out of range.

        Raises:
            ValueError: one is.
        """
        to_one = [name for name, setting in self.base_entry.settings.items() if setting.range.to_one]
        for name in (*to_one, *AVERAGES.get(self.average, {})):
            if name in settings:
                between(name, settings[name], 0, 1, "[)")
        try:
            self.entry.make(**self.own(settings))
            if self.estimator is not None:
                self.estimator.make(**self.estimator.options(settings))
        except TypeError as error:
            raise ValueError(str(error)) from None

    def gradients(self, settings: Mapping[str, float]) -> float:
        """Gradients per step at some settings, on average: what a budget is divided by.

        With an estimator, what its estimates cost: a forward pass is a third of a gradient.
        """
        at, each = self.entry.gradients_at, 1.0 if self.estimator is None else self.estimator.gradients
        return each * (self.entry.gradients if at is None else at(**self.own(settings)))

    def check_decay(self, decay_vectors: bool) -> None:
        """Check that the weight decay can leave out vectors, if it is to.

        Raises:
            ValueError: the method decays the weights itself, all of them.
        """
        if not decay_vectors and "weight_decay" in self.entry.told.values():
            raise ValueError(f"decay_vectors = false, but {self} decays all weights itself; leave out one of them")

    def optimizer(
        self,
        net: nn.Module,
        settings: Mapping[str, float],
        seed: int,
        *,
        decay_vectors: bool = True,
        steps: int = 1,
        examples: int = 1,
    ) -> FlatOptimizer:
        """The method on its base for the parameters of `net`.

        Args:
            net: the network to train.
            settings: values of `names`. Absent ones keep their defaults.
            seed: of the random numbers that the method draws.
            decay_vectors: whether the weight decay is for vectors, too, such as biases.
            steps: number of steps of the training, for methods that must be told.
            examples: number of training examples, for the same.

        Raises:
            ValueError: see `check_decay`.
        """
        self.check_decay(decay_vectors)
        groups = parameter_groups(net, decay_vectors)
        base, method = self.parts(groups, settings, {"steps": steps, "examples": examples})
        return FlatOptimizer(base, method, model=net, seed=seed)

    def parts(self, groups: Groups, settings: Mapping[str, float], known: Mapping[str, int]) -> tuple[Any, Method]:
        """The base optimizer for some groups of parameters, and the method: what `FlatOptimizer` is made of.

        Args:
            groups: of parameters, with options of their own if need be.
            settings: values of `names`. Absent ones keep their defaults.
            known: the number of `steps` of the training and of its `examples`, as far as they are known.

        Raises:
            KeyError: the method must be told what is not known.
        """
        base = self.base_entry
        chosen = {name: settings.get(name, setting.default) for name, setting in base.settings.items()}
        made, own = base.make(groups, **chosen), self.own(settings)
        for name, fact in self.entry.told.items():
            own[name] = known[fact] if fact in ("steps", "examples") else _left_to_the_method(made, fact)
        method = self.entry.make(**own)
        if self.estimator is not None:
            method = Estimated(method, self.estimator.make(**self.estimator.options(settings)))
        return made, method

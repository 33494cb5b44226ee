"""Every method by name: where it comes from, what it costs, what to search, what to try it on.

An entry is data. The contract suite, the studies, the command line and the docs all read this one table, so a method
that is not in it does not exist for them, and one that is in it lacks nothing.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flatmin import methods as m
from flatmin import papers
from flatmin.dialogue import Method
from flatmin.papers import Paper


@dataclass(frozen=True)
class Range:
    """An interval to search, both ends included, on a logarithmic scale unless `log` is False."""

    low: float
    high: float
    log: bool = True

    def at(self, u: float) -> float:
        """The point at fraction `u` of the interval, 0 <= u <= 1, rounded to three digits."""
        if self.log:
            value = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + u * (self.high - self.low)
        return float(f"{value:.3g}")


@dataclass(frozen=True)
class Bad:
    """Hyper-parameters that must be refused, and a part of the message."""

    hyperparameters: Mapping[str, Any]
    message: str


@dataclass(frozen=True)
class Entry:
    """One method.

    Args:
        name: in the registry, on the command line and in the docs.
        make: called with hyper-parameters by name, makes the method.
        summary: what it does, in one line.
        paper: where it comes from; None for what has no single origin.
        gradients: gradients per step at the defaults.
        copies: parameter-sized copies beyond plain training, at the peak.
        space: hyper-parameters worth searching, fixed before any study was run.
        tuned: learning rate and hyper-parameters that won the search of `recipes/digits_tune.toml`, on SGD.
        examples: hyper-parameters to test with, beside the defaults.
        bad: hyper-parameters that must be refused.
    """

    name: str
    make: Callable[..., Method]
    summary: str
    paper: Paper | None
    gradients: int
    copies: int
    space: Mapping[str, Range] = field(default_factory=dict)
    tuned: Mapping[str, float] = field(default_factory=dict)
    examples: tuple[Mapping[str, Any], ...] = ()
    bad: tuple[Bad, ...] = ()


def unit_sam(rho: float = 0.05) -> m.Unit:
    """SAM's direction as a unit vector: `Unit(SAM(rho))`."""
    return m.Unit(m.SAM(rho))


_NOISE_BAD = (
    Bad({"sigma": -1.0}, "sigma must be >= 0, got -1.0"),
    Bad({"kind": "uniform"}, "kind must be one of 'signs', 'gaussian', got 'uniform'"),
    Bad({"scale": "layer"}, "scale must be one of 'filter', 'tensor', 'absolute', got 'layer'"),
)
_RHO_BAD = (
    Bad({"rho": -0.1}, "rho must be >= 0, got -0.1"),
    Bad({"rho": "big"}, "rho must be a number, got 'big'"),
    Bad({"rho": math.nan}, "rho must be >= 0, got nan"),
)

_ENTRIES = (
    Entry("plain", m.Plain, "the gradient itself: the base optimizer as it is", None, 1, 0, tuned={"lr": 0.00379}),
    Entry(
        "ugd",
        m.UGD,
        "the gradient as a unit vector (normalised gradient descent)",
        papers.PUGD,
        1,
        0,
        tuned={"lr": 0.00899},
    ),
    Entry("sign", m.SignDescent, "the sign of every component of the gradient", None, 1, 0, tuned={"lr": 0.0172}),
    Entry(
        "pugd",
        m.PUGD,
        "unit-length sum of the gradients at w and on the unit ball scaled by |w|",
        papers.PUGD,
        2,
        1,
        tuned={"lr": 0.0264},
        examples=({"radius": 0.5}, {"radius": 0.0}),
        bad=(Bad({"radius": -1.0}, "radius must be >= 0, got -1.0"),),
    ),
    Entry(
        "sam",
        m.SAM,
        "gradient at the worst point of a ball around the weights",
        papers.SAM,
        2,
        1,
        space={"rho": Range(0.02, 2.0)},
        tuned={"lr": 0.0505, "rho": 0.279},
        examples=({"rho": 0.5}, {"rho": 0.1, "p": math.inf}),
        bad=(*_RHO_BAD, Bad({"p": 1}, "p must be one of 2, inf, got 1")),
    ),
    Entry(
        "unit-sam",
        unit_sam,
        "SAM's direction as a unit vector (first version of the PUGD paper)",
        papers.PUGD,
        2,
        1,
        space={"rho": Range(0.02, 2.0)},
        tuned={"lr": 0.0627, "rho": 0.552},
        examples=({"rho": 0.5},),
        bad=_RHO_BAD,
    ),
    Entry(
        "asam",
        m.ASAM,
        "SAM in a ball that scales with the weights",
        papers.ASAM,
        2,
        1,
        space={"rho": Range(0.1, 10.0)},
        tuned={"lr": 0.0505, "rho": 1.4},
        examples=({"rho": 1.0, "on": "matrices"}, {"rho": 2.0, "eta": 0.0}),
        bad=(
            *_RHO_BAD,
            Bad({"eta": -0.5}, "eta must be >= 0, got -0.5"),
            Bad({"on": "weights"}, "on must be one of 'all', 'matrices', got 'weights'"),
        ),
    ),
    Entry(
        "amp",
        m.AMP,
        "gradient at a point that clipped gradient ascent reaches",
        papers.AMP,
        2,
        1,
        space={"epsilon": Range(0.05, 5.0)},
        tuned={"lr": 0.0172, "epsilon": 0.418},
        examples=({"epsilon": 0.1, "norm": "tensor"}, {"steps": 2}),
        bad=(
            Bad({"epsilon": -1}, "epsilon must be >= 0, got -1"),
            Bad({"zeta": 0}, "zeta must be > 0, got 0"),
            Bad({"steps": 0}, "steps must be >= 1, got 0"),
            Bad({"steps": 1.5}, "steps must be an int, got 1.5"),
            Bad({"norm": "filter"}, "norm must be one of 'global', 'tensor', got 'filter'"),
        ),
    ),
    Entry(
        "s-sgd",
        m.SymmetricNoise,
        "mean gradient at two points either side of the weights",
        papers.S_SGD,
        2,
        1,
        space={"sigma": Range(0.02, 0.8)},
        tuned={"lr": 0.0328, "sigma": 0.743},
        examples=({"kind": "gaussian", "scale": "tensor"}, {"scale": "absolute", "sigma": 0.01}, {"pairs": 2}),
        bad=(*_NOISE_BAD, Bad({"pairs": 0}, "pairs must be >= 1, got 0")),
    ),
    Entry(
        "rwp",
        m.RandomNoise,
        "gradient at one random point near the weights",
        papers.RWP,
        1,
        1,
        space={"sigma": Range(0.02, 0.8)},
        tuned={"lr": 0.0213, "sigma": 0.493},
        examples=({"kind": "gaussian", "skip_vectors": False},),
        bad=_NOISE_BAD,
    ),
    Entry(
        "channel-sgd",
        m.ChannelDirected,
        "the gradient, smoothed along the output channels of convolutions",
        papers.CHANNEL,
        1,
        0,
        space={"lam": Range(0.25, 8.0)},
        tuned={"lr": 0.00305, "lam": 0.39},
        examples=({"metric": "h1", "lam": 0.01}, {"metric": "tilde-h1", "lam": 0.1, "boundary": "periodic"}),
        bad=(
            Bad({"lam": 0.0}, "lam must be > 0, got 0.0"),
            Bad({"metric": "h2"}, "metric must be one of 'l2', 'h1', 'tilde-h1', got 'h2'"),
            Bad({"boundary": "free"}, "boundary must be one of 'neumann', 'periodic', got 'free'"),
            Bad({"layers": "all"}, "layers must be one of 'conv', 'matrices', got 'all'"),
        ),
    ),
)

#: name -> Entry, in the order of the docs.
METHODS: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def methods() -> list[str]:
    """The names of all methods."""
    return list(METHODS)


def build(name: str, **hyperparameters: Any) -> Method:
    """Make a method by its registry name.

    Args:
        name: one of `methods()`.
        hyperparameters: the fields of the method's dataclass.

    Raises:
        ValueError: no method has this name (the message lists the nearest), or a hyper-parameter is out of range.
        TypeError: the method has no such hyper-parameter.

    Examples:
        >>> build("sam", rho=0.1)
        SAM(rho=0.1, p=2)
    """
    return lookup(name).make(**hyperparameters)


def lookup(name: str) -> Entry:
    """The entry of a method.

    Raises:
        ValueError: no method has this name; the message lists the nearest.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(str(name), METHODS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(METHODS)}"
        raise ValueError(f"unknown method {name!r}; {hint}")
    return METHODS[name]

"""Random models, methods and mishaps: what holds for all of them.

`FLATMIN_EXAMPLES=10000 pytest tests/engine/test_properties.py` is the long form.
"""

import io
import os
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import flatmin
from support.common import every_method

EXAMPLES = int(os.environ.get("FLATMIN_EXAMPLES", "250"))
CI = settings(deadline=None, derandomize=EXAMPLES < 1000, suppress_health_check=list(HealthCheck))


# -- random models -----------------------------------------------------------------------------------------------------

SHAPES = [(), (0,), (1,), (3,), (2, 3), (0, 3), (3, 0, 2), (4, 3, 2, 2)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]
#: The first is drawn most often. A head of two layers is refused where there is one.
METHODS = [p.values[0] for p in every_method(per_example=False) if "head=2" not in repr(p.values[0])][::-1]
BASES = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=1e-2, nesterov=True),
    "sgd-loop": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, foreach=False),
    "ascent": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, maximize=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, eps=1e-4),
}


@dataclass(frozen=True)
class Part:
    """One parameter of a random model."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    frozen: bool
    missing: frozenset[int]  # the probes whose loss does not depend on it
    group: int

    def parameter(self, generator):
        shape = {"transposed": self.shape[::-1], "gaps": (*self.shape, 2)}.get(self.layout, self.shape)
        wide = torch.complex128 if self.dtype.is_complex else torch.float64
        t = torch.randn(shape, dtype=wide, generator=generator).to(self.dtype)
        if self.layout == "transposed":
            t = t.permute(tuple(reversed(range(t.ndim))))
        elif self.layout == "gaps":
            t = t[..., 0]
        elif self.layout == "channels_last" and t.ndim == 4:
            t = t.contiguous(memory_format=torch.channels_last)
        return nn.Parameter(t, requires_grad=not self.frozen)


@dataclass(frozen=True)
class Recipe:
    """A random model with its optimizer; `Model(recipe)` makes the same one every time."""

    parts: tuple[Part, ...]
    groups: tuple[dict, ...]
    method: object
    base: str


class Model:
    def __init__(self, recipe):
        generator = torch.Generator().manual_seed(5)
        self.parts = recipe.parts
        self.params = [part.parameter(generator) for part in recipe.parts]
        groups = [dict(options, params=[]) for options in recipe.groups]
        for part, p in zip(self.parts, self.params, strict=True):
            groups[part.group]["params"].append(p)
        self.fixed = [p for g in groups for p in g["params"] if not (g["perturb"] and g["radius_scale"])]
        self.base = BASES[recipe.base]([g for g in groups if g["params"]])
        self.opt = flatmin.FlatOptimizer(self.base, recipe.method, seed=3)

    def loss(self, k):
        """The loss in probe k: curved, and coupled through the logarithm."""
        total = torch.zeros((), dtype=torch.float64)
        for i, (part, p) in enumerate(zip(self.parts, self.params, strict=True)):
            if k not in part.missing:
                wide = torch.sin(p.to(torch.complex128 if p.is_complex() else torch.float64))
                total = total + (i + 1) * (wide * wide.conj()).real.sum()
        return total.log1p()

    def by_closure(self, fatal=None):
        probe = iter(range(1000))

        def closure():
            k = next(probe)
            self.opt.zero_grad()
            if k == fatal:
                raise MemoryError
            loss = self.loss(k)
            loss.backward()
            return loss.detach()

        self.opt.step(closure)

    def by_loop(self):
        for k in self.opt.probes():
            k.backward(self.loss(k))
        self.opt.step()

    def bits(self):
        return [_bits(p) for p in self.params]

    def checkpoint(self):
        """Weights and optimizer as they come back from a file."""
        file = io.BytesIO()
        torch.save([self.params, self.opt.state_dict()], file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def load(self, checkpoint):
        params, state = checkpoint
        with torch.no_grad():
            for p, saved in zip(self.params, params, strict=True):
                p.copy_(saved)
        self.opt.load_state_dict(state)
        return self


def _bits(t):
    return torch.empty(t.numel(), dtype=t.dtype).copy_(t.detach().reshape(-1)).view(torch.uint8)


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@st.composite
def recipes(draw, dtypes=DTYPES, bases=tuple(BASES)):
    groups = st.fixed_dictionaries({"perturb": st.booleans(), "radius_scale": st.sampled_from([1.0, 1.0, 0.0, 2.5])})
    groups = tuple(draw(st.lists(groups, min_size=1, max_size=3)))
    part = st.builds(
        Part,
        shape=st.sampled_from(SHAPES),
        dtype=st.sampled_from(dtypes),
        layout=st.sampled_from(["plain", "plain", "transposed", "gaps", "channels_last"]),
        frozen=st.integers(0, 5).map(lambda n: n == 0),
        missing=st.frozensets(st.integers(0, 3), max_size=4),
        group=st.integers(0, len(groups) - 1),
    )
    always = part.map(lambda p: Part(p.shape, p.dtype, p.layout, False, frozenset(), p.group))
    parts = [draw(always), *draw(st.lists(part, min_size=1, max_size=5))]
    return Recipe(tuple(parts), groups, draw(st.sampled_from(METHODS)), draw(st.sampled_from(bases)))


# -- what holds for all of them ----------------------------------------------------------------------------------------


@settings(CI, max_examples=EXAMPLES)
@given(recipes())
def test_nothing_moves_that_should_not(recipe):
    model = Model(recipe)
    storage = [p.data_ptr() for p in model.params]
    for _ in range(3):
        before, asked = model.bits(), 0
        fixed = [_bits(p) for p in model.fixed]
        for k in model.opt.probes():
            asked += 1
            assert same([_bits(p) for p in model.fixed], fixed), "a group that is not perturbed moved"
            k.backward(model.loss(k))
        assert same(model.bits(), before), "weights away from home after the probes"
        model.opt.step()
        for part, p, old in zip(model.parts, model.params, before, strict=True):
            if part.frozen or part.missing >= set(range(asked)):
                assert p.grad is None
                assert torch.equal(_bits(p), old), "a parameter without a gradient moved"
    assert [p.data_ptr() for p in model.params] == storage


MISHAPS = st.tuples(st.sampled_from(["raise", "break", "hold", "save inside"]), st.integers(0, 3))
EVENTS = st.one_of(st.sampled_from(["closure", "loop", "reload"]), MISHAPS)


@settings(CI, max_examples=EXAMPLES)
@given(recipes(), st.lists(EVENTS, min_size=4, max_size=8))
def test_whatever_happens_between_steps_training_goes_on_as_if_it_had_not(recipe, events):
    model, undisturbed = Model(recipe), Model(recipe)
    open_loops = []
    for event in [*events, "loop"]:
        if event == "reload":
            model = Model(recipe).load(model.checkpoint())
        elif event in ("closure", "loop"):
            model.by_closure() if event == "closure" else model.by_loop()
            undisturbed.by_closure()
        elif not mishap(model, *event, open_loops):
            undisturbed.by_closure()
        if event[0] != "hold":
            assert same(model.bits(), undisturbed.bits()), event


def mishap(model, kind, fatal, open_loops):
    """A step that fails at its probe number `fatal`; False if the method asks for fewer and the step was taken."""
    if kind == "raise":
        try:
            model.by_closure(fatal)
        except MemoryError:
            return True
        return False
    turn = model.opt.probes()
    for k in turn:
        if k == fatal:
            if kind == "save inside":
                model.opt.state_dict()
            if kind == "hold":  # weights stay away until the next event
                open_loops.append(turn)
            return True
        k.backward(model.loss(k))
    model.opt.step()
    return False


# -- what autograd may do ----------------------------------------------------------------------------------------------


def as_vector(p):
    return p.view(-1)


def as_sparse_table(p):
    return nn.functional.embedding(torch.tensor([0, 2, 2]), p, sparse=True)


def two_steps(method, base, view, factor):
    """Two steps of two parameters that only a sum of views matters of, times a factor of nothing or of one."""
    generator = torch.Generator().manual_seed(1)
    params = [nn.Parameter(torch.randn(4, 3, generator=generator)) for _ in range(2)]
    opt = flatmin.FlatOptimizer(BASES[base](params), method, seed=3)
    for _ in range(2):
        home = [_bits(p) for p in params]
        for probe in opt.probes():
            a, b = map(view, params)
            probe.backward((a + (b if factor is None else factor * b)).sin().square().sum())
        assert same([_bits(p) for p in params], home)
        opt.step()
    return params


@pytest.mark.parametrize("view", [as_vector, as_sparse_table])
@pytest.mark.parametrize("base", ["sgd-loop", "ascent"])
@pytest.mark.parametrize("method", every_method(per_example=False))
def test_gradients_may_share_their_memory(method, base, view):
    """Autograd gives both parameters of a sum of views one and the same tensor for a gradient."""
    if view is as_sparse_table and isinstance(method, flatmin.LookSAM | flatmin.AELookSAM):
        pytest.skip("dense directions after sparse ones, which torch's SGD does not take with momentum")
    assert same(two_steps(method, base, view, None), two_steps(method, base, view, 1.0))


@pytest.mark.parametrize("missing", [{0}, {1}, {0, 1}, set()], ids=str)
@pytest.mark.parametrize("method", every_method(per_example=False))
def test_zeroing_in_place_is_noticed_or_harmless(method, missing):
    parts = [Part((3, 2), torch.float64, "plain", False, frozenset(probes), 0) for probes in (missing, ())]
    recipe = Recipe(tuple(parts), ({"perturb": True, "radius_scale": 1.0},), method, "sgd")
    careless, careful = Model(recipe), Model(recipe)
    home, refusal = careless.bits(), None
    try:
        for k in careless.opt.probes():
            for p in careless.params:
                if p.grad is not None:
                    p.grad.zero_()
            k.backward(careless.loss(k))
        careless.opt.step()
    except RuntimeError as error:
        refusal = str(error)
    if refusal is None:
        careful.by_loop()
        assert same(careless.bits(), careful.bits())
    else:
        assert "zeroed in place" in refusal
        assert same(careless.bits(), home)

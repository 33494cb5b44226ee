"""The promises that a method is held to.

Every check is a small training problem and one promise of the engine or of the method. They are ordinary functions, so
a test suite can also run them one by one: `for check in CHECKS: check(method)`.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from torch import Tensor

from flatmin.engine.optimizer import FlatOptimizer
from flatmin.protocol import Method
from flatmin.testing.problem import Problem, backward, per_example

Check = Callable[[Method], None]


def check_method(method: Method, *, gradients: float | None = None) -> None:
    """Check that a method keeps the promises that the engine's users rely on.

    Args:
        method: an instance.
        gradients: how many gradients it asks for in its first step, if that is to be checked, too.

    Raises:
        AssertionError: a promise is broken; the message says which and how.

    Examples:
        >>> from flatmin import SAM
        >>> check_method(SAM(rho=0.1), gradients=2)
    """
    for check in CHECKS:
        check(method)
    if gradients is not None:
        _expect(
            count_gradients(method) == gradients,
            f"asks for {count_gradients(method)} gradients, {gradients} are declared",
            method,
        )


def count_gradients(method: Method) -> int:
    """How many gradients a method asks for in its first step."""
    problem = Problem()
    opt = problem.optimizer(method)
    return sum(1 for _ in problem.probes(opt))


# -- the weights come back --------------------------------------------------------------------------------------------


def weights_come_back(method: Method) -> None:
    """After probes, and after steps at lr = 0, every weight is bit-identical and in its storage, in every dtype."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64):
        problem = Problem(dtype)
        base = torch.optim.SGD([{"params": [p]} for p in problem.weights.values()], lr=0.0, momentum=0.9)
        opt = FlatOptimizer(base, method)
        before, storage = problem.snapshot(), [p.data_ptr() for p in problem.weights.values()]
        moved = False
        for _ in range(3):
            for _ in problem.probes(opt):
                moved |= not _same(problem.snapshot(), before)
            _expect(_same(problem.snapshot(), before), f"{dtype} weights are not restored after the probes", method)
            opt.step()
        after = problem.snapshot()
        finite = all(p.grad is None or bool(p.grad.isfinite().all()) for p in problem.weights.values())
        _expect(not finite or _same(after, before), f"{dtype} weights are not restored at lr = 0", method)
        _expect([p.data_ptr() for p in problem.weights.values()] == storage, "weights changed their storage", method)


def weights_come_back_after_a_failure(method: Method) -> None:
    """An exception at any probe, or Ctrl-C, leaves the weights as they were, and the next step works."""
    for error in (RuntimeError, KeyboardInterrupt):
        for fatal in range(count_gradients(method)):
            problem = Problem()
            opt = problem.optimizer(method)
            before, calls = problem.snapshot(), iter(range(1000))

            def spoil(calls: Iterator[int] = calls, fatal: int = fatal, error: type[BaseException] = error) -> None:
                if next(calls) == fatal:
                    raise error("out of memory")

            with suppress(error):
                problem.step(opt, spoil)
            _expect(_same(problem.snapshot(), before), f"{error.__name__} at probe {fatal} left weights away", method)
            untouched = Problem()
            expected = untouched.train(untouched.optimizer(method), 1)
            _expect(_same(problem.train(opt, 1), expected), f"the step after {error.__name__} differs", method)


def weights_come_back_from_infinity(method: Method) -> None:
    """Infinite gradients may give an infinite direction, but the weights are where they were."""
    problem = Problem()
    opt = problem.optimizer(method)
    before = problem.snapshot()
    for _ in problem.probes(opt, scale=float("inf")):
        pass
    _expect(_same(problem.snapshot(), before), "weights are not restored after infinite gradients", method)


def unused_weights_stay(method: Method) -> None:
    """Parameters without a gradient never move, not even by weight decay, and keep `grad = None`."""
    problem = Problem()
    before = problem.snapshot()
    after = problem.train(problem.optimizer(method), 5)
    for name, a, b in zip(problem.weights, before, after, strict=True):
        if name in ("unused", "frozen"):
            _expect(torch.equal(a, b), f"the {name} parameter moved", method)
            _expect(problem.weights[name].grad is None, f"the {name} parameter has a gradient", method)
        else:
            _expect(not torch.equal(a, b), f"the parameter {name!r} does not train", method)


# -- a step is a step -------------------------------------------------------------------------------------------------


def closure_contract(method: Method) -> None:
    """`step(closure)` needs no backward pass before it and returns the loss of the first probe, or is refused."""
    problem = Problem()
    opt = problem.optimizer(method)
    if per_example(opt):
        _refuses(lambda: opt.step(problem.closure(opt)), "probe.backward(losses", "a closure", method)
        return
    losses: list[Tensor] = []

    def closure() -> Tensor:
        losses.append(problem.closure(opt)())
        return losses[-1]

    returned = opt.step(closure)
    _expect(returned is losses[0], "step(closure) does not return the first loss", method)


def both_forms_agree(method: Method) -> None:
    """The loop over probes and the closure give the same weights, bit for bit."""
    by_closure, by_loop = Problem(), Problem()
    expected = by_closure.train(by_closure.optimizer(method), 3)
    opt = by_loop.optimizer(method)
    for _ in range(3):
        for _ in by_loop.probes(opt):
            pass
        opt.step()
    _expect(_same(by_loop.snapshot(), expected), "the loop form and the closure form differ", method)


def plain_step_is_refused(method: Method) -> None:
    """A backward pass and `step()` alone are an error, and nothing moves."""
    problem = Problem()
    opt = problem.optimizer(method)
    before = problem.snapshot()
    backward(problem.loss())
    _refuses(opt.step, "opt.probes()", "step() without probes", method)
    _expect(_same(problem.snapshot(), before), "a refused step moved weights", method)


def micro_batches_add_up(method: Method) -> None:
    """Two half batches in every probe equal the whole batch, to rounding."""
    whole, halves = Problem(torch.float64), Problem(torch.float64)
    expected = whole.train(whole.optimizer(method), 3)
    opt = halves.optimizer(method)
    for _ in range(3):
        for probe in opt.probes():
            halves.answer(opt, probe, parts=2)
        opt.step()
    for a, b in zip(halves.snapshot(), expected, strict=True):
        _expect(bool((a - b).abs().max() <= 1e-9), "micro-batches differ from the whole batch", method)


def repeats_itself(method: Method) -> None:
    """The same seed gives the same weights, and the global random generator is left alone."""
    torch.manual_seed(3)
    first = Problem()
    expected = first.train(first.optimizer(method), 3)
    after = torch.rand(1)
    torch.manual_seed(3)
    _expect(torch.equal(torch.rand(1), after), "the step consumed global random numbers", method)
    second = Problem()
    _expect(_same(second.train(second.optimizer(method), 3), expected), "two equal runs differ", method)


def zero_gradient_is_finite(method: Method) -> None:
    """A loss without slope gives a finite step."""
    problem = Problem()
    opt = FlatOptimizer(torch.optim.SGD(problem.weights.parameters(), lr=0.1), method)
    for _ in problem.probes(opt, scale=0.0):
        pass
    opt.step()
    _expect(
        all(bool(p.isfinite().all()) for p in problem.snapshot()), "a zero gradient gives a non-finite step", method
    )


def maximizing_mirrors_minimizing(method: Method) -> None:
    """`maximize=True` on minus the loss is minimising the loss."""
    down, up = Problem(), Problem()
    expected = down.train(down.optimizer(method, momentum=0.9), 3)
    opt = up.optimizer(method, momentum=0.9, maximize=True)
    for _ in range(3):
        for _ in up.probes(opt, scale=-1.0):
            pass
        opt.step()
    _expect(_same(up.snapshot(), expected), "maximize=True does not mirror minimising", method)


def learns(method: Method) -> None:
    """Some steps with a falling learning rate lower the loss."""
    problem = Problem()
    start = problem.loss().detach().item()
    opt = problem.optimizer(method, lr=0.04, momentum=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=30)
    for _ in range(30):
        problem.step(opt)
        schedule.step()
    end = problem.loss().detach().item()
    _expect(end < 0.9 * start, f"the loss went from {start:.3f} to {end:.3f}", method)


# -- groups and state -------------------------------------------------------------------------------------------------


def groups_do_not_matter(method: Method) -> None:
    """One group or one per parameter, given at once or added later: the same weights, bit for bit."""
    one = Problem()
    expected = one.train(
        FlatOptimizer(torch.optim.SGD(one.weights.parameters(), lr=0.01, momentum=0.9), method, seed=1), 3
    )
    many = Problem()
    parameters = list(many.weights.values())
    opt = FlatOptimizer(torch.optim.SGD(parameters[:2], lr=0.01, momentum=0.9), method, seed=1)
    for p in parameters[2:]:
        opt.add_param_group({"params": [p]})
    _expect(_same(many.train(opt, 3), expected), "the result depends on the parameter groups", method)


def resumes(method: Method) -> None:
    """Saved and loaded in the middle, through a file read with `weights_only=True`, training goes on bit for bit."""
    for base in (torch.optim.SGD, torch.optim.AdamW):
        straight = Problem()
        expected = straight.train(straight.optimizer(method, base=base), 6)
        first = Problem()
        opt = first.optimizer(method, base=base)
        first.train(opt, 3)
        file = io.BytesIO()
        torch.save([first.weights.state_dict(), opt.state_dict()], file)
        file.seek(0)
        weights, state = torch.load(file, weights_only=True)
        second = Problem()
        second.weights.load_state_dict(weights)
        opt = second.optimizer(method, base=base)
        opt.load_state_dict(state)
        _expect(_same(second.train(opt, 3), expected), f"resuming with {base.__name__} differs", method)


def copies_and_pickles(method: Method) -> None:
    """`copy.deepcopy` and `pickle` of problem and optimizer together go on bit for bit."""
    problem = Problem()
    opt = problem.optimizer(method)
    problem.train(opt, 2)
    twins = [copy.deepcopy((problem, opt)), pickle.loads(pickle.dumps((problem, opt)))]
    expected = problem.train(opt, 3)
    for twin, twin_opt in twins:
        _expect(_same(twin.train(twin_opt, 3), expected), "a copy of the optimizer goes on differently", method)


def shares_checkpoints_with_the_base(method: Method) -> None:
    """A plain base optimizer loads our checkpoint, and we load a plain base's."""
    problem = Problem()
    opt = problem.optimizer(method)
    problem.train(opt, 2)
    plain = torch.optim.SGD(problem.weights.parameters(), lr=1.0, momentum=0.9)
    plain.load_state_dict(opt.state_dict())
    _expect(plain.param_groups[0]["lr"] == 0.01, "a plain base does not load the checkpoint", method)
    opt.load_state_dict(plain.state_dict())
    problem.train(opt, 1)


CHECKS: tuple[Check, ...] = (
    weights_come_back,
    weights_come_back_after_a_failure,
    weights_come_back_from_infinity,
    unused_weights_stay,
    closure_contract,
    both_forms_agree,
    plain_step_is_refused,
    micro_batches_add_up,
    repeats_itself,
    zero_gradient_is_finite,
    maximizing_mirrors_minimizing,
    learns,
    groups_do_not_matter,
    resumes,
    copies_and_pickles,
    shares_checkpoints_with_the_base,
)


def _same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def _refuses(act: Callable[[], object], hint: str, what: str, method: Method) -> None:
    try:
        act()
    except RuntimeError as error:
        _expect(hint in str(error), f"the refusal of {what} does not say what to write", method)
    else:
        raise AssertionError(f"{method!r}: {what} is not refused")


def _expect(condition: bool, problem: str, method: Method) -> None:
    if not condition:
        raise AssertionError(f"{method!r}: {problem}")

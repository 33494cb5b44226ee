"""DistributedDataParallel in real processes: what workers agree on, and what stays their own."""

import functools
import os
import time

import pytest
import torch

import flatmin
from support.ranks import data_parallel, launch
from support.ranks.problem import METHODS, batch, network, optimizer, train

ASCENTS = ("synchronised", "per-worker")

#: One process of the test run has all tests that fork, see support.forked, and starts the ranks once.
pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return launch.run(data_parallel.everything, tmp_path_factory.mktemp("ddp"))


def test_the_group_is_known_to_xdist(request):
    """Otherwise every worker process starts the ranks of its own, and the suite takes minutes longer."""
    if "PYTEST_XDIST_WORKER" in os.environ and request.config.getvalue("loadgroup"):
        assert request.node.nodeid.endswith("@processes")


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def close(left, right):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


# -- synchronised -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [False, True], ids=["own gradients", "bucket views"])
@pytest.mark.parametrize("ascent", ASCENTS)
@pytest.mark.parametrize("name", METHODS)
def test_34_ranks_stay_bit_identical(ranks, name, ascent, views):
    first, second = (rank["trained"][f"{name} {ascent} {views}"] for rank in ranks)
    assert same(first, second)


@functools.cache
def alone(name):
    net = network()
    return train(net, optimizer(net, METHODS[name]), data_parallel.steps(name))


@pytest.mark.parametrize("wrapped", [False, True], ids=["network", "wrapped"])
def test_code_that_only_calls_step(ranks, wrapped):
    net = network()
    expected = train(net, optimizer(net, flatmin.RandomNoise()), 10)
    for rank in ranks:
        close(rank["step alone"][wrapped], expected)


@pytest.mark.parametrize("views", [False, True], ids=["own gradients", "bucket views"])
@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_equal_one_process_with_the_doubled_batch(ranks, name, views):
    close(ranks[0]["trained"][f"{name} synchronised {views}"], alone(name))


# -- estimated gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", data_parallel.ESTIMATORS)
def test_estimates_are_those_of_one_process_and_only_numbers_are_sent(ranks, name):
    """All workers use the directions of the first one's seed."""
    (first, sent), (second, _) = (rank["estimated"][name] for rank in ranks)
    assert same(first, second)
    assert set(sent) == {1}
    net = network()
    opt = optimizer(net, flatmin.SAM(0.1), gradient=data_parallel.ESTIMATORS[name])
    for number in range(5):
        x, y = batch(number)
        opt.step(lambda x=x, y=y: torch.nn.functional.cross_entropy(net(x), y))
    for a, b in zip(first, net.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-6, atol=1e-8)


# -- methods that ask for more -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ascent", ASCENTS)
@pytest.mark.parametrize("name", data_parallel.ASKING)
def test_ranks_agree_where_methods_ask_for_more_than_gradients(ranks, name, ascent):
    first, second = (rank["asking"][f"{name} {ascent}"] for rank in ranks)
    assert same(first, second)


NOTHING_CHOSEN = [name for name in data_parallel.ASKING if name not in ("hardest", "esam", "k-sam")]


@pytest.mark.parametrize("name", NOTHING_CHOSEN)
def test_and_equal_one_process_where_nothing_is_chosen(ranks, name):
    close(ranks[0]["asking"][f"{name} synchronised"], data_parallel.by_probe(network(), data_parallel.ASKING[name]))


def test_a_base_that_reads_the_loss_reads_that_of_all(ranks):
    first, second = (rank["asking"]["koala"] for rank in ranks)
    assert same(first, second)
    close(first, data_parallel.reading(network()))


def test_hard_examples_are_each_workers_own(ranks):
    net = network()
    opt = optimizer(net, flatmin.Plain())
    for number in range(data_parallel.ASKED):
        for _ in opt.probes():
            for rank in range(2):
                x, y = batch(number, rank)
                losses = torch.nn.functional.cross_entropy(net(x), y, reduction="none")
                (losses.topk(4).values.mean() / 2).backward()
        opt.step()
    close(ranks[0]["asking"]["hardest synchronised"], [p.detach() for p in net.parameters()])


# -- per-worker ascent ------------------------------------------------------------------------------------------------


@functools.cache
def by_definition(name, steps):
    """Per-worker ascent in one process, from what the documentation says of it."""
    net = network()
    params = list(net.parameters())
    base = torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-3)

    def gradient(number, rank, delta=None):
        x, y = batch(number, rank)
        there = [p.detach() + (0 if delta is None else d) for p, d in zip(params, delta or params, strict=True)]
        there = [p.requires_grad_() for p in there]
        names = [name for name, _ in net.named_parameters()]
        logits = torch.func.functional_call(net, dict(zip(names, there, strict=True)), (x,))
        return torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y), there)

    def unit(v):
        length = sum(t.square().sum() for t in v).sqrt()
        return [t / length for t in v]

    def mean(vectors):
        return [sum(t) / len(t) for t in zip(*vectors, strict=True)]

    for number in range(steps):
        home = [gradient(number, rank) for rank in range(2)]
        if name == "sam":
            deltas = [[0.1 * t for t in unit(g)] for g in home]
            answer = mean([gradient(number, rank, deltas[rank]) for rank in range(2)])
        else:
            deltas = [unit([p.detach().abs() * t for p, t in zip(params, g, strict=True)]) for g in home]
            stars = mean([gradient(number, rank, deltas[rank]) for rank in range(2)])
            answer = unit([a + b for a, b in zip(mean(home), stars, strict=True)])
        for p, u in zip(params, answer, strict=True):
            p.grad = u
        base.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("views", [False, True], ids=["own gradients", "bucket views"])
@pytest.mark.parametrize("name", ["sam", "pugd"])
def test_per_worker_ascent_is_what_the_documentation_says(ranks, name, views):
    close(ranks[0]["trained"][f"{name} per-worker {views}"], by_definition(name, data_parallel.steps(name)))


@pytest.mark.parametrize("name", ["plain", "ugd", "s-sgd"])
def test_ascent_makes_no_difference_where_no_gradient_perturbs(ranks, name):
    close(ranks[0]["trained"][f"{name} per-worker False"], ranks[0]["trained"][f"{name} synchronised False"])


@pytest.mark.parametrize(("ascent", "differs"), [("synchronised", False), ("per-worker", True)])
def test_34_per_worker_perturbations_really_differ(ranks, ascent, differs):
    first, second = (rank["displaced"][f"sam {ascent} shared"] for rank in ranks)
    assert same(first, second) is not differs
    home = list(network().parameters())
    for place in (first, second):
        length = sum((a - b).square().sum() for a, b in zip(place, home, strict=True)).sqrt()
        assert length.item() == pytest.approx(0.1)


@pytest.mark.parametrize("ascent", ASCENTS)
@pytest.mark.parametrize(("noise", "differs"), [("shared", False), ("per-worker", True)])
def test_noise_is_shared_or_not_whatever_the_ranks_seeds(ranks, ascent, noise, differs):
    first, second = (rank["displaced"][f"s-sgd {ascent} {noise}"] for rank in ranks)
    assert same(first, second) is not differs


@pytest.mark.parametrize(
    ("case", "by_ddp", "by_us"),
    [
        ("plain synchronised", 1, 0),
        ("plain per-worker", 1, 0),
        ("sam synchronised", 2, 0),
        ("sam per-worker", 1, 0),
        ("pugd synchronised", 2, 0),
        ("pugd per-worker", 0, 1),
        ("s-sgd synchronised", 2, 0),
        ("s-sgd per-worker", 0, 1),
        ("head-sam synchronised", 1, 0),
        ("head-sam per-worker", 1, 0),
    ],
)
def test_only_what_must_be_reduced_is_reduced(ranks, case, by_ddp, by_us):
    assert ranks[0]["reductions"][case] == [by_ddp, by_us]


def test_a_method_that_looks_at_numbers_looks_at_the_same_ones_everywhere(ranks):
    first, second = (rank["gated"] for rank in ranks)
    assert same(first["weights"], second["weights"])
    assert first["memory"] == second["memory"]


# -- what else happens in training loops ------------------------------------------------------------------------------


@pytest.mark.parametrize("ascent", ASCENTS)
def test_micro_batches_equal_the_whole_batch(ranks, ascent):
    close(ranks[0]["micro-batches"][f"{ascent} 4"], ranks[0]["micro-batches"][f"{ascent} 1"])


@pytest.mark.parametrize("name", ["sign", *METHODS])
def test_an_overflow_on_one_worker_skips_the_step_on_all(ranks, name):
    assert [rank["overflow"][name] for rank in ranks] == [[512.0, 0, True]] * 2


@pytest.mark.parametrize("ascent", ASCENTS)
@pytest.mark.parametrize("name", ["pugd", "sam", "decay"])
def test_parameters_that_only_some_workers_use(ranks, name, ascent):
    first, second = (rank["lopsided"][f"{name} {ascent}"] for rank in ranks)
    assert same(first, second)
    start = list(data_parallel.Lopsided(0).parameters())
    shared, _, extra, _, _, _, *unused = (not torch.equal(a, b) for a, b in zip(first, start, strict=True))
    assert shared and extra and not any(unused)


def test_sparse_gradients_equal_dense_ones(ranks):
    for rank in ranks:
        close(*rank["sparse"])


@pytest.mark.parametrize("ascent", ASCENTS)
@pytest.mark.parametrize("name", ["sam", "pugd"])
def test_running_statistics_move_as_by_the_base_alone(ranks, name, ascent):
    for rank in ranks:
        close(rank["batchnorm"][f"{name} {ascent}"], rank["batchnorm"]["base synchronised"])


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_step_that_all_workers_left_is_as_if_it_had_not_been(ranks):
    for rank in ranks:
        assert same(*rank["left"])


def test_what_cannot_be_right_is_refused(ranks):
    ascent, noise, noisy, static = ranks[1]["refused"]
    assert "model=DistributedDataParallel(net), ascent='per-worker'" in ascent
    assert "model=DistributedDataParallel(net), noise='per-worker'" in noise
    assert "write noise='shared'" in noisy
    assert "leave static_graph out" in static


def test_a_worker_that_dies_in_a_probe_takes_the_others_with_it(tmp_path):
    start = time.monotonic()
    (first, _, error), (second, _, other) = launch.start(data_parallel.fails_alone, tmp_path).finish()
    assert first != 0 and "rank 0 is out of memory" in error
    assert second != 0 and "Connection" in other
    assert time.monotonic() - start < 45


def test_a_worker_that_fails_and_goes_on_is_stopped(tmp_path):
    (first, _, error), (second, *_) = launch.start(data_parallel.fails_and_goes_on, tmp_path).finish()
    assert first != 0 and "process 0 left a step early" in error
    assert second != 0

"""FSDP2 and tensor parallelism in real processes: as if one process held everything."""

import pytest
import torch
from torch import nn

import flatmin
from flatmin import checkpoint
from support.ranks import launch, sharded
from support.ranks.problem import METHODS, Remembering, network, optimizer, step, train, weights

#: One process of the test run has all tests that fork, see support.forked, and starts the ranks once.
pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return launch.run(sharded.everything, tmp_path_factory.mktemp("fsdp"))


def close(left, right):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def alone(method, steps):
    """The weights that one process with all the data arrives at."""
    net = network()
    return train(net, optimizer(net, method), steps)


@pytest.mark.parametrize("name", sharded.METHODS)
def test_35_two_ranks_equal_one_process(ranks, name):
    for rank in ranks:
        close(rank["trained"][name], alone(sharded.METHODS[name], sharded.STEPS))


@pytest.mark.parametrize("case", ["still", "reduced precision"])
@pytest.mark.parametrize("name", ["pugd", "sam"])
def test_35_without_a_learning_rate_losses_repeat_exactly(ranks, name, case):
    for rank in ranks:
        seen = rank[case][name]
        assert len(set(seen["home"])) == len(set(seen["away"])) == 1
        assert seen["away"][0] > seen["home"][0] + 0.01, "the perturbation must reach the gathered weights"
        assert seen["same"]


def test_layers_that_stay_gathered_see_the_perturbation(ranks):
    close(ranks[0]["kept gathered"], alone(flatmin.PUGD(), 10))


def test_norms_are_global(ranks):
    assert [rank["length"] for rank in ranks] == [pytest.approx(0.1, rel=1e-12)] * 2


def test_an_overflow_in_one_shard_skips_the_step_on_all(ranks):
    assert [rank["overflow"] for rank in ranks] == [[[512.0, 0, True], [512.0, 1, False]]] * 2


def test_closures(ranks):
    close(ranks[0]["closure"], ranks[0]["trained"]["pugd"])


def test_code_that_only_calls_step(ranks):
    for rank in ranks:
        close(rank["step alone"], alone(sharded.METHODS["rwp"], 10))


def test_tensor_parallelism(ranks):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10)).double()
    close(ranks[0]["tensor parallel"], train(net, optimizer(net, METHODS["pugd"]), 10))


def test_per_worker_modes_and_fsdp1_are_refused(ranks):
    ascent, noise, *fsdp1 = ranks[0]["refused"]
    assert "sharded parameters (fully_shard, DTensor) are one set; leave ascent out" in ascent
    assert "sharded parameters (fully_shard, DTensor) are one set; leave noise out" in noise
    assert len(fsdp1) == 2 and all("fully_shard(net)" in message for message in fsdp1)


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_two_ranks_goes_on_bit_for_bit_on_two_and_by_way_of_one(tmp_path):
    for name in ("save", "same", "back"):
        (tmp_path / name).mkdir()
    expected = launch.run(sharded.save, tmp_path / "save", tmp_path)
    assert_equal(launch.run(sharded.load, tmp_path / "same", tmp_path / "by two"), expected)

    net = network()
    opt = optimizer(net, Remembering())
    checkpoint.load(tmp_path / "by two", net, opt)
    assert (opt.steps, opt.seed, opt.memory["t"]) == (4, 5, 4)
    checkpoint.save(tmp_path / "by one", net, opt)
    assert_equal(launch.run(sharded.load, tmp_path / "back", tmp_path / "by one"), expected)

    for number in range(4, 8):
        step(net, opt, number)
    close(weights(net), expected[0])


def assert_equal(ranks, expected):
    for rank, weights_of_rank in zip(ranks, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(rank, weights_of_rank, strict=True))


@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.Adafactor])
def test_a_checkpoint_of_one_process_goes_on_bit_for_bit(tmp_path, base):
    def fresh():
        net = network()
        return net, flatmin.FlatOptimizer(base(net.parameters(), lr=0.01), Remembering(), seed=1)

    net, opt = fresh()
    train(net, opt, 3)
    checkpoint.save(tmp_path / "a", net, opt)
    other, other_opt = fresh()
    step(other, other_opt, 99)  # its state and its gradients do not matter
    checkpoint.load(tmp_path / "a", other, other_opt)
    for number in range(3, 6):
        step(net, opt, number)
        step(other, other_opt, number)
    assert_equal([weights(other)], [weights(net)])


def test_checkpoints_are_neither_overwritten_nor_read_half_written(tmp_path):
    net = network()
    opt = optimizer(net, flatmin.PUGD())
    checkpoint.save(tmp_path / "a", net, opt)
    with pytest.raises(FileExistsError, match="write each one to a new folder"):
        checkpoint.save(tmp_path / "a", net, opt)
    (tmp_path / "a" / ".metadata").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks \.metadata"):
        checkpoint.load(tmp_path / "a", net, opt)

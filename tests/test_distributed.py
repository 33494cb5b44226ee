"""DistributedDataParallel in real processes: gradients are averaged over the ranks at every probe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distributed_worker import METHODS, network, train

WORKER = Path(__file__).with_name("distributed_worker.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The final weights of two ranks, for every method, without and with gradients as views of buckets."""
    folder = tmp_path_factory.mktemp("ddp")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), "2", str(folder / "rendezvous"), str(folder / f"{rank}.pt")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("views", [False, True], ids=["own gradients", "bucket views"])
@pytest.mark.parametrize("name", METHODS)
def test_ranks_stay_bit_identical(ranks, name, views):
    first, second = (rank[f"{name} {views}"] for rank in ranks)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("views", [False, True], ids=["own gradients", "bucket views"])
@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_equal_one_process_with_the_doubled_batch(ranks, name, views):
    net = network()
    for a, b in zip(ranks[0][f"{name} {views}"], train(net, net, METHODS[name], 30), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)

"""Several processes give what one gives: started by torchrun once, otherwise as torchrun would, but in no time."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from flatmin import cli
from flatmin.study.config import Run
from flatmin.study.training import record
from flatmin.study.training.loop import train
from support.forked import Ranks
from support.ranks.launch import ABORT

#: One process of the test run has all tests that fork, see support.forked, and starts the ranks once.
pytestmark = pytest.mark.xdist_group("processes")

#: As COMMAND, below.
RUN = Run(
    "sam",
    {"lr": 0.05},
    noise=0.4,
    epochs=3,
    model="small-vit",
    batch_size=128,
    augment="crop-flip",
    subset=512,
    evaluations=8,
)
COMMAND = ["train", "sam", "--settings", "lr=0.05", "--noise", "0.4", "--epochs", "3", "--model", "small-vit"]
COMMAND += ["--batch-size", "128", "--augment", "crop-flip", "--subset", "512", "--evaluations", "8"]


@pytest.fixture(scope="module")
def alone():
    """The result and the rows of this process."""
    rows = []
    return train(RUN, rows.append), rows


def assert_as_alone(folder, alone):
    """The numbers of the processes are those of one, up to the order of sums."""
    expected, rows = alone
    run, together = record.read(folder)
    assert run == record.complete(RUN)
    for a, b in zip(record.metrics(folder), rows, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
        assert a["gradient_evaluations"] == b["gradient_evaluations"]
    assert together.test == pytest.approx(expected.test, abs=0.02)


def test_two_processes_with_half_the_weights_train_as_one(tmp_path, alone):
    """A network without BatchNorm, whose statistics would be those of half a batch."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "flatmin", *COMMAND, "--shard", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(3):
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        if ABORT not in ended.stderr:
            break
        shutil.rmtree(tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    assert_as_alone(tmp_path / "run", alone)
    assert ended.stdout.count("epoch 3: loss") == 1, "one process speaks for all"


def test_both_stop_together_and_go_on_as_one_would(tmp_path, alone):
    command = [*COMMAND, "--out", str(tmp_path / "run")]
    ranks = Ranks(cli.main, command)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert all(process.poll() is None for process in ranks.processes), ranks.finish()
        time.sleep(0.02)
    for process in ranks.processes:
        process.send_signal(signal.SIGTERM)
    ended = ranks.finish()
    assert [code for code, *_ in ended] == [130, 130], ended
    assert (tmp_path / "run" / "checkpoint.pt").exists(), ended
    ended = Ranks(cli.main, command).finish()
    assert all(code == 0 or ABORT in errors for code, _, errors in ended), ended
    assert len(record.metrics(tmp_path / "run")) == 8
    assert_as_alone(tmp_path / "run", alone)

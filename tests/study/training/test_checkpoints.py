"""A run that is broken off goes on to the same numbers, wherever it was, and whatever became of its files."""

import dataclasses
import errno
import itertools
import os
import random
import signal
import time

import pytest
import torch

from flatmin.study import files
from flatmin.study.config import Run
from flatmin.study.data.dataset import load_dataset
from flatmin.study.minima import trained_network
from flatmin.study.networks.fast import Whitening
from flatmin.study.tasks.runs import perform
from flatmin.study.training import checkpoints, record, schedule, snapshots
from flatmin.study.training.checkpoints import Checkpoints
from flatmin.study.training.loop import evaluate, train
from flatmin.study.training.snapshots import Snapshots
from support.forked import Forked
from support.runs import perform_saving_always

#: One process of the test run has all tests that fork, see support.forked, and starts the ranks once.
pytestmark = pytest.mark.xdist_group("processes")

RUN = Run("s-sgd", noise=0.4, epochs=4, average="ema", micro_batches=2, augment="crop-flip-cutout", warmup=0.2)


def numbers(folder):
    """What a run gave, without the clock."""
    result = files.read_json(folder / "result.json")
    rows = record.metrics(folder)
    for row in [result, *rows]:
        del row["seconds"]
    del result["environment"]
    return result, rows


#: With everything that is not the default elsewhere: a fixed layer, flips that alternate, half precision.
FAST = Run(
    "pugd@nesterov",
    {"lr": 0.05},
    subset=120,
    batch_size=20,
    epochs=3,
    model="fast-cifar-s",
    augment="translate-flip",
    schedule="linear",
    decay_vectors=False,
    precision="bfloat16",
    flip_at_test=True,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    perform(RUN, folder)
    return numbers(folder)


def stop_after(monkeypatch, steps):
    """Ask a run to stop after some more steps."""
    counter = itertools.count(1)
    original = schedule.rate

    def rate(*args):
        if next(counter) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(schedule, "rate", rate)


@pytest.mark.parametrize("steps", [1, 7, 16, 33])
def test_a_run_that_was_asked_to_stop_goes_on_to_the_same_numbers(tmp_path, monkeypatch, whole, steps):
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(KeyboardInterrupt):
            perform(RUN, tmp_path)
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "result.json").exists()
    perform(RUN, tmp_path)
    assert numbers(tmp_path) == whole
    assert not list(tmp_path.glob("checkpoint*"))


def test_a_fast_run_that_was_asked_to_stop_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    for folder, steps in ((tmp_path / "whole", None), (tmp_path / "stopped", 9)):
        with monkeypatch.context() as patch:
            if steps:
                stop_after(patch, steps)
                with pytest.raises(KeyboardInterrupt):
                    perform(FAST, folder, weights=Snapshots(folder))
        perform(FAST, folder, weights=Snapshots(folder))
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "stopped")
    whole, stopped = (snapshots.read(tmp_path / name / snapshots.FILE) for name in ("whole", "stopped"))
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in whole.items())
    one = trained_network.of_run(tmp_path / "whole")  # as measures and pictures see it
    digits = load_dataset("digits", subset=120)
    assert evaluate(one.net, digits, digits.test, training=FAST) == numbers(tmp_path / "whole")[0]["test_accuracy"]
    layer = Whitening(1)
    layer.start_from(digits.sample())
    assert torch.equal(one.net[0].weight, layer.weight) and torch.equal(whole["0.weight"], layer.weight)


def saved(folder):
    """When the last checkpoint was written; None if there is none."""
    try:
        return (folder / "checkpoint.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def test_a_run_that_is_killed_again_and_again_goes_on_to_the_same_numbers(tmp_path, whole):
    moments, kills = random.Random(0), 0
    folder = tmp_path / "run"
    while not (folder / "result.json").exists():
        before = saved(folder)
        process = Forked(perform_saving_always, RUN, folder)
        while process.poll() is None and saved(folder) == before:  # until it has gone on from where it was killed
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.1))
        kills += process.poll() is None and kills < 4
        if kills < 4:
            process.kill()
        process.wait()
    assert kills >= 3
    assert numbers(folder) == whole


@pytest.fixture
def two(tmp_path):
    """Two checkpoints."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save({"step": step, "weights": torch.full((1000,), float(step))})
    return checkpoints


def test_the_newest_checkpoint_is_read(two):
    assert two.load()["step"] == 2


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "gone"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(tmp_path, two, damage):
    path = tmp_path / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
        assert two.load()["step"] == 1
        return
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-100], "bit": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is damaged and is not used"):
        assert two.load()["step"] == 1


def test_without_a_whole_checkpoint_a_run_begins_anew(tmp_path, whole):
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="is damaged"):
        perform(RUN, tmp_path)
    assert numbers(tmp_path) == whole


def test_a_full_disk_is_a_clear_error_and_keeps_the_last_checkpoint(tmp_path, two, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(OSError, match=r"no room for a checkpoint of .* MB; the last one is kept"):
        two.save({"step": 3})
    assert two.load()["step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


def test_checkpoints_of_another_run_are_not_continued(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            perform(RUN, tmp_path)
    other = dataclasses.replace(RUN, seed=1)
    perform(other, tmp_path)
    result, _ = numbers(tmp_path)
    assert result["validation_accuracy"] == train(other).validation

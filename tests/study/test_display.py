"""One training as its user sees it: a bar that lives, lines in a log file, TensorBoard without a row twice."""

import itertools
import json
import os
import signal
import sys
import time

import pytest
import torch
from rich.console import Console

from flatmin import cli
from flatmin.study import display, progress
from flatmin.study.config import Run
from flatmin.study.display import train_and_show
from flatmin.study.training import record, schedule
from flatmin.study.training.loop import train
from flatmin.study.training.schedule import Schedule
from flatmin.study.training.torchrun import Processes

RUN = Run("sgd", epochs=4, micro_batches=2)
SCHEDULE = Schedule.of(RUN, 1078, 1)


class Loss:
    """A part's loss that counts how often somebody looks: on a GPU that is to wait for it."""

    looks = 0

    def __getitem__(self, index):
        assert index == 0
        Loss.looks += 1
        return 0.25


@pytest.fixture(autouse=True)
def nobody_looked():
    Loss.looks = 0


def test_a_bar_shows_step_epoch_loss_pace_and_time_left(capsys):
    with display.StepDisplay(Console(force_terminal=True, width=100)) as watch:
        for step in range(1, 41):
            watch(step, SCHEDULE, [Loss(), Loss()] * step)
            time.sleep(0.005)
    out = capsys.readouterr().out
    assert "preparing" in out
    assert "of 4" in out and "/64" in out and "loss 0.5000" in out and "steps/s" in out and " left" in out
    assert Loss.looks == 2, "one look in a second, at the two parts of one step"


def test_a_bar_changes_ten_times_a_second_at_most(monkeypatch):
    with display.StepDisplay(Console(force_terminal=True, quiet=True, width=100)) as watch:
        changes = []
        monkeypatch.setattr(watch._bar, "update", lambda *args, **options: changes.append(options["completed"]))
        began = time.monotonic()
        for step in range(1, 2001):
            watch(step, SCHEDULE, [Loss(), Loss()])
        assert 1 <= len(changes) <= 1 + (time.monotonic() - began) / 0.1


def test_a_run_that_goes_on_shows_its_own_pace(monkeypatch, capsys):
    clock = itertools.count(100.0, 2.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    with display.StepDisplay(Console(force_terminal=False, width=100)) as watch:
        for step in (33, 34):
            watch(step, SCHEDULE, [Loss(), Loss()])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "step 33 of 64, epoch 2.1 of 4"
    assert second == "step 34 of 64, epoch 2.1 of 4, loss 0.5000, 0.25 steps/s, 2:00 left"


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch, capsys, tmp_path):
    train_and_show(RUN, tmp_path / "quick", Processes(), Console(force_terminal=False, width=80))
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [f"epoch {n}" for n in range(1, 5)]
    monkeypatch.setattr(progress, "PAUSE", -1.0)
    train_and_show(RUN, tmp_path / "slow", Processes(), Console(force_terminal=False, width=80))
    out = capsys.readouterr().out
    assert out.count("\nstep ") == 63 and "\nstep 32 of 64, epoch 2.0 of 4, " in out


# -- TensorBoard -------------------------------------------------------------------------------------------------------


def events(folder):
    """Every scalar in the event files: name -> [(gradient evaluations, value)]."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def expected(folder):
    rows = record.metrics(folder)
    names = [name for name in rows[0] if name != "gradient_evaluations"]
    return {name: [(row["gradient_evaluations"], pytest.approx(row[name])) for row in rows] for name in names}


def test_tensorboard_holds_the_rows_once_however_often_the_run_was_stopped(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    console = Console(quiet=True)
    for stop_at in (20, 25):
        steps, rate = itertools.count(1), schedule.rate
        with monkeypatch.context() as patch:

            def stopping(*args, steps=steps, rate=rate, stop_at=stop_at):
                if next(steps) == stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)
                return rate(*args)

            patch.setattr(schedule, "rate", stopping)
            with pytest.raises(KeyboardInterrupt):
                train_and_show(RUN, tmp_path, Processes(), console, tensorboard=True)
        assert len(events(tmp_path / "tensorboard")["train_loss"]) == (1 if stop_at == 20 else 2)
    train_and_show(RUN, tmp_path, Processes(), console, tensorboard=True)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3
    assert events(tmp_path / "tensorboard") == expected(tmp_path)
    assert record.read(tmp_path)[0] == record.complete(RUN)
    assert record.read(tmp_path)[1].validation == train(RUN).validation


def test_a_finished_run_gets_its_tensorboard_later(tmp_path):
    pytest.importorskip("tensorboard")
    train_and_show(RUN, tmp_path, Processes(), Console(quiet=True))
    before = json.dumps(record.metrics(tmp_path))
    assert not (tmp_path / "tensorboard").exists()
    train_and_show(RUN, tmp_path, Processes(), Console(quiet=True), tensorboard=True)
    assert events(tmp_path / "tensorboard") == expected(tmp_path)
    assert json.dumps(record.metrics(tmp_path)) == before


def test_a_loss_that_is_not_finite_is_left_out(tmp_path):
    pytest.importorskip("tensorboard")
    train_and_show(Run(settings={"lr": 1e30}), tmp_path, Processes(), Console(quiet=True), tensorboard=True)
    found = events(tmp_path / "tensorboard")
    assert "train_loss" not in found and len(found["validation_accuracy"]) == 1


def test_without_the_package_the_line_to_type_is_named_and_nothing_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)
    with pytest.raises(SystemExit) as error:
        cli.main(["train", "sgd", "--tensorboard", "--out", str(tmp_path / "run")])
    assert error.value.code == 2 and not (tmp_path / "run").exists()
    assert "pip install 'flatmin[tensorboard]'" in capsys.readouterr().err

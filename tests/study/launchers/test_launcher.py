"""What comes of a job: the record, or the traceback of the error that ended it."""

import os
import pickle
from pathlib import Path

import pytest

from flatmin.commands.study_options import Where
from flatmin.study import files
from flatmin.study.config import Run, Study
from flatmin.study.data import text
from flatmin.study.launchers.launcher import ERROR, Job, attempt, complete
from flatmin.study.launchers.local import Local
from flatmin.study.launchers.on_ray import OnRay
from flatmin.study.pool import RunError
from flatmin.study.search import tuner
from flatmin.study.tasks import runs
from flatmin.study.tasks.outcome import NotFiniteError, TaskError
from flatmin.study.tasks.runs import task_of
from flatmin.study.training import record

RUN = Run("sgd", {"lr": 0.05}, epochs=1, subset=64)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ArithmeticError("no convergence"), "unknown"),
        (NotFiniteError("test is nan"), "settings"),
        (TaskError("Outcome lacks test"), "circumstances"),
        (OSError(28, "No space left"), "circumstances"),
    ],
)
def test_a_run_that_fails_leaves_its_traceback_until_it_is_done(error, cause, tmp_path, monkeypatch):
    job = Job(RUN, tmp_path / "run")

    def failing(run, folder):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(runs, "perform", failing)
        failure = attempt(job)
    assert failure.error == f"{type(error).__name__}: {error}" and failure.cause == cause
    assert (job.folder / ERROR).read_text() == failure.traceback
    assert failure.traceback.startswith("Traceback") and "in failing\n" in failure.traceback
    if cause == "unknown":
        assert attempt(job) is None and not (job.folder / ERROR).exists()
        assert record.holds(job.folder, RUN)


def test_jobs_are_asked_for_one_after_the_other(tmp_path):
    asked = []

    def jobs():
        for name in "abc":
            asked.append(name)
            yield Job(RUN, tmp_path / name)

    with Local(1).start(Study()) as launch:
        for number, (job, failure) in enumerate(launch(jobs(), 3), start=1):
            assert failure is None and len(asked) == number and record.holds(job.folder, RUN)


def test_a_failure_ends_a_study_with_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "perform", lambda run, folder: 1 / 0)
    with Local(1).start(Study()) as launch, pytest.raises(RunError, match=r"(?s)while at .*/run:.*ZeroDivisionError"):
        list(complete(launch([Job(RUN, tmp_path / "run")], 1)))


def test_a_run_that_fails_ends_its_trial(tmp_path, monkeypatch):
    study = Study(methods=("sgd",), arms=("tuned",), noise=(0.0,), seeds=1, epochs=1, subset=64, tune=2, tune_seeds=3)
    begun, perform = [], runs.perform

    def failing(run, folder):
        begun.append(folder.relative_to(tmp_path).as_posix())
        if "trial-001" in begun[-1] and run.seed == 1001:
            raise ArithmeticError("boom")
        perform(run, folder)

    monkeypatch.setattr(runs, "perform", failing)
    (found,) = tuner.search(study, tmp_path)["conditions"]
    assert [trial.get("error") for trial in found["contenders"]["sgd"]["trials"]] == [None, "ArithmeticError: boom"]
    where = "tune/trial-00{}/noise-0.0/sgd/seed-{}".format
    assert begun == [where(0, 1000), where(0, 1001), where(0, 1002), where(1, 1000), where(1, 1001)]
    assert (tmp_path / where(1, 1001) / ERROR).read_text().endswith("ArithmeticError: boom\n")


def test_a_worker_that_outlives_its_parent_for_a_moment_disturbs_nobody(tmp_path):
    runs.perform(RUN, tmp_path / "alone")
    (tmp_path / "run").mkdir()
    with (tmp_path / "run/metrics.jsonl").open("w") as file:  # as the worker has it open
        runs.perform(RUN, tmp_path / "run", show=lambda row: print("{}", file=file, flush=True))
    rows = [[{**row, "seconds": 0} for row in record.metrics(tmp_path / name)] for name in ("alone", "run")]
    assert rows[0] == rows[1] and rows[0]


# -- Ray, without a cluster --------------------------------------------------------------------------------------------


def test_ray_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'ray is not installed; write pip install "flatmin\[ray\]"'):
        OnRay()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cores": 0}, "jobs must be >= 1, got 0"),
        ({"cpus_per_run": 0.0}, "cpus_per_run must be > 0, got 0.0"),
        ({"gpus_per_run": -1.0}, "gpus_per_run must be >= 0, got -1.0"),
    ],
)
def test_bad_numbers_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        OnRay(**given)


def test_the_command_line_says_where(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert Where(jobs=3).launcher() == Local(3)
    assert Where(jobs=3, ray=()).launcher() == OnRay("", 3)
    assert Where(jobs=3, ray=("auto",), gpus_per_run=0.25).launcher() == OnRay("auto", 3, 1.0, 0.25)
    with pytest.raises(ValueError, match="--ray takes one address, got auto more"):
        Where(ray=("auto", "more")).launcher()
    with pytest.raises(ValueError, match="--cpus-per-run and --gpus-per-run are for a Ray cluster; write --ray"):
        Where(gpus_per_run=0.5).launcher()


def test_the_content_of_a_folder_can_be_replaced(tmp_path, monkeypatch):
    written, replace = [], os.replace
    monkeypatch.setattr(files.os, "replace", lambda old, new: (written.append(new.name), replace(old, new)))
    (tmp_path / "old").mkdir()
    for name in ("result.json", "checkpoint.pt", ".lock"):
        (tmp_path / "old" / name).write_text(name)
    new = {"config.toml": b"1", "result.json": b"2", "path/step-0.pt": b"3", "weights.pt": b"4"}
    files.replace_content(tmp_path / "old", new, last="result.json")
    assert files.content(tmp_path / "old") == new and (tmp_path / "old/.lock").exists()
    assert files.content(tmp_path / "nowhere") == {} and written[-1] == "result.json" and len(written) == 4


def test_texts_are_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "_REMEMBERED", {})
    paths = [str(tmp_path / name) for name in ("one", "two")]
    for path in paths:
        Path(path).write_text("to be or not to be, " * 40)
    study = Study(task="text", methods=("adamw",), noise=(0.0,), data=paths[0], then=paths[1])
    begin = pickle.loads(pickle.dumps(task_of("text").shipped(study, data=False)))
    known = text.load(*paths)
    for path in paths:
        Path(path).unlink()
    begin()
    assert text.load(*paths) is known

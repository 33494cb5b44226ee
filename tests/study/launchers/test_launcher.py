"""What comes of a job: the record, or the traceback of the error that ended it."""

import pytest

from flatmin.study.config import Run, Study
from flatmin.study.launchers.launcher import ERROR, Job, attempt, complete
from flatmin.study.launchers.local import Local
from flatmin.study.pool import RunError
from flatmin.study.search import tuner
from flatmin.study.tasks import runs
from flatmin.study.tasks.outcome import NotFiniteError, TaskError
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

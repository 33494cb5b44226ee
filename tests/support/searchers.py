"""Processes that search on their own, in the folder `out` below that of the test."""

import contextlib
import os
import time
from pathlib import Path

from flatmin.study import config
from flatmin.study.search import tuner
from flatmin.study.tasks import runs
from support import forked
from support.forked import Forked


def search(folder, ready, count, hang):
    """Search when `count` processes are ready; note what it begins in the log; hang at a run named like `hang`.

    No run goes on before each process has begun one, however busy the machine is.
    """
    perform = runs.perform

    def spy(run, out):
        with (folder / "log").open("a") as file:
            print(os.getpid(), out, file=file)
        while len({pid for pid, _ in begun(folder)}) < count:
            time.sleep(0.01)
        time.sleep(600 if hang and hang in str(out) else 0.1)
        perform(run, out)

    runs.perform, tuner.PAUSE = spy, 0.05
    (ready / str(os.getpid())).touch()
    while len(os.listdir(ready)) < count:
        time.sleep(0.01)
    tuner.search(config.load(config.Study, folder / "study.toml"), folder / "out")


@contextlib.contextmanager
def starter(tmp_path):
    """What starts one process per argument, which hangs there; none of them outlives the block."""
    started = []

    def start(study, *hangs):
        ready = tmp_path / f"ready-{len(started)}"
        ready.mkdir()
        config.save(study, tmp_path / "study.toml")
        now = [Forked(search, tmp_path, ready, len(hangs), hang) for hang in hangs]
        started.extend(now)
        return now

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()


def begun(tmp_path):
    """(process, run folder) of every run that was begun, in order."""
    log = tmp_path / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(line.split()[0]), Path(line.split()[1])) for line in lines]


def wait_until(condition, processes):
    deadline = time.monotonic() + forked.PATIENCE
    while not condition():
        assert time.monotonic() < deadline and not any(process.poll() for process in processes)
        time.sleep(0.02)

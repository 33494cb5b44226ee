"""Processes of their own that start at once: they are forked from one that has imported torch.

A fresh interpreter takes seconds to import what a study needs. The pool of studies forks its workers for the same
reason, and from the same process: whoever needs it first starts it.
"""

import functools
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.util
import os
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from subprocess import TimeoutExpired

import torch
import torch.distributed as dist

from flatmin.study import pool

#: What is imported once, beside what the pool needs.
pool.PRELOADED += ["flatmin.commands", "flatmin.study.search.tuner", "flatmin.checkpoint", "torch.distributed.fsdp"]
pool.PRELOADED += ["torch.distributed.tensor.parallel", "scipy.stats", "optuna", "tyro"]


#: Seconds that a process may take where a test waits for its end; a machine may be busy.
PATIENCE = 250


class Forked:
    """An importable function in a process and a process group of its own; used like `subprocess.Popen`.

    It does not outlive this object.

    Args:
        function: what to run.
        *args: its arguments.
        environment: variables that it has beside those of this process.
        folder: its working folder; that of this process by default.
    """

    def __init__(self, function, *args, environment=None, folder=None):
        context = multiprocessing.get_context("forkserver" if pool.FORKS else "spawn")
        context.set_forkserver_preload(pool.PRELOADED)
        self._said = Path(tempfile.mkdtemp())
        variables = {**os.environ, **(environment or {})}
        inside = self._said, variables, str(folder or os.getcwd()), function, args
        self._process = context.Process(target=_run, args=inside)
        self._process.start()
        self.pid = self._process.pid
        # Before Python waits for it when this process ends, as it would after a test that failed.
        multiprocessing.util.Finalize(self, _end, (self._process, self._said), exitpriority=0)

    @property
    def returncode(self):
        """Exit code, minus the signal that ended it, or None while it runs."""
        return self._process.exitcode

    poll = returncode.fget

    def wait(self):
        """The exit code, once it has ended."""
        self._process.join(PATIENCE)
        if self.returncode is None:
            raise TimeoutExpired(str(self._process), PATIENCE)
        return self.returncode

    def communicate(self):
        """(stdout, stderr), once it has ended."""
        self.wait()
        return self.said()

    def said(self):
        """(stdout, stderr) so far."""
        return tuple(path.read_text() if path.exists() else "" for path in (self._said / "out", self._said / "errors"))

    def send_signal(self, number):
        """Nothing, if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """At once."""
        self.send_signal(signal.SIGKILL)


def _end(process, said):
    if process.exitcode is None:
        process.kill()
    shutil.rmtree(said, ignore_errors=True)


def _run(said, variables, folder, function, args):
    os.setpgid(0, 0)
    for name, stream in (("out", sys.stdout), ("errors", sys.stderr)):
        with (said / name).open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # Its own workers are forked from where it was, not from another such process, and belong to its group.
    multiprocessing.forkserver._forkserver.ensure_running = lambda: None
    pool._work = functools.partial(_work, os.getpid())
    function(*args)


def _work(group, *args):
    os.setpgid(0, group)
    pool._work(*args)


class Ranks:
    """A function in several processes that can form a process group, as `torchrun` starts them.

    Args:
        function: what each runs.
        *args: its arguments.
        world: number of processes.
        folder: their working folder.
    """

    def __init__(self, function, *args, world=2, folder=None):
        self._store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        shared = {
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(self._store.port),
            "OMP_NUM_THREADS": "1",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_RUN_ID": "none",
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is in this process
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
        }
        self.processes = [
            Forked(function, *args, environment={**shared, "RANK": rank, "LOCAL_RANK": rank}, folder=folder)
            for rank in map(str, range(world))
        ]

    def finish(self):
        """(exit code, stdout, stderr) of each rank; none of them outlives this call."""
        try:
            said = [process.communicate() for process in self.processes]
            return [(process.returncode, *each) for process, each in zip(self.processes, said, strict=True)]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

"""Run many tasks on a few worker processes.

Each worker is started once and gets one task after another through its own pipe. `concurrent.futures` does not fit:
when the parent is killed, its workers stay alive and keep writing.

Importing torch takes seconds. So a helper process imports it once, and workers are forked from there, where the system
can do that. It runs nothing else, so no thread of torch's or of a library's holds a lock when it forks, unlike this
process.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

#: Torch threads per process. More would compete for the cores, and would sum in another order.
THREADS = 1

#: Makes the Hugging Face libraries use only local files. The parent has fetched everything before workers start: data
#: must not change during a study, and a network failure must not end one.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

#: Whether workers are forked from a helper process, and what it has imported.
FORKS = "forkserver" in multiprocessing.get_all_start_methods()
PRELOADED = ["flatmin.study.launchers.local", "torch._dynamo"]  # the first optimizer needs the last

Task = TypeVar("Task", bound=tuple[Any, ...])
Answer = TypeVar("Answer")


class RunError(RuntimeError):
    """A task raised, or its worker process died."""


def run_all(
    function: Callable[..., Answer], tasks: Iterable[Task], jobs: int, begin: Callable[[], None] | None = None
) -> Generator[tuple[Task, Answer], None, None]:
    """Call `function(*task)` for every task on `jobs` processes, one torch thread each; yield what is done.

    With one job, the tasks run in this process. Closing the iterator, an exception or SIGINT ends the workers. A worker
    whose parent dies exits. Workers are `OFFLINE`.

    Args:
        function: an importable function.
        tasks: the arguments of each call. The next one is asked for when a process is free.
        jobs: number of processes, >= 1; as many as there are tasks are started.
        begin: called first in every worker; not in this process.

    Yields:
        Tasks and what their calls returned, as they finish.

    Raises:
        RunError: a task raised or its process died. The message has the task and the traceback.
    """
    waiting = iter(tasks)
    if jobs <= 1:
        with few_threads():
            for task in waiting:
                try:
                    answer = function(*task)
                except Exception:
                    raise RunError(f"while at {task}:\n{traceback.format_exc()}") from None
                yield task, answer
        return

    workers: list[tuple[BaseProcess, Connection]] = []
    busy: dict[Connection, tuple[BaseProcess, Task]] = {}

    def hand_out(process: BaseProcess, connection: Connection, task: Task) -> None:
        busy[connection] = process, task
        with contextlib.suppress(OSError):  # the worker is dead; `_answer` reports it
            connection.send(task)

    try:
        for task in itertools.islice(waiting, jobs):
            workers.append(_start(function, begin))
            hand_out(*workers[-1], task)
        while busy:
            ready: list[Any] = wait(list(busy))
            for connection in ready:
                process, task = busy.pop(connection)
                failure, answer = _answer(process, connection)
                if failure is not None:
                    raise RunError(f"while at {task}:\n{failure}")
                for following in itertools.islice(waiting, 1):
                    hand_out(process, connection, following)
                yield task, answer
    finally:
        for process, connection in workers:
            connection.close()
            process.terminate()
        for process, _ in workers:
            process.join()


def _start(function: Callable[..., Any], begin: Callable[[], None] | None) -> tuple[BaseProcess, Connection]:
    """Start a worker; return it with the parent's end of its pipe."""
    context = multiprocessing.get_context("forkserver") if FORKS else multiprocessing.get_context("spawn")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe()
    with _ignore_sigint(), environment(OFFLINE):
        process = context.Process(target=_work, args=(dict(os.environ), function, begin, theirs), daemon=True)
        process.start()
    theirs.close()
    return process, ours


def _answer(process: BaseProcess, connection: Connection) -> tuple[str | None, Any]:
    """The error of a worker's task, or None and what the task returned."""
    try:
        answer: tuple[str | None, Any] = connection.recv()
    except (EOFError, OSError):
        process.join()
        return f"the worker process died (exit code {process.exitcode})", None
    return answer


def _work(
    environment: dict[str, str], function: Callable[..., Any], begin: Callable[[], None] | None, connection: Connection
) -> None:
    """The main function of a worker: receive a task, send (traceback or None, answer), until the pipe is closed."""
    os.environ.clear()
    os.environ.update(environment)  # the process that this one was forked from may be older than a variable
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin()
    with few_threads():
        while True:
            try:
                task = connection.recv()
            except EOFError:
                return
            try:
                answer = function(*task)
            except KeyboardInterrupt:  # the task was asked to stop and has saved its state
                return
            except Exception:
                connection.send((traceback.format_exc(), None))
            else:
                connection.send((None, answer))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _ignore_sigint() -> Iterator[None]:
    """Processes started in this block ignore SIGINT from their first instruction; the parent handles it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes started in this block have these variables before they import anything."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def few_threads() -> Iterator[None]:
    """Torch uses `THREADS` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)

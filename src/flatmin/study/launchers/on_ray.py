"""Runs on a Ray cluster: one task per run, on this machine or on many.

This process alone writes the study's folder. A task is given the content of a run's folder and returns it as it is
after the run, so no disk need be shared. It starts with what an earlier attempt has left, such as a checkpoint.

Ray is told to retry nothing. What is due to the cluster, a lost node or a worker that was killed, is tried again here;
a Python error of a run is an ordinary answer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatmin.checks import at_least
from flatmin.study import files, pool
from flatmin.study.config import Study
from flatmin.study.launchers.launcher import Failure, Job, Launch, attempt
from flatmin.study.pool import RunError
from flatmin.study.tasks.task import AbsentError

#: How often a run is started again after its process died, for instance because it needs more memory than there is.
#: Starts after a lost node are not counted.
CRASHES = 2
#: Variables of a cluster of this machine. It sends nothing to Ray's makers. Its workers have the priority of other
#: processes. All that it listens on is the loopback address: Ray does so on systems where it takes clusters of several
#: machines for an exception.
LOCAL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


@dataclass(frozen=True)
class OnRay:
    """A Ray cluster.

    Args:
        address: of a cluster that runs, such as "auto", "10.0.0.1:6379" or "ray://10.0.0.1:10001". Empty: one is
            started on this machine for the time of the study, which only this machine can reach; unless this process is
            connected to a cluster, which is then used.
        cores: of the cluster that is started, >= 1; None takes all.
        cpus_per_run: cores that a run reserves, > 0. Torch uses one thread whatever this is, so that numbers are equal.
        gpus_per_run: GPUs that a run reserves, >= 0; two runs share one at 0.5. At 0 runs see no GPU.

    Raises:
        ValueError: Ray is not installed, or a number is out of range.
    """

    address: str = ""
    cores: int | None = None
    cpus_per_run: float = 1.0
    gpus_per_run: float = 0.0

    def __post_init__(self) -> None:
        if self.cores is not None:
            at_least("jobs", self.cores, 1)
        at_least("cpus_per_run", self.cpus_per_run, 0, strictly=True)
        at_least("gpus_per_run", self.gpus_per_run, 0)
        if importlib.util.find_spec("ray") is None:
            raise ValueError('ray is not installed; write pip install "flatmin[ray]"')

    @contextlib.contextmanager
    def start(self, study: Study) -> Iterator[Launch]:
        """Connect with the first jobs. A cluster that was started here ends with the block."""
        with contextlib.ExitStack() as connected:

            @functools.cache
            def cluster() -> _Cluster:
                connected.enter_context(_local(self.cores) if not self.address else _remote(self.address))
                return _Cluster(study, {"CPU": self.cpus_per_run, "GPU": self.gpus_per_run})

            def launch(jobs: Iterable[Job], most: int) -> Generator[tuple[Job, Failure | None], None, None]:
                if most:
                    yield from cluster().run(jobs)

            yield launch


class _Cluster:
    """The cluster that this process is connected to.

    Args:
        study: whose runs it executes.
        needed: by each of them: resource -> amount.

    Raises:
        ValueError: no node has that much.
    """

    def __init__(self, study: Study, needed: dict[str, float]) -> None:
        import ray

        from flatmin.study.launchers import shipping

        self._pack = functools.partial(shipping.pack, study)
        self._needed = {name: amount for name, amount in needed.items() if amount}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in self._needed.items()) for node in nodes):
            have = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in needed) for node in nodes)
            wanted = ", ".join(f"{amount:g} {name}" for name, amount in self._needed.items())
            raise ValueError(
                f"a run needs {wanted}, and the nodes of the Ray cluster have {have}; write smaller --cpus-per-run and "
                "--gpus-per-run"
            )
        gpus = self._needed.get("GPU", 0)
        self._do = ray.remote(num_cpus=self._needed["CPU"], num_gpus=gpus, max_retries=0)(_do)
        self._parcel = ray.put(self._pack())
        self._brings_data = False

    def run(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Failure | None], None, None]:
        """See `Launch`."""
        import ray
        from ray import exceptions as lost

        waiting = iter(jobs)
        under_way: dict[Any, tuple[Job, int]] = {}  # task -> its job, and how often its process died
        try:
            while True:
                for job in itertools.islice(waiting, max(0, self._room() - len(under_way))):
                    under_way[self._submit(job)] = job, 0
                if not under_way:
                    return
                (task, *_), _ = ray.wait(list(under_way), num_returns=1)
                job, crashes = under_way.pop(task)
                try:
                    answer: _Answer | None = ray.get(task)
                except (lost.NodeDiedError, lost.ObjectLostError):
                    under_way[self._submit(job)] = job, crashes
                except (lost.WorkerCrashedError, lost.OutOfMemoryError) as error:
                    if crashes == CRASHES:
                        raise RunError(
                            f"while at {job.folder}: its process died {crashes + 1} times: {error}"
                        ) from None
                    under_way[self._submit(job)] = job, crashes + 1
                except lost.RayError as error:
                    raise RunError(f"while at {job.folder}:\n{error}") from None
                else:
                    if answer is None:
                        if not self._brings_data:
                            self._parcel, self._brings_data = ray.put(self._pack(data=True)), True
                        under_way[self._submit(job)] = job, crashes
                        continue
                    files.replace_content(job.folder, answer.content, last="result.json")
                    yield job, answer.failure
        finally:
            for task in under_way:
                with contextlib.suppress(lost.RayError):
                    ray.cancel(task, force=True)

    def _submit(self, job: Job) -> Any:
        # In a list, so that a worker fetches the parcel only once.
        return self._do.remote(job, files.content(job.folder), [self._parcel], "GPU" in self._needed)

    def _room(self) -> int:
        """Twice as many as can run now: no core waits for this process, and an autoscaler sees that there is more."""
        import ray

        have = ray.cluster_resources()
        return 2 * max(1, int(min(have.get(name, 0) / amount for name, amount in self._needed.items())))


@dataclass(frozen=True)
class _Answer:
    """What a worker returns: the content of a run's folder, and how the run failed if it did."""

    content: dict[str, bytes]
    failure: Failure | None


#: The parcel that this process has unpacked.
_unpacked: list[Any] = []


def _do(job: Job, content: dict[str, bytes], parcel: list[Any], gpus: bool) -> _Answer | None:
    """In a worker: do a job in a folder of its own that has `content`. None if the data are not here."""
    import ray

    from flatmin.study.launchers import shipping

    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if _unpacked != parcel:
        try:
            shipping.unpack(ray.get(parcel[0]))
        except AbsentError:
            return None
        _unpacked[:] = parcel
    with tempfile.TemporaryDirectory(prefix="flatmin-") as scratch, pool.few_threads():
        folder = Path(scratch) / job.folder.name
        files.replace_content(folder, content)
        failure = attempt(dataclasses.replace(job, folder=folder))
        return _Answer(files.content(folder), failure)


@contextlib.contextmanager
def _local(cores: int | None) -> Iterator[None]:
    """A cluster of this machine, unless this process is connected to one."""
    with contextlib.ExitStack() as ended:
        with pool.environment(LOCAL), _signals():
            import ray
            from ray._private import ray_constants

            if not ray.is_initialized():
                ended.callback(ray.shutdown)
                before = ray_constants.ENABLE_RAY_CLUSTER
                ray_constants.ENABLE_RAY_CLUSTER = False  # as the variable; Ray may have been imported before
                try:
                    ray.init("local", num_cpus=cores, include_dashboard=False, **_quiet())
                finally:
                    ray_constants.ENABLE_RAY_CLUSTER = before
                if not _is_loopback(address := ray.util.get_node_ip_address()):
                    raise ValueError(
                        f"this version of Ray listens on {address}; start a cluster and write --ray ADDRESS"
                    )
        yield


@contextlib.contextmanager
def _remote(address: str) -> Iterator[None]:
    """A cluster that runs already."""
    with contextlib.ExitStack() as ended:
        with _signals():
            import ray

            if not ray.is_initialized():
                ended.callback(ray.shutdown)
                try:
                    ray.init(address, **_quiet())
                except Exception as error:  # of many types
                    raise ValueError(
                        f"ray: cannot connect to {address!r} ({error}); run flatmin on a machine of the cluster with "
                        "--ray auto, or write --ray ray://HEAD:10001"
                    ) from error
        yield


def _quiet() -> dict[str, Any]:
    return {"log_to_driver": False, "logging_level": logging.ERROR}


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM does what it did before, although Ray sets a handler of its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)

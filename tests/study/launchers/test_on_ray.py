"""Studies on a Ray cluster give the folder that one process gives, whatever happens to the cluster."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from flatmin.study import Outcome, config, files, own_study
from flatmin.study.comparison import compare
from flatmin.study.config import Run, Study
from flatmin.study.launchers import on_ray
from flatmin.study.launchers.launcher import ERROR, Job
from flatmin.study.launchers.on_ray import OnRay
from flatmin.study.pool import RunError

ray = pytest.importorskip("ray", reason='needs Ray: pip install "flatmin[ray]", or make cluster-test')
from flatmin.study.launchers import shipping  # noqa: E402  # imports Ray

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("undrawn"), pytest.mark.filterwarnings("default")]

#: A task and a module of its own, in a folder that no worker knows.
TASK = """
    import os
    import time
    from pathlib import Path

    import torch
    from torch import nn

    from flatmin.study import Outcome, Trial
    from helper_of_test import WIDTH

    MARKS = Path(os.environ.get("MARKS", "."))


    def here():
        import ray

        return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "-"


    def train(trial: Trial) -> Outcome:
        x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
        y = x.sum(1, keepdim=True)
        net = nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
        opt = trial.optimizer(net.parameters(), model=net)
        for batch in trial.steps(list(zip(x.split(8), y.split(8))), epochs=3, save=[net, opt]):
            for probe in opt.probes():
                probe.backward(((net(batch[0]) - batch[1]) ** 2).mean())
            opt.step()
        loss = ((net(x) - y) ** 2).mean().item()
        return Outcome(
            validation=loss, test=loss, better="lower", net=net, loss=nn.functional.mse_loss, batches=[(x, y)]
        )


    def haunted(trial):
        marks = MARKS
        doomed = marks / "doomed"
        with (marks / "begun").open("a") as file:
            print(here(), trial.contender, trial.seed, trial.settings["lr"], trial.final, file=file, flush=True)
        while doomed.exists() and doomed.read_text() == here():
            time.sleep(0.1)
        return train(trial)


    def raises(trial):
        with (MARKS / "begun").open("a") as file:
            print(here(), trial.contender, trial.seed, file=file, flush=True)
        raise ArithmeticError("a bug of the task")


    def dies(trial):
        with (MARKS / "begun").open("a") as file:
            print(here(), trial.contender, trial.seed, file=file, flush=True)
        os._exit(3)
"""
NAME = "task_on_ray_of_test"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the task, and with `marks`, which all processes of these tests know."""
    folder = tmp_path_factory.mktemp("place")
    (folder / f"{NAME}.py").write_text(textwrap.dedent(TASK))
    (folder / "helper_of_test.py").write_text("WIDTH = 16\n")
    (folder / "marks").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKS", str(folder / "marks"))
        patch.setenv("FLATMIN_CACHE", str(folder / "cache of the nodes"))
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield folder


@pytest.fixture(scope="module")
def cluster(place):
    """Two nodes with a core each on this machine, to which this process is connected."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.second = made.add_node(num_cpus=1)
    ray.init(made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def begun(place):
    """The lines that runs wrote when they began."""
    (place / "marks/begun").unlink(missing_ok=True)
    return lambda: (place / "marks/begun").read_text().splitlines() if (place / "marks/begun").exists() else []


@pytest.fixture
def on_path(place, monkeypatch):
    """This process finds the task; workers are told nothing of the folder."""
    pack = shipping.pack
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(shipping, "pack", lambda *args, **named: dataclasses.replace(pack(*args, **named), path=[]))
    yield
    for name in (NAME, "helper_of_test"):
        sys.modules.pop(name, None)


def study(function, **options):
    given = {"methods": ("sgd", "pugd"), "arms": ("tuned",), "noise": (0.0,), "seeds": 3, "tune": 2, "flatness": 16}
    return Study(task=f"{NAME}:{function}", **{**given, **options})


def without_seconds(found):
    return {name: value for name, value in found.items() if name != "seconds"}


def content(out):
    """All of a study's folder but times, the environment and the journal of trials."""
    found = {}
    for name, text in files.content(out).items():
        if name.endswith("result.json"):
            result = json.loads(text, object_hook=without_seconds)
            kept = ("task_source", "threads_per_run", "torch")
            result["environment"] = {key: result["environment"].get(key) for key in kept}
            found[name] = result
        elif name.endswith("metrics.jsonl"):
            found[name] = [json.loads(line, object_hook=without_seconds) for line in text.decode().splitlines()]
        elif name.endswith("flatness.json"):
            found[name] = json.loads(text, object_hook=without_seconds)
        elif name.endswith(("config.toml", "study.toml", "tuning.json", "weights.pt")):
            found[name] = text
    assert sum(name.endswith("result.json") for name in found) >= 1
    return found


def folders(out):
    """Every file of the runs."""
    return sorted(name for name in files.content(out) if name.startswith(("runs/", "tune/trial")))


# -- a cluster of several machines -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_path")
def test_a_study_that_loses_a_node_is_that_of_one_process(cluster, place, begun, tmp_path):
    doomed = place / "marks/doomed"
    doomed.write_text(cluster.second.node_id)

    def kill():
        while not any(line.startswith(cluster.second.node_id) for line in begun()):
            time.sleep(0.05)
        cluster.remove_node(cluster.second, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    compare(study("haunted"), tmp_path / "ray", launcher=OnRay())
    killer.join()
    cluster.second = cluster.add_node(num_cpus=1)
    lines = begun()
    nodes = {line.split()[0] for line in lines}
    runs = [line.partition(" ")[2] for line in lines]
    assert len(runs) > len(set(runs)) == 10 and doomed.read_text() in nodes and len(nodes) >= 2
    compare(study("haunted"), tmp_path / "one")
    assert content(tmp_path / "ray") == content(tmp_path / "one")
    assert folders(tmp_path / "ray") == folders(tmp_path / "one")


@pytest.mark.usefixtures("on_path", "cluster")
def test_an_error_of_the_task_is_recorded_once_with_its_traceback(begun, tmp_path):
    with pytest.raises(RunError, match=r"(?s)/seed-0:.*in raises\n.*ArithmeticError: a bug of the task"):
        compare(study("raises", methods=("sgd",), seeds=1, arms=("default",), tune=0), tmp_path, launcher=OnRay())
    assert len(begun()) == 1
    (error,) = tmp_path.rglob(ERROR)
    assert error.read_text().endswith("ArithmeticError: a bug of the task\n") and "Traceback" in error.read_text()
    assert not [*tmp_path.rglob("result.json")]


@pytest.mark.usefixtures("on_path", "cluster")
def test_a_worker_that_dies_again_and_again_ends_the_study(begun, tmp_path):
    with pytest.raises(RunError, match=r"/seed-0: its process died 3 times"):
        compare(study("dies", methods=("sgd",), seeds=1, arms=("default",), tune=0), tmp_path, launcher=OnRay())
    assert len(begun()) == 3


@pytest.mark.usefixtures("on_path", "cluster")
def test_a_study_goes_on_elsewhere(tmp_path):
    protocol = study("train", tune=0, arms=("default",), methods=("sgd",))
    compare(protocol, tmp_path / "one")
    for number, launcher in enumerate([OnRay(), None]):
        mixed = Path(shutil.copytree(tmp_path / "one", tmp_path / f"mixed-{number}"))
        (mixed / "runs/default/noise-0.0/sgd/seed-1/result.json").unlink()
        (mixed / "runs/default/noise-0.0/sgd/seed-1/checkpoint.pt").write_bytes(b"damaged")
        before = (mixed / "runs/default/noise-0.0/sgd/seed-0/result.json").stat().st_mtime_ns
        compare(protocol, mixed, launcher=launcher)
        assert content(mixed) == content(tmp_path / "one") and folders(mixed) == folders(tmp_path / "one")
        assert (mixed / "runs/default/noise-0.0/sgd/seed-0/result.json").stat().st_mtime_ns == before


@pytest.mark.usefixtures("cluster")
def test_images_are_shipped_to_nodes_that_have_none(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    from PIL import Image

    for label in range(3):
        (tmp_path / f"images/{label}").mkdir(parents=True)
        for number in range(12):
            Image.new("L", (8, 8), 80 * label + number).save(tmp_path / f"images/{label}/{number}.png")
    protocol = Study(
        methods=("sgd",),
        arms=("default",),
        noise=(0.0,),
        seeds=2,
        epochs=1,
        batch_size=8,
        data=str(tmp_path / "images"),
    )
    monkeypatch.setenv("FLATMIN_CACHE", str(tmp_path / "cache"))
    compare(protocol, tmp_path / "one")
    pack, brought = shipping.pack, []

    def pack_and_delete(study, *, data=False):
        packed = pack(study, data=data)
        brought.append(data)
        if data:  # from here on, nobody can decode them again
            shutil.rmtree(tmp_path / "images")
        return packed

    monkeypatch.setattr(shipping, "pack", pack_and_delete)
    compare(protocol, tmp_path / "ray", launcher=OnRay())
    assert content(tmp_path / "ray") == content(tmp_path / "one") and brought == [False, True]


@pytest.mark.usefixtures("cluster")
def test_a_function_of_a_notebook_is_shipped_with_what_it_uses(tmp_path):
    start = torch.full((3,), 2.0)

    def train(trial):
        w = torch.nn.Parameter(start.clone())
        opt = trial.optimizer([w])
        for _ in trial.steps([0, 1], epochs=2):
            for probe in opt.probes():
                probe.backward((w**2).sum())
            opt.step()
        return Outcome(validation=w.norm(), test=w.norm(), better="lower")

    given = {"arms": ["default"], "seeds": 2}
    found = [own_study.compare(train, ["sgd", "sam"], out=tmp_path / str(on), ray=on, **given) for on in (True, False)]
    assert content(tmp_path / "True") == content(tmp_path / "False") and found[0].missing == 0


@pytest.mark.usefixtures("on_path", "cluster")
def test_what_no_node_has_is_refused(tmp_path):
    for launcher, message in (
        (OnRay(cpus_per_run=3), "a run needs 3 CPU, and the nodes of the Ray cluster have 1 CPU, 0 GPU; 1 CPU, 0 GPU"),
        (OnRay(gpus_per_run=0.5), "a run needs 1 CPU, 0.5 GPU"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(study("train"), tmp_path / "out", launcher=launcher)


def test_a_worker_trains_with_one_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "_unpacked", ["parcel"])
    job = Job(Run("sgd", {"lr": 0.05}, epochs=1, subset=64), tmp_path / "seed-0")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    answer = on_ray._do(job, {"checkpoint.pt": b"damaged"}, ["parcel"], True)
    torch.set_num_threads(before)
    assert sorted(answer.content) == ["config.toml", "metrics.jsonl", "result.json"] and answer.failure is None
    assert json.loads(answer.content["result.json"])["environment"]["threads_per_run"] == 1
    assert not job.folder.exists()


# -- a cluster of this machine -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_path")
def test_ctrl_c_ends_all_tasks_and_leaves_a_study_that_goes_on(place, begun, tmp_path):
    psutil = pytest.importorskip("psutil")
    out = tmp_path / "out"
    options = ["--methods", "sgd", "pugd", "--arms", "default", "--seeds", "40", "--flatness", "0"]
    hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    words = ["compare", "--task", f"{NAME}:haunted", *options, "--out", str(out), "--ray", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", f"{hear}; from flatmin.cli import main; main()", *words],
        cwd=place,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        while not [*out.rglob("result.json")]:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        group = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        listening = {c.laddr.ip for one in group for c in one.net_connections() if c.status == psutil.CONN_LISTEN}
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == "flatmin: interrupted; complete results are kept, and the same command continues\n"
    assert listening and listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert not psutil.wait_procs(group, timeout=60)[1], "processes were left behind"
    done = len([*out.rglob("result.json")])
    assert 1 <= done < 80 and not [*out.glob("runs/**/.*")]
    before = len(begun())
    assert compare(config.load(Study, out / "study.toml"), out).missing == 0
    assert len(begun()) - before == 80 - done

"""Studies: paired and honest runs, nothing lost by a kill, statistics against numbers worked out by hand."""

import dataclasses
import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from flatmin.registry import METHODS
from flatmin.study import config, contender, files, plan, pool, progress, settings, stats
from flatmin.study import tuning as tuning_file
from flatmin.study.comparison import compare
from flatmin.study.config import Run, Study, Training
from flatmin.study.contender import Contender
from flatmin.study.data.dataset import Dataset, Split, load_dataset, replace_labels
from flatmin.study.networks import models
from flatmin.study.report import summary, write
from flatmin.study.report.tables import percent
from flatmin.study.search import tuner
from flatmin.study.training import batches, record, schedule
from flatmin.study.training import loop as training
from flatmin.study.training.batches import shuffled
from flatmin.study.training.loop import train
from flatmin.study.training.schedule import Schedule
from support import command_line, forked, runs
from support.forked import Forked

#: One process of the test run has all tests that fork, see support.forked, and starts the ranks once.
pytestmark = pytest.mark.xdist_group("processes")

ROOT = Path(__file__).parents[2]
TUNING = str(ROOT / "results" / "digits_tuning.json")
TINY = Study(methods=("sgd", "pugd"), arms=("default",), noise=(0.0, 0.4), seeds=2, epochs=2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a complete small study. Do not write into it."""
    out = tmp_path_factory.mktemp("studies") / "tiny"
    compare(TINY, out, command="flatmin compare --tiny")
    return out


@pytest.fixture
def study(tiny, tmp_path):
    """A copy of it to write into."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny"))


def numbers(out):
    """What `results.json` says that does not depend on the clock."""
    results = files.read_json(out / "results.json")
    for row in [*results["table"], *results["runs"]]:
        del row["seconds"]
    for run in results["runs"]:
        for reading in run.get("flatness", {}).get("readings", {}).values():
            del reading["cost"]["seconds"]
    return results["table"], results["runs"]


# -- data --------------------------------------------------------------------------------------------------------------


def test_label_noise_replaces_the_fraction_uniformly():
    clean = torch.arange(10).repeat(1000)
    noisy = replace_labels(clean, 0.4, 10, torch.Generator().manual_seed(0))
    assert (noisy != clean).float().mean().item() == pytest.approx(0.4 * 0.9, abs=0.01)
    wrong = noisy[noisy != clean]
    assert torch.bincount(wrong, minlength=10).float().std() < 40  # around 360 each
    assert torch.equal(replace_labels(clean, 0.0, 10, torch.Generator()), clean)
    assert torch.equal(clean, torch.arange(10).repeat(1000))


def test_the_network_has_the_parameters_it_says():
    count = sum(p.numel() for p in models.build("small-cnn", 1, 10).parameters())
    assert count == 7530 and f"{count:,}" in models.small_cnn.__doc__


# -- a run -------------------------------------------------------------------------------------------------------------


def seen(run, monkeypatch):
    """What a run starts from: weights, noisy labels, and the batches in order."""
    found = {}

    def build(*args, **options):
        net = build.original(*args, **options)
        found["weights"] = [p.detach().clone() for p in net.parameters()]
        return net

    def replace(*args):
        found["labels"] = replace.original(*args)
        return found["labels"]

    def draw(*args, **options):
        drawn = list(draw.original(*args, **options))
        found.setdefault("batches", drawn)  # those that statistics are rebuilt from come later
        return iter(drawn)

    with monkeypatch.context() as patch:
        for module, name, spy in (
            (models, "build", build),
            (batches, "replace_labels", replace),
            (batches, "shuffled", draw),
        ):
            spy.original = getattr(module, name)
            patch.setattr(module, name, spy)
        train(run)
    return found


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_runs_of_one_seed_are_paired_bit_for_bit(monkeypatch):
    run = Run(noise=0.4, seed=3, epochs=2)
    torch.manual_seed(1)
    reference = seen(run, monkeypatch)
    for name in ("adamw", "pugd", "s-sgd", "channel-sgd"):
        torch.manual_seed(2)  # the caller's generator must not matter
        other = seen(dataclasses.replace(run, contender=name, settings={"lr": 0.01}), monkeypatch)
        assert all(same(reference[key], other[key]) for key in reference)
    shorter = seen(dataclasses.replace(run, contender="sam", budget="grads"), monkeypatch)
    assert same(shorter["batches"], reference["batches"][: len(shorter["batches"])])


def test_other_seeds_differ_in_everything(monkeypatch):
    one, other = (seen(Run(noise=0.4, seed=seed, epochs=1), monkeypatch) for seed in (0, 1))
    assert not any(same(one[key], other[key]) for key in one)


def test_a_run_is_deterministic_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    rows, again = [], []
    first = train(Run("s-sgd", noise=0.4, epochs=2), rows.append)
    second = train(Run("s-sgd", noise=0.4, epochs=2), again.append)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.test == second.test
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in again]


def test_batches_are_permutations_without_the_incomplete_last():
    found = list(shuffled(10, 3, 6, torch.Generator().manual_seed(0)))
    assert [len(rows) for rows in found] == [3] * 6
    for epoch in (found[:3], found[3:]):
        assert len(set(torch.cat(epoch).tolist())) == 9
    assert not same(found[:3], found[3:])


def test_a_batch_can_be_the_whole_training_set():
    assert train(Run(batch_size=1078, epochs=2)).steps == 2


def test_a_batch_larger_than_the_training_set_is_refused(tmp_path):
    message = "batch_size must be at most the training set, 1078 examples of digits, got 1079; write --batch-size 1078"
    with pytest.raises(ValueError, match=message):
        train(Run(batch_size=1079))
    for begin in (compare, tuner.search):
        study = Study(methods=("sgd",), arms=("tuned",), tune=2, batch_size=1079)
        with pytest.raises(ValueError, match=message):
            begin(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_learning_rate_falls_to_zero_along_a_cosine(monkeypatch):
    rates = []
    original = Schedule.set_lr

    def set_lr(schedule, optimizer, step):
        original(schedule, optimizer, step)
        rates.append(optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(Schedule, "set_lr", set_lr)
    train(Run(settings={"lr": 0.2}, epochs=2))
    assert rates[0] == 0.2 and rates[16] == pytest.approx(0.1) and 0 < rates[-1] < 0.001
    assert rates == sorted(rates, reverse=True)


def test_the_learning_rate_rises_and_falls_to_zero_along_lines():
    run = Run(settings={"lr": 1.0}, schedule="linear", warmup=0.2)
    found = [schedule.rate(run, step / 20) for step in range(20)]
    assert found == pytest.approx([0, 0.25, 0.5, 0.75] + [1 - step / 16 for step in range(16)])


class Side(torch.nn.Module):
    """Sees the first pixel only: logits (its value, 0)."""

    def __init__(self):
        super().__init__()
        self.scale, self.seen = torch.nn.Parameter(torch.ones(1)), []

    def forward(self, x):
        self.seen.append(torch.is_autocast_enabled("cpu"))
        return torch.stack([x[:, 0, 0, 0] * self.scale, torch.zeros(len(x))], 1)


def test_mirror_images_have_a_say_if_the_training_says_so():
    images = torch.tensor([[[[3, 0]]], [[[0, 3]]], [[[1, 0]]], [[[0, 0]]]], dtype=torch.uint8)
    split = Split(images, torch.tensor([0, 0, 0, 0]))
    centred = Dataset("", ("a", "b"), split, split, split, torch.full((1, 1, 1), 1.0), torch.ones(1, 1, 1))
    net = Side()
    assert training.correct(net, centred, split).tolist() == [True, False, True, False]
    both = Training(flip_at_test=True, precision="bfloat16")
    assert training.correct(net, centred, split, training=both).tolist() == [True, True, False, False]
    assert net.seen == [False, True, True]


def test_evaluation_puts_the_mode_back_and_adds_up():
    net = models.build("small-cnn", 1, 10)
    digits = load_dataset("digits")
    assert net.training
    accuracy = training.evaluate(net, digits, digits.train)
    assert net.training
    net.eval()
    x, y = digits.standardise(digits.train.images), digits.train.labels
    assert accuracy == (net(x).argmax(1) == y).sum().item() / len(y)


#: 32 steps in a tenth of a second; and of the usual batches, whose noise opens a gate as often as it was declared.
SMALL = {"subset": 128, "batch_size": 8, "epochs": 2, "evaluations": 1, "test": False}
USUAL = {"epochs": 2, "evaluations": 1, "test": False}


@pytest.mark.parametrize("name", METHODS)
def test_gradient_evaluations_are_counted_and_equal_under_either_budget(name):
    entry = METHODS[name]
    size = USUAL if name in ("ae-sam", "ae-looksam") else SMALL
    by_steps = train(Run(name, settings={"lr": 0.01}, **size))
    by_gradients = train(Run(name, settings={"lr": 0.01}, budget="grads", **size))
    assert by_steps.steps == 32
    if entry.first is None and entry.gradients in (1, 2, 4):
        assert by_steps.gradient_evaluations == 32 * entry.gradients
        assert by_gradients.gradient_evaluations == 32
        return
    # A first step may differ, the last may be too long for what is left; gates and coins cost their mean on average.
    room = max(entry.first or 0, entry.gradients)
    assert abs(by_steps.gradient_evaluations - 32 * entry.gradients) <= room + 0.1 * 32 * entry.gradients
    assert abs(by_gradients.gradient_evaluations - 32) <= room + 0.1 * 32


class Watched:
    """A split that notes when it is read."""

    def __init__(self, split, reads):
        self._split, self._reads = split, reads

    def __getattr__(self, name):
        self._reads.append(name)
        return getattr(self._split, name)


def test_the_test_split_is_poison_to_tuning_runs_and_read_once_by_final_runs(monkeypatch):
    reads, evaluated = [], []
    digits = load_dataset("digits")
    watched = dataclasses.replace(digits, test=Watched(digits.test, reads))
    monkeypatch.setattr(training, "load_dataset", lambda *args, **options: watched)
    assert train(Run(epochs=2, test=False)).test is None
    assert not reads
    original = training.correct
    monkeypatch.setattr(training, "correct", lambda *args: evaluated.append(args[2]) or original(*args))
    train(Run(epochs=2))
    assert evaluated.count(watched.test) == 1 and evaluated[-2] is watched.test


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_environment_names_the_commit():
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert record.environment(1)["commit"].removesuffix("-dirty") == head


def test_divergence_is_recorded_at_its_epoch():
    rows = []
    result = train(Run(settings={"lr": 1e30}, epochs=4), rows.append)
    assert result.diverged == 1.0 and len(rows) == 1 and rows[0]["train_loss"] is None
    assert 0 <= result.test <= 0.2
    json.dumps(dataclasses.asdict(result), allow_nan=False)


# -- names and configs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "method", "base", "shown"),
    [
        ("sgd", "plain", "sgd", "sgd"),
        ("plain", "plain", "sgd", "sgd"),
        ("adamw", "plain", "adamw", "adamw"),
        ("plain@adamw", "plain", "adamw", "adamw"),
        ("pugd", "pugd", "sgd", "pugd"),
        ("pugd@sgd", "pugd", "sgd", "pugd"),
        ("s-sgd@adamw", "s-sgd", "adamw", "s-sgd@adamw"),
        ("plain+ema", "plain", "sgd", "sgd+ema"),
        ("adamw+swa", "plain", "adamw", "adamw+swa"),
        ("pugd+ema@sgd", "pugd", "sgd", "pugd+ema"),
        ("sam+swa@adamw", "sam", "adamw", "sam+swa@adamw"),
    ],
)
def test_contenders_parse(text, method, base, shown):
    found = Contender.parse(text)
    assert (found.method, found.base, str(found)) == (method, base, shown)
    assert found.average == shown.partition("+")[2].partition("@")[0] or found.average == "none"
    assert Contender.parse(shown) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pugdd", "unknown name 'pugdd'; did you mean pugd"),
        ("sam@adam", "did you mean adamw"),
        ("sam@", "base optimizer"),
        ("sgd+emma", "average: unknown name 'emma'; did you mean ema"),
        ("sgd+ema@adamw", "method: unknown name 'sgd'"),
    ],
)
def test_unknown_contenders_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Contender.parse(text)


def test_nesterov_decays_apart_from_its_momentum_and_vectors_only_if_told():
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    given = {"lr": 0.1, "wd": 0.5, "momentum": 0.8}
    optimizer = Contender.parse("nesterov").optimizer(net, given, seed=0, decay_vectors=False)
    expected = [
        (p.detach().numpy().copy(), np.zeros(p.shape), decay)
        for p, decay in zip(net.parameters(), (0.5, 0), strict=True)
    ]
    x = torch.randn(4, 3)
    for _ in range(3):
        for _ in optimizer.probes():
            net(x).square().sum().backward()
        moved = []
        for (w, m, decay), p in zip(expected, net.parameters(), strict=True):
            g = p.grad.numpy()
            m = 0.8 * m + g
            moved.append(((1 - 0.1 * decay) * w - 0.1 * (g + 0.8 * m), m, decay))
        expected = moved
        optimizer.step()
    for (w, _, _), p in zip(expected, net.parameters(), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "sam@nesterov"])
def test_vectors_have_no_decay_if_told(name):
    net = models.build("small-cnn", 1, 10)
    groups = Contender.parse(name).optimizer(net, {}, seed=0, decay_vectors=False).param_groups
    decays = [max(group["weight_decay"], group.get("separate_weight_decay", 0)) for group in groups]
    assert decays == [contender.BASES[name.rpartition("@")[2]].settings["wd"].default, 0.0]
    assert [{p.ndim > 1 for p in group["params"]} for group in groups] == [{True}, {False}]
    assert sum(len(group["params"]) for group in groups) == len([*net.parameters()])
    assert len(Contender.parse(name).optimizer(net, {}, seed=0).param_groups) == 1


def test_a_method_that_decays_all_weights_itself_cannot_leave_some_out():
    with pytest.raises(ValueError, match="decay_vectors = false, but ivon decays all weights itself"):
        plan.canonical(dataclasses.replace(TINY, methods=("sgd", "ivon"), decay_vectors=False))
    with pytest.raises(ValueError, match="ivon@nesterov decays all weights itself"):
        plan.single(Training(decay_vectors=False), "ivon@nesterov", {}, 0.0, 0)
    group = Contender.parse("ivon@nesterov").optimizer(torch.nn.Linear(2, 1), {}, seed=0).param_groups[0]
    assert group["weight_decay"] == group["separate_weight_decay"] == group["momentum"] == 0.0


def test_settings_reach_the_optimizer():
    net = models.build("small-cnn", 1, 10)
    optimizer = Contender.parse("sam@adamw").optimizer(net, {"lr": 0.02, "rho": 0.7}, seed=0)
    group = optimizer.param_groups[0]
    assert isinstance(optimizer.base, torch.optim.AdamW) and optimizer.method.rho == 0.7
    assert (group["lr"], group["weight_decay"], group["fused"]) == (0.02, 1e-2, True)
    group = Contender.parse("sgd").optimizer(net, {"lr": 0.1}, seed=0).param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["fused"]) == (0.9, 5e-4, True)
    group = Contender.parse("sgd").optimizer(net, {"lr": 0.1, "wd": 0.02, "momentum": 0.5}, seed=0).param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.5, 0.02)
    group = Contender.parse("pugd+ema@adamw").optimizer(net, {"wd": 0.3, "ema_decay": 0.9}, seed=0).param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 0.3)


def test_a_method_is_told_what_only_the_study_knows():
    net = models.build("small-cnn", 1, 10)
    optimizer = Contender.parse("ivon").optimizer(net, {"lr": 0.1, "hess_init": 0.5}, 0, steps=80, examples=900)
    group, method = optimizer.param_groups[0], optimizer.method
    assert (method.ess, method.hess_init, method.beta1, method.weight_decay) == (900, 0.5, 0.9, 5e-4)
    assert (group["momentum"], group["weight_decay"]) == (0.0, 0.0)  # not twice
    optimizer = Contender.parse("late-sam@adamw").optimizer(net, {"lr": 0.1, "begin": 0.5}, 0, steps=80)
    assert optimizer.method.steps == 80 and optimizer.param_groups[0]["weight_decay"] == 1e-2


def test_a_budget_counts_what_a_late_phase_takes_at_its_settings():
    result = train(Run("late-sam", settings={"lr": 0.01, "begin": 0.5}, epochs=2, budget="grads"))
    assert result.steps == 21 and result.gradient_evaluations == 21 + 10  # of 32


@pytest.mark.parametrize("value", [TINY, Study(), Run("sam", {"lr": 0.1, "rho": 0.5}, noise=0.2, test=False)])
def test_configs_survive_toml(value, tmp_path):
    config.save(value, tmp_path / "c.toml")
    assert config.load(type(value), tmp_path / "c.toml") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "unknown name 'epoch'; did you mean epochs"),
        ("epochs = 'many'", "epochs must be a whole number, got 'many'"),
        ("epochs = true", "epochs must be a whole number, got True"),
        ("methods = 'sgd'", "methods must be a list, got 'sgd'"),
        ("noise = [0, 'x']", "noise must be a number, got 'x'"),
        ("epochs = ", "is not TOML"),
    ],
)
def test_bad_recipes_are_refused(text, message, tmp_path):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        config.load(Study, tmp_path / "bad.toml")


def test_recipes_may_leave_fields_out_and_write_whole_numbers(tmp_path):
    (tmp_path / "short.toml").write_text("noise = [0, 1]  # and a comment")
    assert config.load(Study, tmp_path / "short.toml") == Study(noise=(0.0, 1.0))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("noise", (0.2, 1.5), r"noise must be in \[0, 1\], got 1.5"),
        ("noise", (math.nan,), r"noise must be in \[0, 1\], got nan"),
        ("noise", (), "noise must name at least one"),
        ("methods", ("sgd", "sgd"), "methods must not name anything twice"),
        ("seeds", 0, r"seeds must be in \[1, 1000\], got 0"),
        ("epochs", 0, "epochs must be >= 1, got 0"),
        ("batch_size", 1, "batch_size must be >= 2, got 1"),
        ("tune", -1, "tune must be >= 0, got -1"),
        ("tune_seeds", 0, "tune_seeds must be >= 1, got 0"),
        ("budget", "time", "budget: unknown name 'time'"),
        ("arms", ("tunned",), "did you mean tuned"),
    ],
)
def test_bad_protocols_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        Study(**{field: value})


def test_tuning_without_a_tuned_arm_is_refused():
    with pytest.raises(ValueError, match="add tuned"):
        Study(arms=("default",), tune=4)


# -- a study -----------------------------------------------------------------------------------------------------------


def test_a_study_folder_holds_everything(tiny):
    assert config.load(Study, tiny / "study.toml") == TINY
    head = files.read_json(tiny / "env.json")
    assert head["command"] == "flatmin compare --tiny" and {"python", "torch", "platform", "cpu_count", "date"} <= {
        *head
    }
    folder = tiny / "runs/default/noise-0.4/pugd/seed-1"
    assert {path.name for path in folder.iterdir()} == {"config.toml", "metrics.jsonl", "result.json"}
    rows = record.metrics(folder)
    assert [row["epoch"] for row in rows] == [1, 2] and [row["gradient_evaluations"] for row in rows] == [32, 64]
    results = files.read_json(tiny / "results.json")
    assert len(results["table"]) == 4 and len(results["runs"]) == 8 and results["missing_runs"] == 0
    assert results["environments"][0]["threads_per_run"] == 1
    accuracies = [run["test_accuracy"] for run in results["runs"] if (run["contender"], run["noise"]) == ("pugd", 0.4)]
    row = next(row for row in results["table"] if (row["contender"], row["noise"]) == ("pugd", 0.4))
    assert row["test_accuracy"]["mean"] == pytest.approx(sum(accuracies) / 2)
    for name in ("accuracy.png", "curves.png"):
        assert (tiny / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("undrawn")
def test_a_second_run_repeats_nothing(study, monkeypatch):
    monkeypatch.setattr("flatmin.study.tasks.runs.perform", lambda run, folder: pytest.fail(f"{folder} was repeated"))
    before = numbers(study)
    compare(TINY, study)
    assert numbers(study) == before


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "other JSON", "no config"])
def test_damaged_runs_are_done_again(study, damage):
    before = numbers(study)
    folder = study / "runs/default/noise-0.4/pugd/seed-1"
    text = (folder / "result.json").read_text()
    if damage == "missing":
        (folder / "result.json").unlink()
    elif damage == "no config":
        (folder / "config.toml").write_text("contender = ")
    else:
        (folder / "result.json").write_text(
            {"truncated": text[: len(text) // 2], "empty": "", "other JSON": "[1]"}[damage]
        )
    (folder / "metrics.jsonl").write_text("half a li")
    assert summary.summarise(study).missing == 1
    compare(TINY, study)
    assert (folder / "result.json").read_text() != text and numbers(study) == before
    assert len(record.metrics(folder)) == 2


def test_another_protocol_is_refused_with_what_to_type(study):
    before = (study / "study.toml").read_text()
    with pytest.raises(ValueError, match="was made with") as error:
        compare(dataclasses.replace(TINY, epochs=3, noise=(0.0,)), study)
    message = str(error.value)
    assert "epochs = 2, noise = 0.0 0.4; now asked: epochs = 3, noise = 0.0" in message
    assert "--epochs 2 --noise 0.0 0.4" in message and "--out" in message
    assert (study / "study.toml").read_text() == before


@pytest.mark.usefixtures("undrawn")
def test_a_study_killed_before_its_environment_was_noted_continues(study):
    (study / "env.json").unlink()
    compare(TINY, study, command="again")
    assert files.read_json(study / "env.json")["command"] == "again"


@pytest.mark.usefixtures("undrawn")
def test_the_same_protocol_in_other_words_is_the_same(study, monkeypatch):
    monkeypatch.setattr("flatmin.study.tasks.runs.perform", lambda run, folder: pytest.fail(f"{folder} was repeated"))
    compare(dataclasses.replace(TINY, methods=("plain@sgd", "pugd@sgd")), study)


def test_runs_made_with_other_settings_are_refused(study, monkeypatch):
    base = contender.BASES["sgd"]
    base = contender.Base(base.make, {**base.settings, "lr": contender.Setting(0.05, base.settings["lr"].range)})
    monkeypatch.setitem(contender.BASES, "sgd", base)
    with pytest.raises(
        ValueError, match=r"was made with settings = \{'lr': 0.1, .*\}; now asked: settings = \{'lr': 0.05, .*\}"
    ):
        compare(TINY, study)


def test_foreign_folders_and_files_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for out in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(ValueError, match="is not a study"):
            compare(TINY, out)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.usefixtures("undrawn")
def test_a_folder_in_use_is_refused(study):
    with files.exclusive(study), pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
        compare(TINY, study)
    compare(TINY, study)  # and free again


def test_settings_may_come_from_another_study():
    tuning = json.loads(Path(TUNING).read_text())["contenders"]
    other = dataclasses.replace(TINY, methods=("sgd", "sam"), arms=("tuned",), tuned_by=TUNING)
    found = tuning_file.read_winners(Path(other.tuned_by), other.noise)
    assert found[0.0]["sam"] == found[0.4]["sam"] == tuning["sam"]["winner"] != {}
    planned = plan.resolve(plan.canonical(other), found)
    assert all(run.settings["wd"] == 5e-4 for run in planned.runs.values())
    with pytest.raises(ValueError, match=r"tune = 2 and tuned_by = .* are two sources"):
        dataclasses.replace(other, tune=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("sgd", "plain")}, "twice"),
        ({"methods": ("sgdd",)}, "did you mean sgd"),
        ({"data": "digit"}, "did you mean digits"),
        ({"model": "big-cnn"}, "did you mean small-cnn"),
        ({"tuned_by": "nowhere.json", "arms": ("tuned",)}, "tuned_by must be the tuning.json of a study.*nowhere.json"),
        ({"methods": ("sgd", "pugd-on"), "tuned_by": TUNING, "arms": ("tuned",)}, "known for pugd-on"),
        (
            {"methods": ("pugd@adamw",), "arms": ("tuned",)},
            "no tuned settings are known for pugd@adamw.*--tune.*--arms default",
        ),
    ],
)
def test_bad_names_are_refused_before_anything_is_written(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare(dataclasses.replace(TINY, **change), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_bad_jobs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="jobs must be >= 1, got 0"):
        compare(TINY, tmp_path / "new", jobs=0)


def test_a_diverged_run_stays_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(contender.TUNED_ELSEWHERE, "adamw", {"lr": 1e30})
    monkeypatch.setitem(contender.TUNED_ELSEWHERE, "pugd@adamw", {"lr": 0.01})
    both = Study(methods=("adamw", "pugd@adamw"), arms=("tuned",), noise=(0.0,), seeds=2, epochs=2)
    found = compare(both, tmp_path / "out")
    row = found.rows[0]
    assert (row.contender, row.diverged, row.test.n) == ("adamw", 2, 2) and row.test.mean < 0.3
    assert found.baseline == "adamw" and found.rows[1].difference.mean > 0.3
    assert "† adamw, tuned settings, clean labels: 2 of 2 runs diverged" in write.markdown(found)
    assert files.read_json(tmp_path / "out/results.json")["runs"][0]["diverged"] == 1.0


def test_a_partial_study_reports_what_there_is(study):
    for folder in ("noise-0.0/sgd/seed-1", "noise-0.4/pugd/seed-0", "noise-0.4/sgd/seed-1"):
        shutil.rmtree(study / "runs/default" / folder)
    found = write.refresh(study)
    assert found.missing == 3 and "3 runs of this study are not complete" in write.markdown(found)
    assert [row.test.n for row in found.rows] == [1, 2, 1, 1]
    assert found.rows[1].difference.n == 1 and found.rows[3].difference is None
    shutil.rmtree(study / "runs")
    with pytest.raises(ValueError, match=r"no run of .* is complete yet"):
        write.refresh(study)


# -- tuning ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_a_tuned_study_runs_its_winners_and_never_tests_while_tuning(tmp_path):
    protocol = Study(methods=("sgd", "sam"), arms=("tuned",), noise=(0.4,), seeds=1, epochs=1, tune=3)
    out = tmp_path / "tuned"
    found = compare(protocol, out)
    tuning = files.read_json(out / "tuning.json")
    trials = sorted(path.parent for path in out.glob("tune/**/result.json"))
    assert len(trials) == 6
    for folder in trials:
        run, result = record.read(folder)
        assert run.seed == 1000 and not run.test and result.test is None
    for row in found.rows:
        assert row.settings == tuning["conditions"][0]["contenders"][row.contender]["winner"]
        assert list(row.runs) == [0]
    assert [len(one["trials"]) for one in tuning_file.cases(tuning).values()] == [3, 3]
    before = numbers(out)
    shutil.rmtree(trials[0])
    compare(protocol, out)
    assert numbers(out) == before and files.read_json(out / "tuning.json") == tuning


# -- statistics --------------------------------------------------------------------------------------------------------


def test_t_intervals_against_hand_computed_values():
    # t(0.975; 2) = 4.302653, t(0.975; 4) = 2.776445, from the printed tables
    assert stats.t_interval([1, 2, 3]) == stats.Interval(2.0, pytest.approx(4.302653 / math.sqrt(3), rel=1e-6), 3)
    five = stats.t_interval([90.0, 92.0, 94.0, 96.0, 98.0])
    assert five.mean == 94 and five.half_width == pytest.approx(2.776445 * math.sqrt(10) / math.sqrt(5), rel=1e-6)


def test_intervals_of_one_and_of_equal_values():
    assert stats.t_interval([0.5]) == stats.Interval(0.5, None, 1)
    assert stats.t_interval([0.1, 0.1, 0.1, 0.1]) == stats.Interval(pytest.approx(0.1), 0.0, 4)
    with pytest.raises(ValueError, match="got none"):
        stats.t_interval([])


def test_paired_differences_use_shared_seeds_only():
    one, other = {0: 0.5, 1: 0.7, 2: 0.9}, {1: 0.25, 2: 0.25, 3: 0.0}
    found = stats.paired_difference(one, other)
    assert found.n == 2 and found.mean == pytest.approx(0.55)
    assert found.half_width == pytest.approx(12.7062 * 0.1, rel=1e-5)  # t(0.975; 1) s / √2, with s = 0.2 / √2
    assert stats.paired_difference({0: 1.0}, {1: 1.0}) is None


def test_an_interval_for_new_seeds_and_new_images_covers_where_that_of_the_seeds_does_not():
    draw = np.random.default_rng(0)
    covered = {"two ways": 0, "seeds": 0}
    for _ in range(200):
        seeds, images = draw.normal(0, 0.02, (5, 1)), draw.normal(0, 0.5, (1, 60))
        values = 0.1 + seeds + images + draw.normal(0, 0.5, (5, 60))
        for name, found in (("two ways", stats.two_way_interval(values)), ("seeds", stats.t_interval(values.mean(1)))):
            covered[name] += abs(found.mean - 0.1) <= found.half_width
    assert covered["two ways"] >= 182 and covered["seeds"] < 180


def test_an_interval_over_seeds_and_images_by_hand():
    # MS: seeds 2 * 2 * 0.25 = 1, images 1, rest 0. Variance 2 / 4, (1 + 1)^2 / (1 + 1) = 2 degrees of freedom.
    found = stats.two_way_interval([[0, 1], [1, 2]])
    assert found.mean == 1 and found.n == 2
    assert found.half_width == pytest.approx(max(4.302653 * math.sqrt(0.5), 12.7062 * 0.5), rel=1e-5)
    equal = [[0.0, 0.0], [0.1, 0.1], [0.3, 0.3]]
    assert stats.two_way_interval(equal).half_width == pytest.approx(stats.t_interval([0.0, 0.1, 0.3]).half_width)
    assert stats.two_way_interval([[0, 1]]) == stats.Interval(0.5, None, 1)
    with pytest.raises(ValueError, match=r"at least two numbers each, got the shape \(1, 1\)"):
        stats.two_way_interval([[1]])


def test_an_interval_over_seeds_and_images_stays_finite_where_the_mean_squares_cancel():
    # MS: seeds 0.25, images 0.8, rest 1. Variance 0.05 / 20, with at least 3 degrees of freedom, and not 0.01.
    values = np.random.default_rng(0).normal(size=(4, 5))
    seeds, images = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    rest = values - seeds - images + values.mean()
    seeds, images = seeds - values.mean(), images - values.mean()
    seeds *= math.sqrt(0.25 * 3 / 5 / (seeds**2).sum())
    images *= math.sqrt(0.8 * 4 / 4 / (images**2).sum())
    rest *= math.sqrt(12 / (rest**2).sum())
    found = stats.two_way_interval(seeds + images + rest)
    assert found.half_width == pytest.approx(3.182446 * math.sqrt(0.25 / 20), rel=1e-5)  # that of the seeds is wider


def test_the_interval_and_the_p_value_of_the_seeds_agree():
    values = [0.01, 0.02, 0.0, 0.015, 0.03]
    assert stats.p_value(values) == pytest.approx(0.0399, abs=1e-4)  # t = 3, 4 degrees of freedom
    assert stats.p_value([0.5, 0.5]) is stats.p_value([0.5]) is None
    assert stats.holm([0.04, 0.001, 0.03]) == [0.06, 0.003, 0.06] and stats.holm([]) == []


# -- tables and progress -----------------------------------------------------------------------------------------------


def shown(found, width):
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        write.show(found, console)
        return console.export_text()


def test_tables_fit_their_terminal(tiny):
    found = summary.summarise(tiny)
    narrow, wide = shown(found, 80), shown(found, 120)
    assert max(map(len, narrow.splitlines())) <= 80 and max(map(len, wide.splitlines())) <= 120
    assert "settings, 40 % label noise" in narrow and "lr 0.1" in wide and "lr 0.1" not in narrow
    assert "…" not in narrow + wide


def test_one_seed_has_no_interval(tmp_path):
    found = compare(dataclasses.replace(TINY, seeds=1, epochs=1, noise=(0.0,)), tmp_path / "one")
    text = write.markdown(found)
    assert f"| pugd | {100 * found.rows[1].test.mean:.2f} ± – | 1 |" in text
    assert "nan" not in text.lower()


def test_markdown_has_a_table_per_panel_and_every_number(tiny):
    found = summary.summarise(tiny)
    text = write.markdown(found)
    assert text.count("| method |") == 2 and "### default settings, clean labels" in text
    for row in found.rows:
        assert f"| {row.contender} | {percent(row.test)} | 2 |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {12}


def test_progress_without_a_terminal_is_a_few_lines(capsys):
    console = Console(force_terminal=False, width=80)
    assert list(progress.track(iter("abc"), 3, 5, "training", console)) == ["a", "b", "c"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training: 2 of 5 runs were complete already"
    assert len(lines) == 2 and lines[1].startswith("training: 5 of 5 runs, ") and lines[1].endswith("runs/s, done")


def test_progress_on_a_terminal_shows_rate_and_time_left(capsys):
    console = Console(force_terminal=True, width=100)
    for item in progress.track(iter("abc"), 3, 3, "training", console):
        if item == "a":
            time.sleep(0.3)
    out = capsys.readouterr().out
    assert "3/3" in out and "runs/s" in out and " left" in out


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_failing_task_is_reported_with_its_traceback():
    for jobs in (1, 2):
        with pytest.raises(pool.RunError, match=r"(?s)while at \('[xy]',\):.*ValueError: invalid literal"):
            list(pool.run_all(int, [("x",), ("y",)], jobs))


def test_a_dying_worker_is_reported():
    with pytest.raises(pool.RunError, match=r"died \(exit code 3\)"):
        list(pool.run_all(os._exit, [(3,), (3,)], jobs=2))


def test_workers_are_offline_from_the_start_and_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    write = "echo $HF_HUB_OFFLINE $HF_DATASETS_OFFLINE > "
    list(pool.run_all(os.system, [(f"{write}{tmp_path / name}",) for name in "ab"], jobs=2))
    assert [(tmp_path / name).read_text() for name in "ab"] == ["1 1\n"] * 2
    assert os.environ["HF_HUB_OFFLINE"] == "0" and "HF_DATASETS_OFFLINE" not in os.environ


def test_every_worker_begins_as_it_is_told(tmp_path):
    list(pool.run_all(os.mkdir, [("a",), ("b",)], 2, functools.partial(os.chdir, tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_workers_leave_ctrl_c_to_their_parent():
    tasks = [(signal.SIGINT,), (signal.SIGINT,)]
    assert [task for task, _ in pool.run_all(signal.raise_signal, tasks, jobs=2)] == tasks


def test_workers_end_with_their_parent():
    process = Forked(runs.sleep)
    wait_for(lambda: process.said()[0], process)  # the workers are up, and at least one of them sleeps
    process.kill()
    process.wait()
    assert_group_ends(process)


def test_runs_have_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []
    list(pool.run_all(lambda: seen.append(torch.get_num_threads()), [()], jobs=1))
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert seen == [1] and after == 2


#: Where the tests run in the background of a shell, Ctrl-C is ignored, and children inherit that.
HEAR = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
CLI = [sys.executable, "-c", f"{HEAR}; from flatmin.cli import main; main()"]
SOME = ["--methods", "sgd", "pugd", "--arms", "default", "--noise", "0.4", "--seeds", "3", "--epochs", "4"]
SOME += ["--subset", "320"]


def started(*argv):
    """As `command_line.started`, from a fresh interpreter."""
    command = [*CLI, *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def compare_in(out, jobs):
    """`flatmin compare` in a folder."""
    return ["compare", *SOME, "--out", str(out), "--jobs", str(jobs)]


def wait_for(condition, process):
    deadline = time.monotonic() + forked.PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def results(out):
    return list(out.glob("runs/**/result.json"))


def assert_group_ends(process):
    """No process of the group is left after a moment."""
    deadline = time.monotonic() + forked.PATIENCE
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("worker processes were left behind")


@pytest.mark.usefixtures("undrawn")
def test_a_killed_study_continues_to_the_same_numbers(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = command_line.started(*compare_in(killed, jobs=2))
    wait_for(lambda: len(results(killed)) >= 2, process)
    process.kill()
    process.wait()
    assert_group_ends(process)
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in results(killed)}
    assert 2 <= len(done) < 6, "the kill came too late to show anything"
    protocol = config.load(Study, killed / "study.toml")
    compare(protocol, killed)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    compare(protocol, whole)
    assert numbers(killed) == numbers(whole)


@pytest.mark.parametrize(
    ("kill", "jobs", "start"),
    [(signal.SIGINT, 2, started), (signal.SIGTERM, 1, command_line.started)],
    ids=["ctrl-c", "kill"],
)
def test_an_interrupt_ends_cleanly(tmp_path, kill, jobs, start):
    out = tmp_path / "stopped"
    process = start(*compare_in(out, jobs))
    wait_for(lambda: results(out), process)
    os.killpg(process.pid, kill)  # as a terminal does: the workers get it too
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "flatmin: interrupted; complete results are kept, and the same command continues\n"
    assert_group_ends(process)
    assert not list(out.glob("runs/**/.*"))
    assert all(record.read(path.parent) for path in results(out))


def test_plans_are_complete_and_seeds_are_outermost():
    protocol = plan.canonical(TINY)
    runs = list(plan.resolve(protocol).runs.values())
    assert len(runs) == 8 and [run.seed for run in runs] == [0] * 4 + [1] * 4 and all(run.test for run in runs)


RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_a_protocol_and_says_how_to_run_it(path):
    study = config.load(Study, path)
    assert f"#     flatmin compare --recipe recipes/{path.name} --out runs/" in path.read_text()
    if ":" in study.model:
        pytest.importorskip(study.model.partition(".")[0])
    plan.canonical(study)


SHARED = Path(__file__).parents[3] / "shared/data/cifar10_jpeg"


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """A few images of CIFAR-10 in the hub's layout, and a cache of their own."""
    parquet = pytest.importorskip("pyarrow.parquet")
    if not SHARED.is_dir():
        pytest.skip("shared/data/cifar10_jpeg is not beside the checkout")
    folder = tmp_path_factory.mktemp("colour")
    (folder / "images").mkdir()
    for name, count in (("train", 200), ("test", 20)):
        path = SHARED / f"{name}-00000-of-00001.parquet"
        schema, rows = parquet.read_schema(path), next(parquet.ParquetFile(path).iter_batches(batch_size=count))
        with parquet.ParquetWriter(folder / "images" / f"{name}.parquet", schema) as writer:
            writer.write_batch(rows.cast(schema))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLATMIN_CACHE", str(folder / "cache"))
        yield str(folder / "images")


ON_IMAGES = [path for path in RECIPES if not path.stem.startswith(("digits", "text"))]


@pytest.mark.parametrize("path", ON_IMAGES, ids=lambda path: path.stem)
def test_every_recipe_on_images_trains_its_network_for_an_epoch(path, colour):
    study = config.load(Study, path)
    if study.pretrained:
        pytest.skip("its network must be downloaded")
    size = 0 if study.model.startswith("fast") else 8  # the large ones take seconds at 32 pixels
    small = dataclasses.replace(study, data=colour, subset=24, image_size=size, epochs=1, batch_size=6)
    name = small.methods[-1]
    run = plan.canonical(small).run(name, settings.default(small, name), small.noise[-1], 0, test=True)
    states = {}  # before the first step, and after the last

    def keep(step, net):
        states[step > 0] = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    result = train(run, keep=keep)
    assert result.diverged is None and result.steps >= 2 and result.test_images == 20  # a warm-up begins at 0
    matrices = {name: tensor for name, tensor in states[True].items() if tensor.ndim > 1}
    still = {name for name, tensor in matrices.items() if torch.equal(tensor, states[False][name])}
    assert still == (set() if size else {"0.weight"}), "all is trained but the fixed layer"


# -- methods that choose examples, and methods that never see the weights themselves -----------------------------------


@pytest.mark.parametrize(
    ("name", "gradients"),
    [
        ("sgd", 32),  # two epochs of sixteen batches
        ("k-sam", 42.67),  # a look at everything, a third, and two gradients of half of it
        ("m-rwp", 32),  # two gradients of half of a batch each
        ("looksam", 39),  # SAM at steps 0, 5, ..., 30
    ],
)
def test_gradients_are_counted_in_proportion(name, gradients):
    result = train(Run(name, {"lr": 0.01}, epochs=2))
    assert result.gradient_evaluations == gradients
    assert result.steps == 32


def test_training_accuracy_is_that_of_the_examples_shown():
    rows = []
    train(Run("m-rwp", {"lr": 0.01}, epochs=3), log=rows.append)  # shows half of every batch at its first probe
    assert 0.6 < rows[-1]["train_accuracy"] <= 1.0
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


@pytest.mark.parametrize(("name", "rebuilt"), [("msam", 3), ("s-sgd", 3), ("sam", 0)])
def test_statistics_are_rebuilt_where_no_gradient_was_clean(name, rebuilt, monkeypatch):
    seen = []

    def counting(net, batches):
        seen.append(len(list(batches)))

    monkeypatch.setattr(training, "rebuild_statistics", counting)
    train(Run(name, {"lr": 0.01}, epochs=2))  # two evaluations and the test
    assert seen == [16] * rebuilt


def test_rebuilding_changes_no_training():
    results = {}
    for name in ("msam", "momentum-pugd"):
        rows = []
        train(Run(name, {"lr": 0.05}, epochs=3), log=rows.append)
        results[name] = [row["train_loss"] for row in rows]
    rows = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "rebuild_statistics", lambda net, batches: None)
        train(Run("msam", {"lr": 0.05}, epochs=3), log=rows.append)
    assert [row["train_loss"] for row in rows] == results["msam"] != results["momentum-pugd"]

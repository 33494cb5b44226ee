"""Studies of a training function of one's own: all that images have, and errors that say what to write."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from flatmin.registry import Range
from flatmin.study import compare, config, estimate, files, outside
from flatmin.study.config import Run, Study
from flatmin.study.contender import Contender
from flatmin.study.pool import RunError
from flatmin.study.report import robustness_tables, write
from flatmin.study.report.summary import as_json, summarise
from flatmin.study.tasks import function, own
from flatmin.study.tasks.own import Own
from flatmin.study.tasks.runs import perform, task_of
from flatmin.study.tasks.task import Attempt
from flatmin.study.training import checkpoints, record
from support.command_line import flatmin

CODE = '''
"""A regression with dropout: 32 examples in batches of 8."""
import math, os, pathlib, signal, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from flatmin.study import Base, Outcome, Range, Setting

draws = torch.Generator().manual_seed(0)
x = torch.randn(64, 3, generator=draws)
y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(64, generator=draws)
data = TensorDataset(x[:32], y[:32])
calls, batches, starts = [], {}, {}

def losses(net, x, y):
    return (net(x).squeeze(1) - y) ** 2

def rmse(net, part):
    with torch.no_grad():
        return losses(net.eval(), x[part], y[part]).mean().sqrt().item()

def network():
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.ReLU(), nn.Linear(4, 1))

def train(trial, after=lambda step: None):
    """A small regression."""
    calls.append(trial.contender)
    net = network()
    starts[trial.contender, trial.seed] = net[0].weight.detach().clone()
    opt = trial.optimizer(net.parameters(), model=net, steps=12, examples=32)
    seen = batches[trial.contender, trial.seed] = []
    count = {"step": 0}
    for x, y in trial.steps(DataLoader(data, batch_size=8, shuffle=True), epochs=3, save=[net, opt, count]):
        seen.append(x)
        for probe in opt.probes():
            probe.backward(losses(net, x[probe.rows], y[probe.rows]))
        opt.step()
        count["step"] += 1
        after(count["step"])
        if count["step"] % 6 == 0:
            trial.log(validation=rmse(net, slice(32, 48)), **count)
            net.train()
    return Outcome(
        validation=rmse(net, slice(32, 48)), test=lambda: rmse(net, slice(48, 64)), better="lower", metric="RMSE",
        unit="mm", others={"weights": lambda: sum(p.abs().sum().item() for p in net.parameters())},
        net=net, loss=lambda outputs, y: (outputs.squeeze(1) - y) ** 2, batches=[data.tensors],
    )

def killed(trial):
    """The same, killed after one more step than the last time: ten times in all."""
    from flatmin.study.training import checkpoints
    checkpoints.INTERVAL = 0.0
    marks = pathlib.Path(os.environ["KILLS"])
    def after(step):
        done = len(list(marks.iterdir()))
        if done < 10:
            (marks / str(done)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return train(trial, after)

def loop(trial, step=True, count=lambda trial: 3):
    net = nn.Linear(3, 1)
    opt = trial.optimizer(net)
    def closure():
        opt.zero_grad()
        loss = losses(net, x[:32], y[:32]).mean()
        loss.backward()
        return loss
    for _ in range(count(trial)):
        if step:
            opt.step(closure)
    return net

def good(**changes):
    return Outcome(**{"validation": 1.0, "test": 2.0, "better": "lower"} | changes)

def closures(trial):
    return good(validation=rmse(loop(trial, count=lambda trial: trial.max_steps(6)), slice(32, 48)))

def unplanned(trial):
    loop(trial)
    return good()

def idle(trial):
    loop(trial, step=False)
    return good()

def alone(trial):
    return good()

def nothing(trial):
    loop(trial)

def nan(trial):
    loop(trial)
    return good(validation=torch.tensor(math.nan))

def forgets_validation(trial):
    loop(trial)
    return Outcome(test=1.0, better="lower")

def forgets_better(trial):
    loop(trial)
    return Outcome(validation=1.0, test=1.0)

def forgets_test(trial):
    loop(trial)
    return good(test=None)

def words(trial):
    loop(trial)
    return good(validation="good")

def taken(trial):
    loop(trial)
    return good(others={"seconds": 1.0})

def half_a_loss(trial):
    net = loop(trial)
    return good(net=net, batches=[(x, y)])

def netless(trial):
    loop(trial)
    return good(test=lambda: 1.0)

def constant(trial):
    return good(net=loop(trial), test=1.0)

def of_another(trial):
    other = loop(trial)
    return good(net=nn.Linear(3, 1), test=lambda: rmse(other, slice(48, 64)))

def goes_on(trial):
    net = loop(trial)
    return good(test=lambda: rmse(net, slice(48, 64)), forgetting=lambda: (3.0, math.nan))

def unsaved(trial):
    net = nn.Linear(3, 1)
    opt = trial.optimizer(net)
    for batch in trial.steps([x], epochs=1, save=[net]):
        pass

def once(trial):
    trial.optimizer(nn.Linear(3, 1))
    for batch in trial.steps(iter([x]), steps=3):
        pass

def untold(trial):
    trial.optimizer(nn.Linear(3, 1))

def raises(trial):
    loop(trial)
    if trial.contender == "pugd":
        raise ZeroDivisionError("a bug of the task")
    return good()

def diverges(trial):
    loop(trial)
    return good(validation=math.nan if trial.settings["lr"] > 0.1 else 1.0)

def averaged(trial):
    net = network()
    opt = trial.optimizer(net)
    for x, y in trial.steps(DataLoader(data, batch_size=8), steps=4):
        for _ in opt.probes():
            losses(net, x, y).mean().backward()
        opt.step()
    found = trial.evaluated(net)
    return good(validation=(found[0].weight - net[0].weight).abs().sum())

def noisy(trial):
    loop(trial)
    return good(validation=trial.noise)

def make(groups, lr=0.01, wd=0.1):
    return torch.optim.AdamW(groups, lr=lr, weight_decay=wd)

def rateless(groups, lr):
    return torch.optim.SGD(groups, lr=lr)

def two(groups, lr=0.01):
    first, second = groups[0]["params"]
    return [torch.optim.SGD([first], lr=lr), torch.optim.AdamW([second], lr=lr)]

def lightning_loop(trial):
    import lightning
    from flatmin.integrations.lightning import FlatModule
    class Module(FlatModule, lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()
        def training_step(self, batch, number):
            return losses(self.net, *batch).mean()
        def configure_optimizers(self):
            return trial.optimizer(self.parameters(), model=self)
    module, loader = Module(), DataLoader(data, batch_size=8, shuffle=True)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_steps=trial.max_steps(3 * len(loader)), accelerator="cpu", **quiet)
    trainer.fit(module, loader)
    return good(validation=rmse(module.net, slice(32, 48)))

def trainer_loop(trial):
    import tempfile
    from transformers import TrainingArguments
    from flatmin.integrations.transformers import FlatTrainer
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()
        def forward(self, x, y):
            return {"loss": losses(self.net, x, y).mean()}
    def collate(rows):
        return dict(zip("xy", map(torch.stack, zip(*rows))))
    model = Model()
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder, max_steps=trial.max_steps(12), per_device_train_batch_size=8, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, seed=trial.seed,
        )
        optimizers = (trial.optimizer(model.parameters(), model=model), None)
        FlatTrainer(model=model, args=args, train_dataset=data, data_collator=collate, optimizers=optimizers).train()
    return good(validation=rmse(model.net, slice(32, 48)))

def adagrad(groups, lr, eps):
    return torch.optim.Adagrad(groups, lr=lr, eps=eps)

ADAGRAD = Base(adagrad, {"lr": Setting(0.02, Range(0.01, 0.1)), "eps": Setting(1e-8, Range(1e-10, 1e-6))})
'''

NAME = "regression_of_test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("package")


@pytest.fixture(autouse=True)
def task(folder, monkeypatch):
    """The module of tasks, fresh."""
    (folder / f"{NAME}.py").write_text(CODE)
    monkeypatch.syspath_prepend(folder)
    outside.base.cache_clear()
    yield __import__(NAME)
    sys.modules.pop(NAME, None)
    outside.base.cache_clear()


@pytest.fixture
def no_report(monkeypatch):
    """Studies write no tables and plots, which take longer than these runs."""
    monkeypatch.setattr("flatmin.study.report.write.refresh", summarise)


SMALL = {"arms": ("default",), "seeds": 1}


def study(function="train", methods=("sgd",), out=None, **options):
    return compare(f"{NAME}:{function}", methods, out=out, **{**SMALL, **options})


def runs_in(out):
    return {path.parent: record.read(path.parent) for path in sorted(out.glob("**/result.json"))}


@pytest.fixture(scope="module")
def searched(folder, tmp_path_factory):
    """A study with a search. Do not write into it."""
    (folder / f"{NAME}.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    out = tmp_path_factory.mktemp("studies") / "searched"
    try:
        options = {"arms": ("default", "tuned"), "tune": 3, "seeds": 2, "flatness": 20}
        study("train", ["plain", "sam"], out, base="adamw", **options)
    finally:
        sys.path.remove(str(folder))
    return out, sys.modules.pop(NAME)


# -- what images have, it has ------------------------------------------------------------------------------------------


def test_a_search_takes_the_lowest_and_reads_no_test_data(searched):
    tuning = files.read_json(searched[0] / "tuning.json")
    assert tuning["metric"] == {"name": "RMSE", "better": "lower", "unit": "mm"}
    assert tuning["score"].startswith("mean final validation RMSE")
    for found in tuning["conditions"][0]["contenders"].values():
        scores = [trial["score"] for trial in found["trials"]]
        assert found["score"] == min(scores) < max(scores) and len(scores) == 3
    found = runs_in(searched[0])
    assert len(found) == 2 * 3 + 2 * 2 * 2
    for path, (run, result) in found.items():
        final = "tune" not in path.parts
        assert run.test == final == (result.test is not None) == (result.others["weights"] is not None)
        assert (result.steps, result.gradient_evaluations) == (12, 24 if "sam" in run.contender else 12)
        assert [row["step"] for row in record.metrics(path)[:1]] == [6]


def test_its_report_is_in_its_own_words(searched):
    results = files.read_json(searched[0] / "results.json")
    assert results["metric"]["better"] == "lower" and results["study"]["task"] == f"{NAME}:train"
    row = next(row for row in results["table"] if row["difference"])
    values = {
        name: [run["test"] for run in results["runs"] if (run["arm"], run["contender"]) == (row["arm"], name)]
        for name in ("adamw", "sam@adamw")
    }
    assert row["contender"] == "sam@adamw" and row["test"]["mean"] == pytest.approx(sum(values["sam@adamw"]) / 2)
    assert row["difference"]["mean"] == pytest.approx(row["test"]["mean"] - sum(values["adamw"]) / 2)
    text = (searched[0] / "report.md").read_text()
    assert "| method | test RMSE, mm | n | Δ to adamw | p, Holm | weights |" in text and "### Flatness" in text
    page = (searched[0] / "report.html").read_text()
    page = page[page.index("<body") : page.index("<script")] + "".join(page.split("</script>")[1:-1])[-9000:]
    assert "accura" not in text and "label noise" not in text and "percentage points" not in page
    assert "lower is better" in page and f"The training function {NAME}:train" in page and "A small regression." in page
    protocol = (searched[0] / "study.toml").read_text()
    assert "model =" not in protocol and config.load(Study, searched[0] / "study.toml").noise == (0.0,)


def test_a_report_needs_no_task(searched, folder):
    (folder / f"{NAME}.py").unlink()
    sys.modules.pop(NAME, None)
    before = files.read_json(searched[0] / "results.json")
    write.refresh(searched[0])
    assert files.read_json(searched[0] / "results.json") == before


def test_runs_of_one_seed_are_paired(searched):
    starts, batches = searched[1].starts, searched[1].batches
    for seed in (0, 1):
        one, other = ("adamw", seed), ("sam@adamw", seed)  # SAM draws more dropout masks
        assert torch.equal(starts[one], starts[other])
        assert all(map(torch.equal, batches[one], batches[other])) and len(batches[one]) == 12
    assert not torch.equal(starts["adamw", 0], starts["adamw", 1])
    epochs = [torch.stack(batches["adamw", 0][i : i + 4]) for i in (0, 4, 8)]
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(batches["adamw", 0][0], batches["adamw", 1][0])


@pytest.mark.usefixtures("no_report")
def test_a_budget_of_gradients_is_divided(tmp_path):
    study("train", ["sgd", "sam"], tmp_path / "out", budget="grads")
    found = {run.contender: result for run, result in runs_in(tmp_path / "out").values()}
    assert {name: (one.steps, one.gradient_evaluations) for name, one in found.items()} == {
        "sgd": (12, 12),
        "sam": (6, 12),
    }
    study("closures", ["sgd", "sam"], tmp_path / "closures", budget="grads")
    found = {run.contender: result for run, result in runs_in(tmp_path / "closures").values()}
    assert [(one.steps, one.gradient_evaluations) for one in found.values()] == [(3, 6), (6, 6)]


def test_the_caller_s_generators_are_left_alone(task):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    run = Run("sgd", task=f"{NAME}:train")
    first, second = (Own(run.task).train(run, Attempt()) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before) and first.test == second.test


def test_the_cost_is_that_of_the_steps(tmp_path, task):
    protocol = Study(task=f"{NAME}:train", methods=("sgd", "sam"), arms=("tuned",), noise=(0.0,), seeds=2, tune=3)
    sgd, sam = estimate.estimate(protocol, tmp_path / "out")
    assert (sgd.runs, sgd.gradients, sam.gradients) == ((3, 0, 2), 5 * 12, 5 * 24) and sgd.seconds > 0
    assert task.calls == ["sgd", "sam"] and not (tmp_path / "out").exists()


# -- after an interruption ---------------------------------------------------------------------------------------------


def numbers(out):
    results = as_json(summarise(out))
    for row in [*results["table"], *results["runs"]]:
        del row["seconds"]
    return results["table"], results["runs"]


@pytest.mark.usefixtures("no_report")
def test_a_study_killed_ten_times_gives_the_same_numbers(tmp_path, monkeypatch):
    marks = tmp_path / "marks"
    marks.mkdir()
    monkeypatch.setenv("KILLS", str(marks))
    methods, kills = ["sgd", "s-sgd"], 0
    while True:
        try:
            study("killed", methods, tmp_path / "killed", jobs=2)
            break
        except RunError as error:
            kills += "exit code -9" in str(error)
    assert len([*marks.iterdir()]) == 10 and kills >= 5  # two workers may die at once
    study("killed", methods, tmp_path / "whole")
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch, task):
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    run = Run("sam", task=f"{NAME}:train", settings={"lr": 0.05})

    def stop(step, *_):
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(run, tmp_path / "stopped", watch=stop)
    perform(run, tmp_path / "stopped")
    assert len(task.batches["sam", 0]) == 6  # 6 of 12 steps were saved
    perform(run, tmp_path / "whole")
    first, second = (record.read(tmp_path / name)[1] for name in ("stopped", "whole"))
    assert dataclasses.replace(first, seconds=0, environment={}) == dataclasses.replace(
        second, seconds=0, environment={}
    )
    rows = [[{**row, "seconds": 0} for row in record.metrics(tmp_path / name)] for name in ("stopped", "whole")]
    assert rows[0] == rows[1] and len(rows[0]) == 2


# -- tasks that are broken ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "returned None; write return Outcome\\(validation="),
        ("nan", "validation is nan for sgd at .*diverged=True"),
        ("forgets_validation", "Outcome lacks validation.*write return Outcome"),
        ("forgets_better", "Outcome needs better, 'lower' or 'higher', got None"),
        ("forgets_test", "Outcome lacks test in a final run"),
        ("words", "validation must be a number, got 'good'"),
        ("taken", "others must not be called 'seconds'"),
        ("half_a_loss", "Outcome got net and batches; flatness needs net, loss and batches"),
        ("idle", "no optimizer of the trial took a step.*write"),
        ("alone", "no optimizer of the trial took a step.*opt = trial.optimizer"),
        ("unsaved", r"save lacks the optimizer .*write save=\[net, opt\]"),
        ("once", "no batches in epoch 1; give it .* a DataLoader"),
        ("raises", "ZeroDivisionError: a bug of the task"),
    ],
)
def test_a_broken_task_says_what_to_write(function, message, tmp_path):
    with pytest.raises(RunError, match=f"(?s){message}"):
        study(function, ["pugd" if function == "raises" else "sgd"], tmp_path / "out")
    assert not runs_in(tmp_path / "out")


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("trian", {}, f"{NAME} has no function 'trian'; did you mean train"),
        ("train", {"epochs": 3}, "epochs = 3 is an option of images; .* leave out --epochs"),
        ("train", {"arms": ("tuned",)}, "no tuned settings are known for sgd; .* --tune 16"),
        ("train", {"base": "adamv"}, "base optimizer: unknown name 'adamv'; did you mean adamw"),
    ],
)
def test_bad_protocols_are_refused_before_anything_is_written(function, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        study(function, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_imported_is_refused(folder):
    with pytest.raises(ValueError, match=r"task: cannot import 'nowhere_at_all' .* put that folder on PYTHONPATH"):
        task_of("nowhere_at_all:train").check(Study(task="nowhere_at_all:train"))
    (folder / "broken_of_test.py").write_text("1 / 0")
    with pytest.raises(ValueError, match="importing 'broken_of_test' raised ZeroDivisionError"):
        own.load("broken_of_test:train")
    with pytest.raises(ValueError, match=r"unknown name 'mytask'.* write --task package.module:function"):
        task_of("mytask")
    with pytest.raises(ValueError, match="worker processes must import"):
        own.name_of(lambda trial: None, jobs=2)


@pytest.mark.usefixtures("no_report")
def test_a_failure_loses_nothing(tmp_path, task, folder):
    with pytest.raises(RunError, match="a bug of the task"):
        study("raises", ["sgd", "pugd"], tmp_path / "out")
    (kept,) = runs_in(tmp_path / "out")
    before = (kept / "result.json").stat().st_mtime_ns
    (folder / f"{NAME}.py").write_text(CODE.replace("raise ZeroDivisionError", "print"))
    sys.modules.pop(NAME)
    found = study("raises", ["sgd", "pugd"], tmp_path / "out")
    assert found.missing == 0 and (kept / "result.json").stat().st_mtime_ns == before
    assert len({run.result.environment["task_source"] for row in found.rows for run in row.runs.values()}) == 2


@pytest.mark.usefixtures("no_report")
def test_settings_that_diverge_lose_the_search_and_do_not_end_it(tmp_path):
    study("diverges", out=tmp_path / "out", arms=("tuned",), tune=6)
    (found,) = files.read_json(tmp_path / "out/tuning.json")["conditions"][0]["contenders"].values()
    failed = [trial for trial in found["trials"] if trial["score"] is None]
    assert failed and all(trial["settings"]["lr"] > 0.1 and "nan" in trial["error"] for trial in failed)
    assert found["winner"]["lr"] <= 0.1
    with pytest.raises(RunError, match=r"all trials of sgd noise-0.0 failed, the first one with NotFiniteError"):
        study("nan", out=tmp_path / "nan", arms=("tuned",), tune=2)


def test_a_budget_of_gradients_needs_a_task_that_asks(tmp_path):
    with pytest.raises(RunError, match="budget = grads, but the task does not ask"):
        study("unplanned", out=tmp_path / "out", budget="grads")


def test_a_method_that_must_be_told_says_so(tmp_path):
    with pytest.raises(RunError, match=r"late-sam must be told the number of steps .*steps=epochs \* len\(loader\)"):
        study("untold", ["late-sam"], tmp_path / "out")


# -- bases, averages, conditions ---------------------------------------------------------------------------------------


def test_a_base_has_its_own_range_or_one_around_its_default():
    function = Contender.parse(f"sam@{NAME}:make")
    assert str(function) == f"sam@{NAME}:make" and function.default() == {"lr": 0.01, "wd": 0.1}
    assert function.space()["lr"] == Range(0.01 / 30, 0.01 * 30) and [*function.space()] == ["lr", "wd", "rho"]
    entry = Contender.parse("plain", base=f"{NAME}:ADAGRAD")
    assert str(entry) == f"plain@{NAME}:ADAGRAD" and entry.space()["eps"] == Range(1e-10, 1e-6)
    assert outside.base(f"{NAME}:adagrad") is outside.base(f"{NAME}:ADAGRAD")
    known = outside.base("torch.optim:RMSprop")
    group = known.make([{"params": [nn.Parameter(torch.ones(1))]}], lr=0.5, wd=0.25).param_groups[0]
    assert (group["lr"], group["weight_decay"], known.settings["lr"].default) == (0.5, 0.25, 0.01)
    for name, message in (("mak", "did you mean make"), ("rateless", "no default learning rate; write def rateless")):
        with pytest.raises(ValueError, match=message):
            outside.base(f"{NAME}:{name}")


@pytest.mark.usefixtures("no_report")
def test_a_study_on_a_base_of_one_s_own(tmp_path):
    found = study("closures", ["plain", "sam", "sgd"], tmp_path / "out", base=f"{NAME}:ADAGRAD")
    names = [f"plain@{NAME}:ADAGRAD", f"sam@{NAME}:ADAGRAD", "sgd"]
    assert [row.contender for row in found.rows] == names and found.rows[1].settings == {"lr": 0.02, "eps": 1e-8}
    again = config.load(Study, tmp_path / "out/study.toml")
    assert compare(again.task, again.methods, out=tmp_path / "out", **SMALL).missing == 0


@pytest.mark.usefixtures("no_report")
def test_a_base_may_be_several_optimizers(tmp_path):
    found = study("closures", ["plain", "sam"], tmp_path / "out", base=f"{NAME}:two")
    assert [row.gradient_evaluations for row in found.rows] == [6, 12]


@pytest.mark.usefixtures("no_report")
def test_the_example_is_a_study(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples")
    found = compare("own_task:train", ["plain", "sam"], base="adamw", out=tmp_path / "out", flatness=50, **SMALL)
    assert all(0.3 < row.test.mean < 1.5 and row.metric.better == "lower" for row in found.rows)
    assert all(next(iter(row.runs.values())).measure("trace") for row in found.rows)


@pytest.mark.usefixtures("no_report")
def test_the_example_of_sets_is_a_study(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples")
    found = compare("set_task:train", ["plain", "sam"], base="adamw", fix=("lr=0.01",), out=tmp_path / "out", **SMALL)
    assert all(0.5 < row.test.mean < 4 for row in found.rows)  # the mean of the sums is 16, and their spread 8
    set_task = sys.modules["set_task"]
    net, (images, mask, _) = set_task.DeepSet(), set_task.test.tensors
    order = torch.tensor([2, 0, 1, 4, 3])
    torch.testing.assert_close(net(images[:, order], mask[:, order]), net(images, mask))


@pytest.mark.usefixtures("no_report")
@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")
def test_muon_and_adamw_are_one_base(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples")
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    names = ["plain@two_bases:make", "sam@two_bases:make"]
    found = study("train", ["plain", "sam"], tmp_path / "out", base="two_bases:make")
    assert [(row.contender, row.gradient_evaluations) for row in found.rows] == [*zip(names, (12, 24), strict=True)]
    run = next(iter(found.rows[1].runs.values())).run

    def stop(step, *_):
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(run, tmp_path / "stopped", watch=stop)
    perform(run, tmp_path / "stopped")
    (whole,) = found.rows[1].runs.values()
    assert record.read(tmp_path / "stopped")[1].test == whole.test != next(iter(found.rows[0].runs.values())).test


def test_groups_keep_their_options(task):
    trial = function.WatchedTrial(Run("sgd", task=f"{NAME}:train", settings={"lr": 0.5, "wd": 0.25}), lambda: None)
    net = nn.Linear(3, 1)
    opt = trial.optimizer([{"params": [net.weight]}, {"params": [net.bias], "weight_decay": 0.0, "perturb": False}])
    assert [(group["lr"], group["weight_decay"]) for group in opt.param_groups] == [(0.5, 0.25), (0.5, 0.0)]
    assert opt.param_groups[1]["perturb"] is False


@pytest.mark.usefixtures("no_report")
def test_an_average_is_what_is_evaluated_if_the_task_asks_for_it(tmp_path):
    found = study("averaged", ["sgd", "sgd+ema"], tmp_path / "out")
    plain, averaged = (next(iter(row.runs.values())).result.validation for row in found.rows)
    assert plain == 0 < averaged
    with pytest.raises(RunError, match=r"evaluate trial.evaluated"):
        study("train", ["sgd+ema"], tmp_path / "other")


@pytest.mark.usefixtures("no_report")
def test_a_condition_must_be_read(tmp_path):
    found = study("noisy", out=tmp_path / "out", noise=(0.0, 0.25))
    assert [next(iter(row.runs.values())).result.validation for row in found.rows] == [0.0, 0.25]
    with pytest.raises(RunError, match=r"the task does not read trial.noise; .* write --noise 0"):
        study("closures", out=tmp_path / "other", noise=(0.25,))


# -- robustness and forgetting -----------------------------------------------------------------------------------------


def test_robustness_is_the_test_metric_at_changed_weights(tmp_path, monkeypatch):
    found = study("train", ["sgd", "sam"], tmp_path / "out", robustness=True)
    for row in found.rows:
        (run,) = row.runs.values()
        assert {*run.result.robustness} == {"rounding", "weight_noise"}
        values = [value for levels in run.result.robustness.values() for value in levels.values()]
        assert len({*values, run.test}) == 7 and max(abs(value - run.test) for value in values) < 1.0
        assert robustness_tables.WEIGHTS[2].lost(run) == run.result.robustness["rounding"]["3"] - run.test
    report = (tmp_path / "out/report.md").read_text()
    assert "### Test RMSE with changed weights, mm, default settings" in report and "images" not in report


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("netless", r"robustness needs the network that is tested.*write Outcome\(test=lambda: ..., net=net\)"),
        ("constant", "robustness needs the network that is tested, and test as a function of it"),
        ("of_another", "test does not call the network that is handed over as net"),
    ],
)
def test_robustness_without_what_it_needs_says_what_to_write(function, message, tmp_path):
    with pytest.raises(RunError, match=f"(?s){message}"):
        study(function, out=tmp_path / "out", robustness=True)


@pytest.mark.usefixtures("no_report")
def test_a_task_may_measure_what_it_forgets(tmp_path):
    (row,) = study("goes_on", out=tmp_path / "out").rows
    (run,) = row.runs.values()
    assert run.result.robustness == {"forgetting": {"after": 3.0, "lost": 3.0 - run.test, "second": None}}


# -- loops of others ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_report")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loop", ["lightning", "trainer"])
def test_loops_of_others_train_a_trial(loop, tmp_path):
    pytest.importorskip({"lightning": "lightning", "trainer": "transformers"}[loop])
    found = study(f"{loop}_loop", ["sgd", "sam"], tmp_path / "out", budget="grads")
    results = [next(iter(row.runs.values())).result for row in found.rows]
    assert [(one.steps, one.gradient_evaluations) for one in results] == [(12, 12), (6, 12)]
    assert results[0].validation != results[1].validation


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_report")
def test_the_command_knows_tasks(tmp_path, capsys):
    options = ["--methods", "sgd", "pugd", "--arms", "default", "--seeds", "1", "--out", str(tmp_path / "out")]
    assert flatmin("compare", "--task", f"{NAME}:train", *options, "--dry-run") == 0
    assert "2 trainings: 2 final runs." in capsys.readouterr().out
    assert flatmin("compare", "--task", f"{NAME}:train", *options, "--jobs", "1") == 0
    out = capsys.readouterr().out
    assert "RMSE, mm" in out and "accura" not in out and "clean" not in out
    assert flatmin("compare", "--task", f"{NAME}:trian", *options) == 2
    assert "did you mean train" in capsys.readouterr().err

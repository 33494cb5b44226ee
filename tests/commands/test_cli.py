"""The command line: every option documented, every bad input one clear message and exit code 2."""

import dataclasses
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flatmin import __version__, cli, commands
from flatmin.commands.compare import Compare
from flatmin.commands.study_options import Where
from flatmin.registry import METHODS
from flatmin.study import config
from flatmin.study.config import Study, Training
from flatmin.study.pool import RunError
from support.command_line import flatmin

RECIPES = Path(__file__).parents[2] / "recipes"
QUICK = [
    "--methods",
    "sgd",
    "pugd",
    "--arms",
    "default",
    "--noise",
    "0.4",
    "--seeds",
    "2",
    "--epochs",
    "1",
    "--jobs",
    "1",
]


def squeeze(text):
    """Help without its frames and line breaks."""
    return re.sub(r"\s+", " ", re.sub("[│╭╮╰╯─]", " ", text))


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",)])
def test_usage_names_every_command(argv, capsys):
    assert flatmin(*argv) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\S", out, re.M) for name in cli.COMMANDS)


def test_commands_agree():
    assert list(cli.COMMANDS) == list(commands.COMMANDS)


def test_version(capsys):
    assert flatmin("--version") == 0
    assert capsys.readouterr().out == f"flatmin {__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_documents_every_option(name, capsys):
    assert flatmin(name, "--help") == 0
    text = squeeze(capsys.readouterr().out)
    cls = commands.COMMANDS[name]
    summary = squeeze(cls.__doc__).strip().partition(".")[0]
    assert summary in text
    options = [field.name for field in dataclasses.fields(cls)]
    documented = [cls]
    config = {"compare": Study, "tune": Study, "train": Training}.get(name)
    if config is not None:
        options = [option for option in options if option not in ("study", "training", "where")]
        options += [f.name for f in dataclasses.fields(config)]
        documented += [config, Training]
    if name in ("compare", "tune"):
        options += [f.name for f in dataclasses.fields(Where)]
        documented.append(Where)
    for option in options:
        sentences = [re.search(rf"^        {option}: (.*)", c.__doc__, re.M) for c in documented]
        line = next(match.group(1) for match in sentences if match)
        assert squeeze(line).strip() in text, f"{option} is not documented"
        positional = {
            "report": "study",
            "cite": "name",
            "methods": "name",
            "train": "contender",
            "flatness": "runs",
            "landscape": "runs",
            "trajectory": "surface",
        }
        words = option.replace("_", "-")
        assert positional.get(name) == option or f"--{words} " in text or f"--no-{words} " in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["compar"], "unknown command 'compar'; did you mean compare?"),
        (["x"], "unknown command 'x'; known are compare, tune, train"),
        (["compare", "--methods", "pugdd"], "unknown name 'pugdd'; did you mean pugd"),
        (["compare", "--methods", "sam@adan", "--arms", "default"], "did you mean adamw"),
        (["compare", "--methods", "sgd", "plain"], "methods must not name anything twice"),
        (["compare", "--data", "digit"], "did you mean digits"),
        (["train", "pugdd"], "unknown name 'pugdd'; did you mean pugd"),
        (["train", "sam", "--settings", "rh=1"], "settings: unknown name 'rh'; did you mean rho"),
        (["train", "sam", "--settings", "rho"], "settings must be name=value with a number, got 'rho'; write lr=0.1"),
        (["train", "sam", "--settings", "rho=nan"], "rho must be >= 0, got nan"),
        (["train", "sam", "--settings", "lr=nan"], "lr must be >= 0, got nan"),
        (["train", "sam", "--settings", "lr=inf"], "lr must be >= 0, got inf"),
        (["train", "sam", "--settings", "lr=-1"], "lr must be >= 0, got -1.0"),
        (["train", "sam", "--warmup", "1"], "warmup must be in [0, 1), got 1.0"),
        (["train", "sam", "--label-smoothing", "1"], "label_smoothing must be in [0, 1), got 1.0"),
        (["train", "sgd", "--batch-size", "1079"], "batch_size must be at most the training set, 1078 examples"),
        (["train", "sgd", "--out", os.fsdecode(b"run-\xff")], r"the argument b'run-\xff' is not UTF-8"),
        (["train", "sgd", "--model", "nowhere:net"], "and run flatmin in the folder that holds the package"),
        (["tune", "--trials", "3"], "tune has no option --trials; write --tune 16 for 16 trials per method"),
        (["compare", "--trials=3"], "compare has no option --trials; write --tune 16"),
        (["compare", "--jobs", "0"], "jobs must be >= 1, got 0"),
        (["compare", "--recipe", "nowhere.toml"], "cannot read nowhere.toml: No such file or directory"),
        (["tune", "--tune", "0"], "tune must be >= 1 for a search, got 0; write --tune 32"),
        (["report", "nowhere"], "nowhere is not a study: it has no study.toml"),
        (["cite", "pugdd"], "unknown method 'pugdd'; did you mean 'pugd'"),
        (["cite", "plain"], "plain has no single paper to cite"),
    ],
)
def test_bad_input_is_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert flatmin(*argv) == 2
    out, errors = capsys.readouterr()
    assert message in errors and errors.startswith("flatmin: ") and errors.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["compare", "--method", "sgd"], "--methods"),
        (["compare", "--budget", "time"], "invalid choice 'time' for argument '--budget'"),
        (["compare", "--noise", "1.5"], "noise must be in [0, 1], got 1.5"),
        (["compare", "--seeds", "many"], "--seeds"),
        (["compare", "--recipe"], "Missing value for argument '--recipe'"),
        (["report"], "Missing from flatmin report"),
    ],
)
def test_options_that_do_not_parse(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert flatmin(*argv) == 2
    errors = squeeze(capsys.readouterr().err)
    assert message in errors and "Traceback" not in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.xdist_group("processes")
def test_compare_and_report(tmp_path, capsys):
    out = tmp_path / "study"
    assert flatmin("compare", "--out", str(out), *QUICK) == 0
    text = capsys.readouterr().out
    assert "Default settings, 40 % label noise." in text and "pugd" in text and str(out) in text.replace("\n", "")
    assert (out / "env.json").read_text().count(f"flatmin compare --out {out} --methods sgd pugd") == 1
    for name in ("results.json", "accuracy.png", "curves.png"):
        (out / name).unlink()
    assert flatmin("report", str(out)) == 0
    assert all((out / name).exists() for name in ("results.json", "accuracy.png", "curves.png"))
    table = capsys.readouterr().out
    assert table.splitlines()[1:6] and "Δ to sgd" in table
    assert flatmin("report", str(out), "--markdown") == 0
    markdown = capsys.readouterr().out
    assert markdown.startswith("### default settings, 40 % label noise\n\n| method | test accuracy, % | n |")
    assert flatmin("compare", "--out", str(out), *QUICK, "--seeds", "3") == 2
    assert "seeds = 2; now asked: seeds = 3. Continue that one with --seeds 2" in capsys.readouterr().err


def test_options_override_the_recipe(tmp_path, capsys):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('methods = ["sgd"]\narms = ["default"]\nnoise = [0.1]\nseeds = 1\nepochs = 7\n')
    out = tmp_path / "study"
    assert flatmin("compare", "--recipe", str(recipe), "--out", str(out), "--epochs", "1", "--jobs", "1") == 0
    expected = Study(methods=("sgd",), arms=("default",), noise=(0.1,), seeds=1, epochs=1)
    assert config.load(Study, out / "study.toml") == expected
    assert flatmin("compare", f"--recipe={out / 'study.toml'}", "--out", str(out), "--jobs", "1") == 0
    assert "1 of 1 runs were complete already" in capsys.readouterr().out


def test_a_dry_run_prints_what_would_be_done_and_starts_nothing(tmp_path, capsys):
    options = ["--methods", "sgd", "sam", "--seeds", "3", "--epochs", "1", "--tune", "4", "--tune-finalists", "2"]
    assert flatmin("compare", "--dry-run", *options, "--jobs", "2", "--out", str(tmp_path / "out")) == 0
    text = squeeze(capsys.readouterr().out)
    assert re.search(r"sam 8 36 1,152 \d+ s lr 0.001 to 1, wd 1e-05 to 0.2", text)
    assert "72 trainings: 16 in the first round of the search, 32 of finalists, 24 final runs." in text
    assert "Estimated from a few steps of each method" in text and text.strip().endswith("Nothing was started.")
    assert not (tmp_path / "out").exists()
    assert flatmin("compare", "--dry-run", "--jobs", "0", "--out", str(tmp_path / "out")) == 2
    assert "jobs must be >= 1, got 0" in capsys.readouterr().err


def test_tune_and_then_compare(tmp_path, capsys):
    out = tmp_path / "study"
    options = ["--methods", "sgd", "sam", "--noise", "0.4", "--seeds", "1", "--epochs", "1", "--jobs", "1"]
    assert flatmin("tune", "--out", str(out), *options, "--tune", "2") == 0
    text = capsys.readouterr().out
    assert "tuning: 4 of 4 trials" in text and re.search(r"sam +40 % noise +\d\d\.\d\d +2 +0 +\d+ +lr ", text)
    following = text[text.index("flatmin compare") :].split()
    assert flatmin(*following[1:], "--jobs", "1") == 0
    text = capsys.readouterr().out
    assert "Tuned settings, 40 % label noise." in text and "tuning:" not in text.replace("tuning: 4 of 4", "")


def test_tune_repeats_finalists(tmp_path, capsys):
    options = ["--methods", "sgd", "--noise", "0.4", "--epochs", "1", "--jobs", "1", "--out", str(tmp_path / "study")]
    finalists = ["--tune-finalists", "2", "--tune-finalist-seeds", "1"]
    assert flatmin("tune", *options, "--tune", "3", *finalists) == 0
    text = capsys.readouterr().out
    assert "tuning: 3 of 3 trials" in text and "finalists: 2 of 2 trials" in text
    assert "score: of the winner, over the seeds of both rounds" in text


def test_recipes_are_studies():
    assert config.load(Study, RECIPES / "digits_fixed_decay.toml") == Compare().study
    tune = config.load(Study, RECIPES / "digits_tune.toml")
    assert tune.tune and {*tune.methods} <= {*METHODS, "sgd", "adamw"}
    family = config.load(Study, RECIPES / "digits_family.toml")
    searched = {"sgd" if name == "plain" else name for name, entry in METHODS.items() if entry.tuned}
    assert family.tune and {*family.methods} == {*searched, "adamw"}


def test_cite(capsys):
    assert flatmin("cite", "sam") == 0
    assert capsys.readouterr().out.startswith("@misc{sam,\n") and "2010.01412" in METHODS["sam"].paper.bibtex("sam")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "flatmin: interrupted; complete results are kept, and the same command continues\n"),
        (RunError("boom"), 1, "flatmin: a run failed; the other runs are kept:\nboom\n"),
        (PermissionError(13, "Permission denied", "/x"), 2, "flatmin: [Errno 13] Permission denied: '/x'\n"),
    ],
)
def test_what_goes_wrong_has_a_message_and_a_code(error, code, message, capsys, monkeypatch):
    def fail(name, argv):
        raise error

    monkeypatch.setattr(commands, "run", fail)
    assert flatmin("methods") == code
    assert capsys.readouterr().err == message


def test_a_missing_extra_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.delitem(sys.modules, "flatmin.commands")
    monkeypatch.delattr("flatmin.commands")
    assert flatmin("methods") == 2
    assert (
        capsys.readouterr().err
        == "flatmin: methods needs the package tyro; install it with pip install 'flatmin[study]'\n"
    )


def test_help_and_complaints_load_nothing_heavy():
    code = "import sys; from flatmin.cli import main; main(['--help']); print([m for m in %s if m in sys.modules])"
    heavy = ["sklearn", "scipy", "matplotlib", "rich", "tyro"]
    out = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True).stdout
    assert out.endswith("[]\n")


def test_the_test_split_of_a_plain_folder_is_in_the_help(capsys):
    assert flatmin("compare", "--help") == 0
    assert "a fifth (20 %) of the training images is held out" in squeeze(capsys.readouterr().out)


def test_training_into_a_study_or_another_folder_is_refused(tmp_path, capsys):
    study = tmp_path / "study"
    (study / "runs").mkdir(parents=True)
    (study / "study.toml").write_text("")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    for out in (study, study / "runs" / "mine"):
        assert flatmin("train", "sgd", "--epochs", "1", "--out", str(out)) == 2
        assert capsys.readouterr().err == f"flatmin: {out} belongs to the study {study}; choose another --out\n"
    assert flatmin("train", "sgd", "--epochs", "1", "--out", str(tmp_path / "thesis")) == 2
    assert "thesis exists and is not a run: it has no config.toml" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_network_in_the_working_folder_is_found(tmp_path, monkeypatch):
    """The installed command does not have the working folder on its path, unlike `python -m flatmin`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    (tmp_path / "package_that_lies_here").mkdir()
    text = "from torch.nn import *\ndef net(num_classes): return Sequential(Flatten(), Linear(64, num_classes))\n"
    (tmp_path / "package_that_lies_here" / "__init__.py").write_text(text)
    assert flatmin("train", "sgd", "--epochs", "1", "--model", "package_that_lies_here:net") == 0


def test_the_working_folder_is_on_the_path_for_the_command_only(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen, before = [], list(sys.path)
    monkeypatch.setattr(cli, "_run", lambda name, argv: seen.extend(sys.path))
    cli.main(["methods"])
    assert seen == [*before, str(tmp_path)] and sys.path == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device without room")
@pytest.mark.parametrize("file", ["metrics.jsonl", "result.json", "config.toml", "weights.pt"])
def test_a_full_disk_names_the_path(file, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.toml").write_text("")
    written = file if file == "metrics.jsonl" else f".{os.getpid()}.{file}"  # others are written under another name
    (out / written).symlink_to("/dev/full")
    assert flatmin("train", "sgd", "--epochs", "1", "--keep-weights", "--out", str(out)) == 2
    message = f"flatmin: [Errno {errno.ENOSPC}] No space left on device: '{out / file}'\n"
    assert capsys.readouterr().err.endswith(message)


def test_training_goes_on_and_refuses_another_protocol_in_its_folder(tmp_path, capsys):
    command = ["train", "sam", "--settings", "lr=0.05", "rho=0.2", "--epochs", "2", "--out", str(tmp_path / "run")]
    assert flatmin(*command) == 0
    first = capsys.readouterr().out
    assert "epoch 2: loss" in first and "gradient evaluations: 64" in first
    assert flatmin(*command) == 0
    assert capsys.readouterr().out in first
    assert flatmin(*command, "--seed", "1") == 2
    assert "holds a finished run with another seed; choose another --out" in capsys.readouterr().err

"""The task `text`: its alphabet, windows and bits, and all that images have: search, budgets, resuming, reports."""

import copy
import dataclasses
import math
import random
from pathlib import Path

import pytest
import torch

from flatmin import robustness
from flatmin.commands import study_options
from flatmin.commands.tune import Tune
from flatmin.study import compare, config, estimate, files, plan, settings
from flatmin.study.config import Run, Study, Training
from flatmin.study.data import text
from flatmin.study.data.text import OTHER, Windows
from flatmin.study.minima import run_flatness
from flatmin.study.networks.transformer import character_transformer
from flatmin.study.report import experimental_setup, robustness_tables, write
from flatmin.study.report.summary import summarise
from flatmin.study.tasks import characters
from flatmin.study.tasks.runs import perform, task_of
from flatmin.study.tasks.task import Attempt
from flatmin.study.training import checkpoints, record, robust
from support.command_line import flatmin

RECIPES = Path(__file__).parents[3] / "recipes"
WORDS = ("the", "sea", "is", "wide", "and", "we", "sail", "on", "it", "again")
MOTS = ("la", "mer", "était", "calme", "et", "où", "va", "ce", "navire")


def _prose(words, count):
    draws = random.Random(0)
    return " ".join(draws.choice(words) for _ in range(count))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """The names of two files."""
    folder = tmp_path_factory.mktemp("texts")
    for name, words in (("first.txt", WORDS), ("second.txt", MOTS)):
        (folder / name).write_text(_prose(words, 600), encoding="utf-8")
    return str(folder / "first.txt"), str(folder / "second.txt")


SMALL = {"context": 8, "width": 32, "depth": 1, "batch_size": 16, "epochs": 1}


@pytest.fixture
def run(corpora):
    """A final run of ten or so steps."""
    training = Training(task="text", data=corpora[0], **SMALL)
    return plan.single(training, "adamw", {"lr": 0.01}, 0.0, 0)


def trained(run, measure=None, **changes):
    """The result of a run, in no folder."""
    run = dataclasses.replace(run, **changes)
    return task_of("text").train(run, Attempt(measure=measure))


# -- data --------------------------------------------------------------------------------------------------------------


def test_rare_characters_are_one_symbol_and_the_splits_are_contiguous(tmp_path):
    content = "ab" * 40 + "x" * 9 + "c" * 11 + "éab" + "x" * 7  # 99 for training, 5, 6
    (tmp_path / "one").write_text(content, encoding="utf-8")
    (tmp_path / "two").write_text("x" * 30, encoding="utf-8")
    alone, both = text.load(str(tmp_path / "one")), text.load(str(tmp_path / "one"), str(tmp_path / "two"))
    assert (alone.symbols, both.symbols) == (4, 5) and alone.then is None  # nine x are too few
    a, b, c, x = 1, 2, 3, 4
    assert alone.first.train.tolist() == [a, b] * 40 + [OTHER] * 9 + [c] * 10
    assert alone.first.validation.tolist() == [c, OTHER, a, b, OTHER] and alone.first.test.tolist() == [OTHER] * 6
    assert both.first.validation.tolist() == [c, OTHER, a, b, x] and both.then.train.tolist() == [x] * 27
    assert (alone.first.others, both.first.others) == (1.0, 0.0)
    assert alone.digest != both.digest


def test_a_pass_predicts_each_character_once_and_cuts_at_other_places():
    numbers = torch.arange(100)
    windows = Windows(numbers, -numbers, context=7, batch_size=3)
    torch.manual_seed(0)
    passes = [[*windows] for _ in range(2)]
    for batches in passes:
        assert len(batches) == len(windows) == 13 // 3
        x, y = (torch.cat(part) for part in zip(*batches, strict=True))
        assert torch.equal(-y, x + 1) and x.flatten().unique().numel() == x.numel() == 12 * 7
        assert torch.equal(x, x[:, :1] + torch.arange(7)) and not torch.equal(x[:, 0].sort().values, x[:, 0])
    assert passes[0][0][0][0, 0] % 7 != passes[1][0][0][0, 0] % 7
    for batches in (text.in_order(numbers, 7, 5), text.spread(numbers, 7, 5)):
        x, y = (torch.cat(part) for part in zip(*batches, strict=True))
        assert torch.equal(y, x + 1) and sorted(x.flatten().tolist()) == [*range(98)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ""}, "data must be a file of text, got none; write --data FILE"),
        ({"data": "nowhere.txt"}, "data: cannot read nowhere.txt: No such file"),
        ({"then": "nowhere.txt"}, "then: cannot read nowhere.txt"),
        ({"context": 500}, r"context must be less than .* 5 % of it: \d+, got 500; .* write --context"),
        ({"batch_size": 4000}, r"batch_size must be at most the training set, .* write --batch-size \d+"),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_first_run(change, message, corpora):
    with pytest.raises(ValueError, match=message):
        task_of("text").prepare(Training(**{"task": "text", "data": corpora[0], **SMALL, **change}))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "latin.txt").write_bytes("été".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt is not UTF-8 .*; convert it"):
        text.load(str(tmp_path / "latin.txt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "text", "subset": 100}, "subset = 100 is an option of images and not of text; leave out --subset"),
        ({"width": 96}, "width = 96 is an option of text and not of images; leave out --width"),
        ({"task": "txet"}, "unknown name 'txet'; did you mean text"),
    ],
)
def test_options_of_another_task_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        plan.canonical(Study(**options))
    with pytest.raises(ValueError, match="width must be a multiple of 32, got 40"):
        Training(task="text", width=40).check()


# -- network and loss --------------------------------------------------------------------------------------------------


def test_a_prediction_sees_what_is_before_it_only():
    torch.manual_seed(0)
    net = character_transformer(11, context=6, width=64, depth=2)
    x = torch.randint(11, (3, 6))
    changed = x.clone()
    changed[:, 4] = (x[:, 4] + 1) % 11
    before, after = net(x), net(changed)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.isclose(before[:, 4:], after[:, 4:]).all(2).any()
    torch.testing.assert_close(net(x[:, :3]), before[:, :3])  # shorter inputs
    assert sum(p.numel() for p in net.parameters()) == 2 * (12 * 64**2 + 13 * 64) + (2 * 11 + 6 + 2) * 64 + 11


def test_bits_are_those_of_every_character(run):
    torch.manual_seed(0)
    net, symbols = character_transformer(5, 8, 32, 1), torch.randint(5, (30,))
    expected = []
    for start in (0, 8, 16):  # the last 5 characters fill no window
        p = net(symbols[None, start : start + 8])[0].detach().softmax(1)
        expected += [-math.log2(p[i, symbols[start + i + 1]]) for i in range(8)]
    assert characters.bits(net, symbols, run) == pytest.approx(sum(expected) / 24, rel=1e-5)
    for p in net.parameters():
        p.data.zero_()
    assert characters.bits(net, symbols, run) == pytest.approx(math.log2(5), rel=1e-6)


def test_bfloat16_is_another_precision_of_the_same(run):
    whole, half = trained(run), trained(run, precision="bfloat16")
    assert whole.test != half.test == pytest.approx(whole.test, rel=0.05)


# -- a run -------------------------------------------------------------------------------------------------------------


def test_a_run_learns_and_says_what_it_is_scored_by(run):
    found = trained(run, epochs=4)
    assert found.metric.name == "bits per character" and found.metric.better == "lower"
    assert found.validation < 3.9 and found.test < 3.9  # of log2(15) = 3.9 bits
    assert found.steps == found.gradient_evaluations == 4 * 16
    assert trained(run, test=False).test is None


def test_budgets_noise_and_averages(run):
    sam = dataclasses.replace(run, contender="sam@adamw", budget="grads")
    assert [(one.steps, one.gradient_evaluations) for one in (trained(sam), trained(sam, budget="steps"))] == [
        (8, 16),
        (16, 32),
    ]
    plain = trained(run)
    assert trained(run, noise=0.5).test > plain.test
    averaged = dataclasses.replace(run, contender="adamw+ema", settings={**run.settings, "ema_decay": 0.5})
    assert trained(averaged).test != plain.test


def test_a_run_that_diverges_counts_as_one_that_knows_nothing(run, corpora, monkeypatch):
    found = trained(run, settings={"lr": 1e30, "wd": 0.0}, robustness=True, then=corpora[1])
    assert found.diverged == 1.0 and found.robustness is None
    nothing = math.log2(text.load(*corpora).symbols)
    assert found.test == found.validation == pytest.approx(nothing)
    monkeypatch.setattr(characters, "bits", lambda *_: math.nan)
    assert trained(run, then=corpora[1]).validation == nothing  # the last step made the weights not finite


def test_a_run_goes_on_where_it_was_killed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    run = dataclasses.replace(run, contender="sam+ema@adamw", warmup=0.2, epochs=2, evaluations=3)

    def stop(step, *_):
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(run, tmp_path / "stopped", watch=stop)
    assert (tmp_path / "stopped/checkpoint.pt").exists()
    perform(run, tmp_path / "stopped")
    perform(run, tmp_path / "whole")
    found = [record.read(tmp_path / name) for name in ("stopped", "whole")]
    same = {"seconds": 0.0, "environment": {}}
    assert dataclasses.replace(found[0][1], **same) == dataclasses.replace(found[1][1], **same)
    rows = [[{**row, "seconds": 0} for row in record.metrics(tmp_path / name)] for name in ("stopped", "whole")]
    assert rows[0] == rows[1] and [row["gradient_evaluations"] for row in rows[0]] == [22, 42, 64]


# -- robustness and forgetting -----------------------------------------------------------------------------------------


def test_robustness_is_in_bits_per_character(run):
    seen = []
    found = trained(run, lambda net, loss, batches: seen.append((net, loss, batches)), robustness=True)
    ((net, loss, batches),) = seen
    test = text.load(run.data).first.test

    def score():
        return characters.bits(net, test, run)

    assert score() == found.test
    assert found.robustness["rounding"] == {str(n): one for n, one in robustness.after_rounding(net, score).items()}
    after = robustness.after_noise(net, score, robust.WEIGHT_NOISE, draws=5, seed=config.number(0, "weight noise"))
    assert found.robustness["weight_noise"] == {str(scale): one for scale, one in after.items()}
    assert {*found.robustness} == {"rounding", "weight_noise"}
    x, y = next(iter(batches))
    assert loss(net(x), y).shape == (len(x),) and loss(net(x), y).mean() / math.log(2) < math.log2(15)


def test_what_is_forgotten_is_measured_with_plain_adamw_on_a_copy(run, corpora):
    kept = []
    run = dataclasses.replace(run, contender="sam@adamw", then=corpora[1], then_steps=7, then_lr=0.003)
    found = trained(run, lambda net, *_: kept.append(net))
    forgetting, corpus = found.robustness["forgetting"], text.load(*corpora)
    net = copy.deepcopy(kept[0])
    assert characters.bits(net, corpus.first.test, run) == found.test  # the original was left alone
    opt = torch.optim.AdamW(net.parameters(), lr=0.003, weight_decay=0.01, fused=True)
    order = characters.DataOrder(
        Windows(corpus.then.train, corpus.then.train, run.context, run.batch_size), config.number(run.seed, "then")
    )
    for _ in range(7):
        x, y = order.next()
        opt.zero_grad()
        torch.nn.functional.cross_entropy(net(x).flatten(0, 1), y.flatten()).backward()
        opt.step()
    by_hand = [characters.bits(net, part, run) for part in (corpus.first.test, corpus.then.test)]
    assert [forgetting["after"], forgetting["second"]] == pytest.approx(by_hand, rel=1e-4)
    assert forgetting["lost"] == forgetting["after"] - found.test
    again = dataclasses.replace(run, contender="pugd@adamw", settings={"lr": 0.5})
    assert characters.forgetting(kept[0], corpus, again) == (forgetting["after"], forgetting["second"])
    assert characters.forgetting(kept[0], corpus, dataclasses.replace(run, seed=1))[0] != forgetting["after"]


# -- a study -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studied(corpora, tmp_path_factory):
    """The folder of a study with a search, without its report, and its numbers. Do not write into it."""
    out = tmp_path_factory.mktemp("studies") / "text"
    options = {"arms": ("tuned",), "tune": 2, "seeds": 2, "robustness": True, "flatness": 8, **SMALL}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flatmin.study.report.write.refresh", summarise)  # plots take longer than these runs
        patch.delitem(run_flatness.STUDY, "adaptive")  # and this measure
        methods = ["adamw", "sam", "msam"]
        found = compare("text", methods, out=out, data=corpora[0], then=corpora[1], then_steps=5, **options)
    return out, found


def test_a_study_of_text_has_what_others_have(studied):
    out, found = studied
    tuning = files.read_json(out / "tuning.json")["conditions"][0]["contenders"]
    assert [*tuning] == ["adamw", "sam@adamw", "msam@adamw"]  # AdamW is the base of all
    assert all(one["score"] == min(trial["score"] for trial in one["trials"]) for one in tuning.values())
    tuned = [record.read(path.parent)[1] for path in out.glob("tune/**/result.json")]
    assert len(tuned) == 6 and all(one.test is None and one.robustness is None for one in tuned)
    report = write.markdown(found)
    for part in (
        "| method | test bits per character | n | Δ to adamw | p, Holm | gradients |",
        "### Flatness, tuned settings",
        "### Test bits per character with changed weights, tuned settings",
        "### Test bits per character after training on the second text, tuned settings",
        "### Rank correlation of what is forgotten with what is lost, tuned settings",
    ):
        assert part in report, part
    words = dict(experimental_setup.in_words(found))
    assert "first.txt, by characters" in words["Data"] and "goes on with second.txt" in words["Forgetting"]
    assert "best of 2 trials per method and condition by mean final validation bits per char" in words["Selection"]
    assert "accura" not in report and "images" not in words["Robustness"] and "Label noise" not in words
    saved = config.load(Study, out / "study.toml")
    assert saved.context == 8 and "subset" not in (out / "study.toml").read_text()


def test_what_is_forgotten_is_compared_by_seed(studied):
    _, found = studied
    runs = {(row.contender, seed): run for row in found.rows for seed, run in row.runs.items()}
    forgotten = {key: run.result.robustness["forgetting"]["lost"] for key, run in runs.items()}
    (sam,) = [row for row in found.rows if row.contender == "sam@adamw"]
    relative = robustness_tables.relative(found, sam)
    ratios = [forgotten["sam@adamw", seed] / forgotten["adamw", seed] - 1 for seed in (0, 1)]
    assert relative.mean == pytest.approx(sum(ratios) / 2) and relative.n == 2
    results = robustness_tables.as_json(found)["robustness"]
    numbers = next(row["numbers"] for row in results["table"] if row["contender"] == "sam@adamw")
    (lost,) = [one for one in numbers if one["level"] == "lost"]
    expected = [forgotten["sam@adamw", seed] - forgotten["adamw", seed] for seed in (0, 1)]
    assert lost["difference"]["mean"] == pytest.approx(sum(expected) / 2)
    levels = {(one["group"], one["level"]) for one in results["correlations"]}
    assert levels == {*((one.group, one.level) for one in robustness_tables.WEIGHTS), ("forgetting", "lost")}
    assert len(results["forgotten_with"]) == 6


def test_the_cost_counts_what_final_runs_measure(corpora, tmp_path):
    own = {"methods": ("adamw",), "arms": ("default",), "data": corpora[0], "seeds": 1}
    protocol = Study(**{**config.defaults("text"), **own, **SMALL})
    task, single = task_of("text"), plan.resolve(plan.canonical(protocol)).runs["runs/default/noise-0.0/adamw/seed-0"]
    step = 2.0
    plain = task.cost(single, 1.0, step)
    more = task.cost(dataclasses.replace(single, robustness=True, then=corpora[1], then_steps=10), 1.0, step)
    test = len(text.load(corpora[0]).first.test) / 16 / 8 / 3 * step
    assert plain.final_seconds - plain.seconds == pytest.approx(test)
    assert more.final_seconds - more.seconds == pytest.approx((1 + 19 + 2) * test + 10 * step, rel=0.01)
    (cost,) = estimate.estimate(protocol, tmp_path / "out")
    assert cost.gradients == 16 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("text*.toml")), ids=lambda path: path.stem)
def test_every_recipe_on_text_trains_its_contenders(path, corpora):
    study = config.load(Study, path)
    small = dataclasses.replace(study, data=corpora[0], then=corpora[1], then_steps=3, **SMALL)
    protocol = plan.canonical(small)
    for name in small.methods:
        run = protocol.run(name, settings.default(small, name), 0.0, 0, test=True)
        result = trained(run)
        assert result.diverged is None and math.isfinite(result.robustness["forgetting"]["lost"])


def test_the_commands_know_text(corpora, tmp_path, capsys):
    small = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    options = ["--task", "text", "--data", corpora[0], *small]
    out = ["--arms", "default", "--seeds", "1", "--out", str(tmp_path / "out")]
    assert flatmin("compare", *options, *out, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "5 trainings: 5 final runs." in shown and "adamw+ema" in shown and "msam@adamw" in shown
    assert flatmin("train", "sam", *options, "--out", str(tmp_path / "run"), "--keep-weights") == 2
    assert "leave out --keep-weights" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert flatmin("train", "sam", *options, "--out", str(tmp_path / "run")) == 0
    assert "test: " in capsys.readouterr().out
    found = config.load(Run, tmp_path / "run/config.toml")
    assert (found.contender, found.warmup, found.settings["lr"]) == ("sam@adamw", 0.05, 0.001)
    assert flatmin("compare", "--task", "text", *out) == 2
    assert "write --data FILE" in capsys.readouterr().err
    made = study_options.defaults(Tune, ["--task", "text"])
    assert (made.study.tune, made.study.base, made.study.batch_size) == (16, "adamw", 16)

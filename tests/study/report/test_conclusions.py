"""What a study says: the forest plots, the sentence of each condition, and two screens on the terminal."""

import base64
import dataclasses
import json
from pathlib import Path

import pytest
from rich.console import Console

from flatmin.study import config
from flatmin.study.config import Study
from flatmin.study.metric import ACCURACY, Metric
from flatmin.study.report import conclusions, drawing, flatness_correlation, flatness_tables, tables, terminal
from flatmin.study.report.flatness_correlation import FlatnessCorrelation, RankCorrelation
from flatmin.study.report.summary import Finished, Row, Summary, as_json, compared
from flatmin.study.stats import Interval, two_way_interval
from flatmin.study.training.record import Result

ROOT = Path(__file__).parents[3]


def summary_of(study, accuracies, gradients=None, diverged=(), seconds=None, metric=ACCURACY):
    """A summary of made-up runs.

    Args:
        study: the protocol.
        accuracies: test accuracies by (arm, noise, contender), in the order of the seeds.
        gradients: per step, by contender; 1 by default.
        diverged: the contenders whose runs diverged.
        seconds: of a run, by contender.
        metric: of the values.
    """
    rows = []
    for (arm, noise, name), values in accuracies.items():
        runs = {}
        for seed, value in enumerate(values):
            run = study.run(name, {"lr": 0.1}, noise, seed, test=True)
            count = (gradients or {}).get(name, 1)
            ended = 1.0 if name in diverged else None
            result = Result(value, value, 400 * count, 400, 1.0, ended, "", 7, {}, metric=metric)
            runs[seed] = Finished(run, result, Path("nowhere"))
        rows.append(Row(arm, noise, name, runs, None))
    panels: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        panels.setdefault((row.arm, row.noise), []).append(row)
    rows = [row for panel in panels.values() for row in compared(panel, "sgd")]
    return Summary(study, rows, "sgd", 0, {"command": "", "date": ""})


def one_condition(diverged=(), metric=ACCURACY, **accuracies):
    names = tuple(name.replace("_", "-") for name in accuracies)
    study = Study(methods=names, arms=("default",), noise=(0.0,), seeds=len(accuracies["sgd"]))
    values = {("default", 0.0, name): each for name, each in zip(names, accuracies.values(), strict=True)}
    return summary_of(study, values, {"sam": 2}, diverged, metric=metric)


SGD = [0.90, 0.91, 0.92, 0.90, 0.91]
UP = [0.93, 0.94, 0.96, 0.94, 0.94]
DOWN = [0.85, 0.85, 0.88, 0.86, 0.86]
SAME = [0.91, 0.90, 0.92, 0.89, 0.90]


def sentence(found):
    return conclusions.sentence(found, "default", 0.0)


def test_a_sentence_says_what_may_be_concluded_and_what_not():
    assert sentence(one_condition(sgd=SGD, asam=SAME, sam=UP, pugd=DOWN)) == (
        "The paired 95 % interval excludes zero for sam (more accurate than sgd) and for pugd (less accurate than "
        "sgd); asam cannot be told apart from sgd; n = 5 paired seeds, not corrected for 3 comparisons; corrected "
        "(Holm, 5 %), sam and pugd still differ."
    )
    assert sentence(one_condition(sgd=SGD, asam=SAME)) == (
        "No paired 95 % interval excludes zero; asam cannot be told apart from sgd; n = 5 paired seeds."
    )


def test_where_lower_is_better_so_is_the_verdict():
    found = one_condition(sgd=SGD, asam=SAME, sam=UP, pugd=DOWN, metric=Metric("RMSE", "lower", "mm"))
    assert sentence(found).startswith(
        "The paired 95 % interval excludes zero for pugd (better than sgd) and for sam (worse than sgd); asam cannot"
    )
    lines = conclusions.lines(found, "default", 0.0)
    assert [line.name for line in lines] == ["pugd", "asam", "sgd", "sam"]
    assert [line.words for line in lines][::2] == ["-0.048 ± 0.010", "baseline"]
    assert conclusions.limits([lines])[1] < 0.1, "differences are not in percent"
    assert drawing.seen(5.0, (0.0, 1.0), found.metric) == 0.98 and drawing.seen(-5.0, (0.0, 1.0), ACCURACY) == 0.02


def test_two_runs_tell_little_and_one_tells_nothing():
    two = sentence(one_condition(sgd=SGD[:2], sam=UP[:2], asam=SAME[:2]))
    assert "n = 2 paired seeds, not corrected for 2 comparisons; corrected (Holm, 5 %), no method differs; " in two
    assert two.endswith("; two runs tell little.")
    one = sentence(one_condition(sgd=SGD[:1], sam=UP[:1]))
    assert "there is no interval for sam" in one and one.endswith("one run tells nothing about the spread.")
    assert "two runs" not in sentence(one_condition(sgd=SGD[:3], sam=UP[:3]))
    alone = one_condition(sgd=SGD)
    assert sentence(alone) == "Only sgd was run: there is nothing to compare it with."


def test_the_difference_over_images_is_that_of_the_same_images():
    found = one_condition(sgd=[0.5, 0.75], sam=[0.75, 0.75])
    bits = {"sgd": ("1100", "1101"), "sam": ("1101", "1011")}
    rows = []
    for row in found.rows:
        runs = {}
        for seed, run in row.runs.items():
            packed = base64.b64encode(bytes([int(bits[row.contender][seed].ljust(8, "0"), 2)])).decode()
            runs[seed] = dataclasses.replace(
                run, result=dataclasses.replace(run.result, test_images=4, test_correct=packed)
            )
        rows.append(dataclasses.replace(row, runs=runs))
    assert [row.with_images for row in compared(found.rows, "sgd")] == [None, None], "no images, no interval"
    sgd, sam = compared(rows, "sgd")
    assert sgd.with_images is None
    assert sam.with_images == two_way_interval([[0, 0, 0, 1], [0, -1, 1, 0]])
    assert sam.with_images.mean == sam.difference.mean and sam.with_images.half_width >= sam.difference.half_width


def test_equal_differences_are_no_evidence():
    found = one_condition(sgd=[0.5, 0.6], sam=[0.6, 0.7], asam=[0.5, 0.6])
    assert [conclusions.verdict(row) for row in found.rows[1:]] == ["unknown", "open"]
    assert "there is no interval for sam, so no conclusion" in sentence(found)


def test_the_forest_plot_is_sorted_and_has_the_costs():
    found = conclusions.lines(one_condition(sgd=SGD, asam=SAME, sam=UP, pugd=DOWN), "default", 0.0)
    assert [line.name for line in found] == ["sam", "sgd", "asam", "pugd"]
    assert [line.cost for line in found if line.name == "sam"] == [2]
    best = found[0]
    assert best.low > 0 and best.high - best.mean == pytest.approx(best.mean - best.low)
    assert best.words == f"{best.mean:+.2f} ± {best.high - best.mean:.2f}"


def test_diverged_methods_do_not_set_the_scale():
    broken = one_condition(sgd=SGD, sam=UP, pugd=[0.1, 0.9, 0.1, 0.1, 0.1], diverged=("pugd",))
    low, high = conclusions.limits([conclusions.lines(broken, "default", 0.0)])
    assert -1 < low < 0 < 4 < high < 6
    assert 0 in conclusions.ticks((low, high))


def test_intervals_of_accuracies_end_at_0_and_100():
    assert tables.percent(Interval(0.995, 0.024, 2)) == "99.50 [97.10, 100]"
    assert tables.percent(Interval(0.1, 0.3, 2)) == "10.00 [0, 40.00]"
    assert tables.percent(Interval(0.98, 0.0075, 5)) == "98.00 ± 0.75"
    assert tables.percent(Interval(-0.6, 0.5, 5), sign="+") == "-60.00 [-100, -10.00]"
    assert drawing.bars(Interval(0.995, 0.024, 2), ACCURACY) == pytest.approx((2.4, 0.5))
    wild = one_condition(sgd=[0.1, 0.9], sam=[0.9, 0.1])
    line = next(line for line in conclusions.lines(wild, "default", 0.0) if line.name == "sam")
    assert (line.low, line.high) == (-100, 100)


def test_a_correlation_without_a_value_is_a_line_and_no_row(monkeypatch):
    study = one_condition(sgd=SGD)
    none, some = RankCorrelation(None, 2), RankCorrelation(0.5, 4)
    found = [
        FlatnessCorrelation("default", 0.0, "lambda_max", none, none, None),
        FlatnessCorrelation("default", 0.0, "trace", some, none, None),
        FlatnessCorrelation("default", 0.4, "trace", RankCorrelation(None, 6), none, None),
    ]
    monkeypatch.setattr(flatness_correlation, "correlations", lambda summary: found)
    assert [(heading[-12:], [row[0] for row in rows]) for heading, rows in flatness_tables.correlations(study)] == [
        ("clean labels", ["trace"])
    ]
    assert [*flatness_tables.without_correlation(study)] == [
        "No rank correlation with the test error for λ_max, default settings, clean labels: fewer than three runs were "
        "measured.",
        "No rank correlation with the test error for trace, default settings, 40 % label noise: all values, or all "
        "errors, are equal.",
    ]
    assert flatness_tables.in_words(found[0]) == "no rank correlation (2 runs)"
    assert flatness_tables.in_words(found[1]) == "ρ = 0.50 (4 runs)"


# -- on the terminal ---------------------------------------------------------------------------------------------------


def digits():
    """The published study of the digits, as if it had just ended."""
    results = json.loads((ROOT / "results" / "digits.json").read_text())
    found: dict = {}
    for run in sorted(results["runs"], key=lambda run: run["seed"]):
        found.setdefault((run["arm"], run["noise"], run["contender"]), []).append(run["test_accuracy"])
    keys = [(row["arm"], row["noise"], row["contender"]) for row in results["table"]]
    return summary_of(
        config.load(Study, ROOT / "recipes" / "digits_fixed_decay.toml"), {key: found[key] for key in keys}
    ), results


def printed(found, width):
    console = Console(width=width, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        terminal.show(found, console)
        return console.export_text()


def test_the_study_of_the_digits_fits_two_screens():
    found, _ = digits()
    lines = printed(found, 80).splitlines()
    assert len(lines) <= 2 * 24 - 2  # two for the prompt and the name of the report
    assert max(map(len, lines)) <= 80
    text = " ".join(lines)
    assert "98.00±0.75" in text and "+14.72±3.60" in text and "…" not in text
    for arm in found.study.arms:
        for noise in found.study.noise:
            assert conclusions.sentence(found, arm, noise) in " ".join(text.split())


def test_the_published_numbers_are_those_of_the_tables():
    found, results = digits()
    for one, row in zip(as_json(found)["table"], results["table"], strict=True):
        assert one["test_accuracy"] == pytest.approx(row["test_accuracy"])
        assert (one["difference"] is None) == (row["difference"] is None)


def test_conditions_that_do_not_fit_get_a_table_of_their_own():
    found, _ = digits()
    wide, narrow = printed(found, 120), printed(found, 60)
    assert wide.count("method  ") == 2 and narrow.count("method  ") == 4
    assert "lr 0.1" in wide and "lr 0.1" not in narrow
    assert max(map(len, narrow.splitlines())) <= 60


def test_a_condition_without_runs_is_no_reason_to_fail():
    found, _ = digits()
    half = dataclasses.replace(found, rows=[row for row in found.rows if row.noise == 0.0])
    assert "40 %" not in printed(half, 80)

"""flatmin train --shard: networks of which every process holds a part, in real processes."""

import pytest

from flatmin import cli
from flatmin.study.training.torchrun import Processes
from support.ranks import launch, study

#: One process of the test run has all tests that fork, see support.forked, and starts the ranks once.
pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shard")
    return launch.run(study.everything, folder, folder)


@pytest.fixture(scope="module")
def alone():
    return study.outcome(study.PLAIN, Processes())


def assert_close(found, expected):
    (result, rows), (expected_result, expected_rows) = found, expected
    assert len(rows) == len(expected_rows) == 2
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert row["train_loss"] == pytest.approx(expected_row["train_loss"], rel=1e-3)
        assert row["gradient_evaluations"] == expected_row["gradient_evaluations"]
    for name in ("test_accuracy", "validation_accuracy"):
        assert result[name] == pytest.approx(expected_result[name], abs=0.02)
    assert result["parameters"] == expected_result["parameters"]


def test_two_processes_with_half_the_weights_train_as_one_with_all(ranks, alone):
    for rank in ranks:
        assert_close(rank["plain"], alone)
        assert rank["plain"] == ranks[0]["plain"]


def test_a_sharded_run_that_was_stopped_goes_on_to_the_same_bits(ranks):
    for rank in ranks:
        assert rank["stopped"] == rank["normed"] == ranks[0]["normed"]
        losses = [row["train_loss"] for row in rank["normed"][1]]
        assert losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("way", ["unsharded", "sharded"])
def test_a_run_goes_on_sharded_or_not_whatever_it_was(ranks, alone, way):
    for rank in ranks:
        assert_close(rank[way], alone)


def test_blocks_are_wrapped_and_a_process_holds_half(ranks):
    for rank in ranks:
        found = rank["blocks"]
        assert found["small-vit"]["wrapped"] == ["", *(f"blocks.{i}" for i in range(7))]
        assert len(found["resnet20"]["wrapped"]) > 9
        assert all(0.45 < each["share"] < 0.55 for each in found.values())


def test_evaluation_sees_the_weights_of_now_and_counts_nothing_twice(ranks):
    for rank in ranks:
        accuracies, expected = rank["evaluated"]
        assert accuracies == expected and accuracies[0] != accuracies[1]


def test_what_a_method_remembers_is_gathered_and_cut_again(ranks):
    assert all(rank["memory"] for rank in ranks)


def test_running_statistics_are_those_of_the_first_process(ranks):
    assert ranks[0]["statistics"] == ranks[1]["statistics"]
    assert ranks[0]["statistics"][0] != [0.0] * 16, "they moved"


def test_one_process_has_nobody_to_share_with(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(SystemExit) as error:
        cli.main(["train", "sgd", "--shard", "--out", str(tmp_path / "run")])
    assert error.value.code == 2 and not (tmp_path / "run").exists()
    assert "write torchrun --nproc-per-node 2 -m flatmin train --shard" in capsys.readouterr().err

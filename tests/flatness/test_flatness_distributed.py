"""Two processes with a share of the data each measure what one measures with all of it."""

import pytest
import torch

from flatmin.flatness import Risk, m_sharpness
from support import small_risks
from support.ranks import flatness, launch

#: One process of the test run has all tests that fork, see support.forked, and starts the ranks once.
pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return launch.run(flatness.everything, tmp_path_factory.mktemp("flatness"))


@pytest.fixture(scope="module")
def alone():
    return flatness.measured(Risk(small_risks.net(), flatness.LOSS, flatness.share(None)))


@pytest.mark.parametrize("kind", ["plain", "ddp", "lopsided"])
def test_two_processes_equal_one(ranks, alone, kind):
    for rank in ranks:
        assert rank[kind].keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(rank[kind][name], value, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", ["plain", "ddp"])
def test_all_processes_get_the_same_numbers(ranks, kind):
    torch.testing.assert_close(ranks[0][kind], ranks[1][kind], rtol=0, atol=0)


def test_a_process_may_measure_by_itself(ranks):
    for rank, found in enumerate(ranks):
        assert found["alone"] == pytest.approx(Risk(small_risks.net(), flatness.LOSS, flatness.share(rank)).value())


def test_chunks_are_cut_from_each_share(ranks):
    shares = [m_sharpness(Risk(small_risks.net(), flatness.LOSS, flatness.share(rank)), 3) for rank in (0, 1)]
    total = sum(each.value * each.samples for each in shares) / sum(each.samples for each in shares)
    assert [each.samples for each in shares] == [2, 1]
    assert [rank["chunks"] for rank in ranks] == pytest.approx([total, total])


def test_what_one_process_refuses_all_refuse(ranks):
    assert all("the loss is nan at these weights" in rank["nan"] for rank in ranks)
    assert all("data has no examples" in rank["nothing"] for rank in ranks)
    assert "used up by the first pass" in ranks[1]["used up"]
    assert "another process refused its share" in ranks[0]["used up"]

"""Methods of other packages in studies."""

import shutil
import sys

import pytest

from flatmin.study import outside
from flatmin.study.comparison import compare
from flatmin.study.config import Study
from flatmin.study.contender import Contender
from flatmin.study.report import write
from flatmin.study.report.sensitivity import sensitivity
from flatmin.study.settings import space
from flatmin.study.tuning import read

CODE = '''
from dataclasses import dataclass
from flatmin.entry import Entry, Range
from flatmin.methods.functional import FunctionalSAM
from flatmin.methods.sam import SAM

@dataclass(frozen=True)
class Extra:
    """Two gradients."""
    def direction(self, vec, state=None):
        first = yield
        second = yield 0.05 * first
        return 0.5 * (first + second)

@dataclass(frozen=True)
class Own(SAM):
    pass

class Outputs(FunctionalSAM):
    pass

ENTRY = Entry("own", Own, "SAM again", group="Sharpness-aware", gradients=2, copies=1, space={"rho": Range(0.1, 0.2)})
broken = 3
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "elsewhere_of_test.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    outside.entry.cache_clear()
    yield "elsewhere_of_test"
    sys.modules.pop("elsewhere_of_test", None)
    outside.entry.cache_clear()


def test_a_class_has_its_entry_or_only_rate_and_decay(package):
    study = Study(methods=(f"{package}:Extra", f"{package}:Own+ema@adamw", f"{package}:ENTRY"))
    plain, own, entry = (Contender.parse(name) for name in study.methods)
    assert (str(plain), str(own)) == (f"{package}:Extra", f"{package}:Own+ema@adamw")
    assert [*space(study, str(plain))] == ["lr", "wd"] and plain.entry.gradients == 2
    assert [*space(study, str(own))] == ["lr", "wd", "rho", "ema_decay"] and own.base == "adamw"
    assert Contender.parse(f"{package}:Outputs").entry.gradients == 2  # a method that needs what the network computed
    assert entry.entry is own.entry and own.entry.name == "own"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_at_all:Extra", "method: cannot import 'nowhere_at_all' .* put that folder on PYTHONPATH"),
        (":Extra", "cannot import ''"),
        ("elsewhere_of_test:Extr", "elsewhere_of_test has no class 'Extr'; did you mean Extra"),
        ("elsewhere_of_test:broken", "has no class 'broken'"),
        ("elsewhere_of_test:dataclass", "dataclass cannot take a step"),
    ],
)
def test_what_is_no_method_is_refused(name, message, package):
    with pytest.raises(ValueError, match=message):
        Contender.parse(name)


def test_a_study_with_it_can_be_read_without_the_package(package, tmp_path):
    name = f"{package}:Extra"
    study = Study(methods=("sgd", name), arms=("tuned",), noise=(0.0,), seeds=1, epochs=1, tune=2, batch_size=256)
    before = compare(study, tmp_path / "out")
    assert before.rows[1].gradient_evaluations == 2 * before.rows[0].gradient_evaluations == 8
    (tmp_path / "elsewhere_of_test.py").unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    sys.modules.pop(package)
    outside.entry.cache_clear()
    after = write.refresh(tmp_path / "out")
    assert [row.test for row in after.rows] == [row.test for row in before.rows]
    assert after.rows[1].settings == before.rows[1].settings
    assert {one.contender for one in sensitivity(study, read(tmp_path / "out"), after)} == {"sgd"}

"""Metrics: which values are better, and how they are written."""

import pytest

from flatmin.study.metric import ACCURACY, Metric
from flatmin.study.stats import Interval

RMSE = Metric("RMSE", "lower", "mm")
R2 = Metric("R²", "higher")


@pytest.mark.parametrize(
    ("interval", "sign", "words"),
    [
        (Interval(54.321, 0.5234, 5), "", "54.32 ± 0.52"),
        (Interval(-0.001234, 0.000567, 5), "+", "-0.00123 ± 0.00057"),
        (Interval(1234.5, 98.7, 5), "", "1234 ± 99"),
        (Interval(0.98765, None, 1), "", "0.9877 ± –"),
        (Interval(0.5, 0.0, 3), "", "0.5000 ± 0.0000"),
        (Interval(0.0, None, 1), "+", "+0.00 ± –"),
    ],
)
def test_numbers_without_a_scale_have_two_digits_of_their_spread(interval, sign, words):
    assert RMSE.written(interval, sign) == words


def test_lower_can_be_better():
    assert (RMSE.best([3.0, 1.0, 2.0]), R2.best([3.0, 1.0])) == (1.0, 3.0)
    assert RMSE.reaches(1.0, 2.0) and not RMSE.reaches(2.1, 2.0) and R2.reaches(2.0, 2.0)
    assert RMSE.is_near(1.01, 1.0, 0.99) and not RMSE.is_near(1.02, 1.0, 0.99)
    assert R2.is_near(-1.01, -1.0, 0.99) and not R2.is_near(-1.02, -1.0, 0.99)
    assert ACCURACY.is_near(0.99 * 0.9, 0.9, 0.99) and not ACCURACY.is_near(0.98 * 0.9, 0.9, 0.99)


def test_errors_are_lower_where_it_is_better():
    assert (ACCURACY.error(0.9), RMSE.error(3.0), R2.error(0.7)) == (pytest.approx(0.1), 3.0, -0.7)
    headers = [metric.error_header for metric in (ACCURACY, RMSE, R2)]
    assert headers == ["test error, %", "test RMSE, mm", "minus test R²"]


def test_intervals_end_where_values_do():
    assert ACCURACY.clipped(99.0, 3.0) == (96.0, 100.0) and ACCURACY.clipped(1.0, 3.0, difference=True) == (-2.0, 4.0)
    assert ACCURACY.clipped(-99.0, 3.0, difference=True) == (-100.0, -96.0) and RMSE.clipped(1.0, 3.0) == (-2.0, 4.0)


def test_records_of_accuracies_keep_their_names():
    assert ACCURACY.as_json() == {} and Metric.from_json({}) is ACCURACY
    assert Metric.from_json(RMSE.as_json()) == RMSE
    assert [ACCURACY.key("test"), RMSE.key("test"), RMSE.key("validation")] == ["test_accuracy", "test", "validation"]

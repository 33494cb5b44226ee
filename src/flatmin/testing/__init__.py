"""The public contract of a method: `check_method(MyMethod())` runs it on yours."""

from flatmin.testing.contract import CHECKS, Check, check_method, count_gradients
from flatmin.testing.problem import Problem

__all__ = ["CHECKS", "Check", "Problem", "check_method", "count_gradients"]

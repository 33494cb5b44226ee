"""Honest comparisons of optimizers: paired runs, equal budgets, intervals, every run kept.

To read it, start with `config` (what a run and a study are), `train` (the loop) and `compare` (plan, do, report); the
other files are leaves.
"""

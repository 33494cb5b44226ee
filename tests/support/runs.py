"""What other processes do with runs of a study."""

import time

from flatmin.study import pool
from flatmin.study.tasks import runs
from flatmin.study.training import checkpoints


def perform_saving_always(run, folder):
    """With a checkpoint after every step."""
    checkpoints.INTERVAL = 0.0
    runs.perform(run, folder)


def sleep():
    """In two workers, for longer than any test; say when each has had a task."""
    for _ in pool.run_all(time.sleep, [(0,), (0,), (600,), (600,)], 2):
        print(flush=True)

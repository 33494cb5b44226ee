"""A script in this process."""

import runpy
import sys


def run(path):
    """As `python path` does."""
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path)]
    runpy.run_path(str(path), run_name="__main__")

"""The `flatmin` command without the seconds that a fresh interpreter takes to import torch."""

from flatmin import cli
from support.forked import Forked


def flatmin(*argv):
    """Run a command line in this process; its exit code."""
    try:
        cli.main(argv)
    except SystemExit as end:
        return end.code or 0
    return 0


def started(*argv):
    """The same in a process of its own, to be killed."""
    return Forked(cli.main, argv)

"""Start the ranks of a scenario as processes of their own, and collect what they return."""

import os
import time
from pathlib import Path

import torch
import torch.distributed as dist

from support.forked import Ranks

#: All that a rank says if torch aborts it while it takes the process group apart, which it does now and then on a busy
#: machine. What the rank had to return is written by then.
ABORT = "terminate called without an active exception"


def start(scenario, folder, *more):
    """The two ranks of `scenario`, an importable function: it is called with the rank, and with `more`."""
    return Ranks(_take_part, scenario, Path(folder), *more)


def run(scenario, folder, *more):
    """What the scenario returned on each rank."""
    ended = start(scenario, folder, *more).finish()
    results = [Path(folder) / f"{rank}.pt" for rank in range(len(ended))]
    for (code, _, errors), result in zip(ended, results, strict=True):
        assert code == 0 or (result.exists() and errors.strip() == ABORT), "\n".join(errors for *_, errors in ended)
    return [torch.load(result, weights_only=True) for result in results]


def _take_part(scenario, folder, *more):
    rank, world = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    dist.init_process_group("gloo")
    returned = scenario(rank, *more)
    torch.save(returned, folder / f"{rank}.part")
    (folder / f"{rank}.part").rename(folder / f"{rank}.pt")
    # Not a barrier: the first to leave one may close connections that the others still read from.
    while not all((folder / f"{other}.pt").exists() for other in range(world)):
        time.sleep(0.05)
    dist.destroy_process_group()

"""A pair of base optimizers under one method: Muon for matrices, AdamW for the rest. Needs torch 2.9 or later.

cd examples
flatmin compare --task own_task:train --base two_bases:make --methods plain sam --tune 8 --arms tuned --out ../runs/two
"""

from typing import Any

import torch


def make(groups: list[dict[str, Any]], lr: float = 3e-3, wd: float = 0.01) -> list[torch.optim.Optimizer]:
    """One optimizer for each half of the parameters. Muon's step is scaled so that AdamW's learning rate fits it."""
    parameters = [p for group in groups for p in group["params"]]
    matrices, others = ([p for p in parameters if (p.ndim == 2) == which] for which in (True, False))
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=wd, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=lr, weight_decay=wd)]

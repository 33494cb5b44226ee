"""A study of a training function of one's own: regression on scikit-learn's diabetes data, AdamW, lower is better.

cd examples
flatmin compare --task own_task:train --base adamw --methods plain sam pugd msam --tune 8 --arms tuned --out ../runs/own
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from flatmin.study import Outcome, Trial

x, y = (torch.tensor(each, dtype=torch.float32) for each in load_diabetes(return_X_y=True))
x, y = x / x.std(0), y / 100  # the disease's progression after a year, in hundreds
rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))  # the same three splits in every run
training, validation, test = (TensorDataset(x[part], y[part]) for part in rows.split([240, 100, 102]))


def losses(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss of every example, (n,)."""
    return (net(x).squeeze(1) - y) ** 2


@torch.no_grad()
def rmse(net: nn.Module, data: TensorDataset) -> float:
    """The root mean squared error on a split."""
    return losses(net, *data.tensors).mean().sqrt().item()


def train(trial: Trial) -> Outcome:
    """RMSE of a small network with ReLU, 30 epochs in batches of 32."""
    net = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1))  # trial has seeded torch
    opt = trial.optimizer(net.parameters(), model=net)
    loader = DataLoader(training, batch_size=32, shuffle=True)
    for x, y in trial.steps(loader, epochs=30, save=[net, opt]):
        for probe in opt.probes():
            probe.backward(losses(net, x[probe.rows], y[probe.rows]))
        opt.step()
    return Outcome(
        validation=rmse(net, validation),
        test=lambda: rmse(net, test),  # called in final runs only
        better="lower",
        metric="RMSE",
        net=net,  # the last three for the flatness of the minimum
        loss=lambda outputs, y: (outputs.squeeze(1) - y) ** 2,
        batches=DataLoader(training, batch_size=240),
    )

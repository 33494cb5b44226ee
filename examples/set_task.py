"""A study of sets: the sum of some handwritten digits, from their images in any order (Deep Sets, arXiv 1703.06114).

cd examples
flatmin compare --task set_task:train --base adamw --methods plain sam pugd --tune 8 --arms tuned --out ../runs/sets
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from flatmin.study import Outcome, Trial

LARGEST = 5  # images in a set; smaller sets are filled up with what the mask hides


def sets(images: torch.Tensor, digits: torch.Tensor, count: int, seed: int) -> TensorDataset:
    """Sets of 2 to 5 of the images, which ones are filled, and the sums of their digits."""
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(images), (count, LARGEST), generator=draws)
    mask = torch.arange(LARGEST) < torch.randint(2, LARGEST + 1, (count, 1), generator=draws)
    return TensorDataset(images[rows], mask, (digits[rows] * mask).sum(1).float())


x, y = (torch.tensor(each) for each in load_digits(return_X_y=True))
parts = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).split([1000, 397, 400])  # no image is in two
training, validation, test = (
    sets(x[part].float() / 16, y[part], count, seed)
    for seed, (part, count) in enumerate(zip(parts, (1000, 400, 400), strict=True))
)


class DeepSet(nn.Module):
    """A network for each image, the sum over the set, a network for the sum: the order of a set changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.element = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.whole = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(n, size, 64) and (n, size) -> (n,)."""
        return self.whole((self.element(images) * mask[..., None]).sum(1)).squeeze(1)


@torch.no_grad()
def mae(net: nn.Module, data: TensorDataset) -> float:
    """The mean absolute error of the sum on a split."""
    images, mask, sums = data.tensors
    return (net(images, mask) - sums).abs().mean().item()


def train(trial: Trial) -> Outcome:
    """The mean absolute error of the sum of two to five digits, 10 epochs in batches of 100."""
    net = DeepSet()
    opt = trial.optimizer(net.parameters(), model=net)
    loader = DataLoader(training, batch_size=100, shuffle=True)
    for images, mask, sums in trial.steps(loader, epochs=10, save=[net, opt]):
        for probe in opt.probes():
            outputs = net(images[probe.rows], mask[probe.rows])
            probe.backward((outputs - sums[probe.rows]) ** 2)
        opt.step()
    return Outcome(
        validation=mae(net, validation),
        test=lambda: mae(net, test),
        better="lower",
        metric="MAE",
        net=net,  # for --robustness
    )

"""A study of plasticity: labels that are drawn anew, and the accuracy on the training images after each drawing.

cd examples
flatmin compare --task reshuffled_labels:train --methods sgd ugd sam pugd --tune 8 --arms tuned --out ../runs/reshuffled
"""

import statistics

import torch
from digits import load
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import flatmin
from flatmin.study import Outcome, Trial

DRAWINGS, EPOCHS, IMAGES = 5, 20, 512
images = load()[0].tensors[0][:IMAGES].flatten(1)


@torch.no_grad()
def accuracy(net: nn.Module, labels: torch.Tensor) -> float:
    """The fraction of the images that are named as drawn."""
    return (net(images).argmax(1) == labels).float().mean().item()


def train(trial: Trial) -> Outcome:
    """Mean accuracy on the training images before the next drawing; without the first, which every network learns."""
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    opt = trial.optimizer(net.parameters(), model=net)
    generator = torch.Generator().manual_seed(trial.seed)
    drawn = [torch.randint(10, (IMAGES,), generator=generator) for _ in range(DRAWINGS)]
    loader = DataLoader(TensorDataset(torch.arange(IMAGES)), batch_size=64, shuffle=True)
    total, reached, steps = trial.max_steps(DRAWINGS * EPOCHS * len(loader)), [], 0
    with flatmin.GradientTrace(opt) as trace:
        for (rows,) in trial.steps(loader, steps=DRAWINGS * EPOCHS * len(loader)):
            labels = drawn[steps * DRAWINGS // total]
            for probe in opt.probes():
                chosen = rows[probe.rows]
                probe.backward(cross_entropy(net(images[chosen]), labels[chosen], reduction="none"))
            opt.step()
            steps += 1
            if steps == total or drawn[steps * DRAWINGS // total] is not labels:
                reached.append(accuracy(net, labels))
                dormant = statistics.fmean(flatmin.dormant_units(net, [images]).values())
                cosine = statistics.fmean(trace.cosines[-EPOCHS:])
                trial.log(validation=reached[-1], cosine=cosine, dormant=dormant)
    score = statistics.fmean(reached[1:])
    return Outcome(validation=score, test=lambda: score, better="higher", metric="accuracy on drawn labels")

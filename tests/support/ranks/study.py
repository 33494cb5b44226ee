"""Runs of a study that share the weights of the network, each done by every rank."""

import dataclasses
import itertools
import os
import signal
from unittest import mock

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from flatmin.study.config import Run
from flatmin.study.data.dataset import load_dataset
from flatmin.study.networks import models, transformer
from flatmin.study.training import loop as training
from flatmin.study.training import schedule, sharding
from flatmin.study.training.checkpoints import Checkpoints
from flatmin.study.training.loop import evaluate, train
from flatmin.study.training.torchrun import Processes
from support.ranks.problem import Remembering, network, optimizer, step

SHARED = {"subset": 256, "epochs": 2, "batch_size": 64, "augment": "crop-flip"}
NARROW = "support.ranks.study:narrow_vit"
#: Without BatchNorm, whose statistics would be those of half a batch; with it, and with weights in channels-last.
PLAIN = Run("sam", {"lr": 0.05}, model=NARROW, average="swa", clip=0.5, micro_batches=2, **SHARED)
NORMED = Run("pugd@adamw", {"lr": 0.01}, model="small-cnn", average="ema", evaluations=3, **SHARED)


def narrow_vit(num_classes):
    """small-vit with an eighth of its width: all of it has to be sent to and fro for every gradient."""
    with mock.patch.object(transformer, "WIDTH", 24):
        return transformer.small_vit(1, num_classes, 8)


def everything(rank, folder):
    torch.manual_seed(rank)  # what is not shared must not matter
    sharded = Processes(rank, 2, init_device_mesh("cpu", (2,)))
    return {
        "plain": outcome(PLAIN, sharded),
        "normed": outcome(NORMED, sharded),
        "stopped": stopped(NORMED, folder / "same", sharded, sharded),
        "unsharded": stopped(PLAIN, folder / "unsharded", sharded, Processes()),
        "sharded": stopped(PLAIN, folder / "sharded", Processes(rank, 2), sharded),
        "blocks": blocks(sharded),
        "evaluated": evaluated(sharded),
        "memory": memory(sharded),
        "statistics": statistics(sharded),
    }


def outcome(run, processes, checkpoints=None):
    """The rows of metrics and the result, without the clock."""
    rows = []
    result = train(run, rows.append, checkpoints, processes).as_json()
    for numbers in (result, *rows):
        del numbers["seconds"]
    del result["environment"]
    return result, rows


def stopped(run, folder, first, second):
    """The outcome of a run that was stopped after 5 steps, and went on."""
    if first.first:
        folder.mkdir()
    steps, rate = itertools.count(1), schedule.rate

    def stopping(*args):
        if next(steps) == 5 and first.first:
            os.kill(os.getpid(), signal.SIGTERM)
        return rate(*args)

    schedule.rate = stopping
    try:
        outcome(run, first, Checkpoints(folder, write=first.first))
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("was not stopped")
    finally:
        schedule.rate = rate
    first.any(False)  # the checkpoint is there
    return outcome(run, second, Checkpoints(folder, write=second.first))


def blocks(processes):
    """Which modules were wrapped, and how much of the weights is here."""
    found = {}
    digits = load_dataset("digits")
    for name in ("small-vit", "resnet20", "fast-cifar-s"):
        net = processes.wrap(models.build(name, 1, 10, image_size=8, images=digits.sample))
        wrapped = [path for path, module in net.named_modules() if isinstance(module, FSDPModule)]
        here, all_of_them = (
            sum(n) for n in zip(*((p.to_local().numel(), p.numel()) for p in net.parameters()), strict=True)
        )
        found[name] = {"wrapped": wrapped, "share": here / all_of_them}
        assert net(digits.standardise(digits.train.images[:4])).shape == (4, 10)
    return found


def evaluated(processes):
    """Accuracy of a network before and after its weights changed; the second rank has no batch of its own."""
    digits = load_dataset("digits")
    torch.manual_seed(0)
    net = models.build("small-vit", 1, 10, image_size=8)
    expected = [evaluate(net, digits, digits.validation)]
    net = processes.wrap(net)
    weight = net.head.weight  # what an optimizer holds; a network that stayed gathered has another
    accuracies = [evaluate(net, digits, digits.validation, processes)]
    with torch.no_grad():
        weight.neg_()
    accuracies.append(evaluate(net, digits, digits.validation, processes))
    torch.manual_seed(0)
    net = models.build("small-vit", 1, 10, image_size=8)
    with torch.no_grad():
        net.head.weight.neg_()
    return accuracies, [*expected, evaluate(net, digits, digits.validation)]


def statistics(processes):
    """The running statistics of BatchNorm after an epoch."""
    nets, network = [], training.network
    training.network = lambda *args: nets.append(network(*args)) or nets[-1]
    try:
        train(dataclasses.replace(NORMED, epochs=1), processes=processes)
    finally:
        training.network = network
    return [buffer.tolist() for buffer in nets[0].buffers()]


def memory(processes):
    """Whether a method that remembers goes on to the same bits from gathered state; and what was gathered."""
    net = processes.wrap(network())
    opt = optimizer(net, Remembering())
    for number in range(3):
        step(net, opt, number, processes.rank)
    states = sharding.whole({"net": net.state_dict(), "opt": opt.state_dict()}, keep=processes.first)
    assert processes.first or states["net"]["0.weight"] is None
    states = sharding.whole({"net": net.state_dict(), "opt": opt.state_dict()}, keep=True)
    other = processes.wrap(network())
    other_opt = optimizer(other, Remembering())
    other.load_state_dict(sharding.module_state(states["net"], other.state_dict()))
    other_opt.load_state_dict(sharding.optimizer_state(states["opt"], other_opt))
    for number in range(3, 6):
        step(net, opt, number, processes.rank)
        step(other, other_opt, number, processes.rank)
    pairs = zip(net.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a.to_local(), b.to_local()) for a, b in pairs)

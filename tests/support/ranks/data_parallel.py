"""Scenarios of DistributedDataParallel, each run by every rank."""

import itertools

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import flatmin
from support.ranks.problem import (
    METHODS,
    batch,
    network,
    one_gradient_optimizer,
    optimizer,
    step,
    train,
    train_by_step_alone,
)

#: Two methods take many steps, which would show a slow drift apart; for the others few are enough.
MANY, FEW = 200, 10
#: Steps of those that ask for more than gradients.
ASKED = 10


def steps(name):
    """How many a method takes."""
    return MANY if name in ("sam", "pugd") else FEW


class Gated:
    """SAM, but only while the gradient is longer than it was on average: a method that looks at numbers."""

    def direction(self, w, memory):
        g = yield
        norm = g.norm()
        length = float(norm)
        memory["mean"] = 0.9 * memory.get("mean", length) + 0.1 * length
        if length < memory["mean"]:
            return g
        return (yield 0.1 * g.unit()) * norm


class Decaying:
    """SAM with a direction that is made of weights, too."""

    def direction(self, w, memory):
        g = yield
        return (yield 0.1 * g.unit()) + 0.01 * w


class NoiseInTheAnswer:
    def direction(self, w, memory):
        g = yield
        return g + 0.01 * w.randn()


def parallel(net, **options):
    return DistributedDataParallel(net, **options)


def everything(rank):
    """All scenarios that end well, in one pair of processes."""
    return {
        "trained": trained(rank),
        "displaced": displaced(rank),
        "reductions": reductions(rank),
        "micro-batches": micro_batches(rank),
        "overflow": overflow(rank),
        "gated": gated(rank),
        "lopsided": lopsided(rank),
        "batchnorm": batchnorm(rank),
        "sparse": sparse(rank),
        "left": left_together(rank),
        "refused": refused(rank),
        "asking": asking(rank),
        "step alone": step_alone(rank),
        "estimated": estimated(rank),
    }


def trained(rank):
    """Final weights of every method, ascent and layout of gradients."""
    final = {}
    for name, method in METHODS.items():
        for ascent in ("synchronised", "per-worker"):
            for views in (False, True):
                ddp = parallel(network(), gradient_as_bucket_view=views)
                opt = optimizer(ddp, method, ascent=ascent)
                final[f"{name} {ascent} {views}"] = train(ddp, opt, steps(name), rank)
    return final


#: Estimators of gradients.
ESTIMATORS = {
    "forward": flatmin.ForwardGradient(tangents=2),
    "zeroth": flatmin.ZerothOrder(directions=2),
    "multi-tangent": flatmin.MultiTangent(tangents=3),
}


def estimated(rank):
    """Final weights of SAM on estimated gradients, and how many numbers were sent in the last step."""
    final = {}
    for name, estimator in ESTIMATORS.items():
        ddp, sent = parallel(network()), []
        torch.manual_seed(rank)
        opt = optimizer(ddp, flatmin.SAM(0.1), gradient=estimator)
        all_reduce = dist.all_reduce

        def counting(tensor, *args, all_reduce=all_reduce, sent=sent, **options):
            sent.append(tensor.numel())
            return all_reduce(tensor, *args, **options)

        for number in range(5):
            x, y = batch(number, rank)
            sent.clear()
            dist.all_reduce = counting
            opt.step(lambda ddp=ddp, x=x, y=y: nn.functional.cross_entropy(ddp(x), y))
            dist.all_reduce = all_reduce
        final[name] = [p.detach().clone() for p in ddp.parameters()], sent
    return final


def step_alone(rank):
    """The optimizer knows the network, as in scripts that wrap it later, or DistributedDataParallel around it."""
    final = {}
    for wrapped in (False, True):
        net = network()
        opt = None if wrapped else one_gradient_optimizer(net, net, flatmin.RandomNoise())
        ddp = parallel(net)
        opt = opt or one_gradient_optimizer(net, ddp, flatmin.RandomNoise())
        final[wrapped] = train_by_step_alone(ddp, opt, 10, rank)
    return final


def displaced(rank):
    """Where the first perturbed probe of each kind finds the weights."""
    places = {}
    for name in ("sam", "s-sgd"):
        for ascent in ("synchronised", "per-worker"):
            for noise in ("shared", "per-worker"):
                ddp = parallel(network())
                torch.manual_seed(rank)  # as in scripts that seed every process by its rank
                opt = optimizer(ddp, METHODS[name], ascent=ascent, noise=noise, seed=None)
                x, y = batch(0, rank)
                for k in opt.probes():
                    if k == 1:
                        places[f"{name} {ascent} {noise}"] = [p.detach().clone() for p in ddp.parameters()]
                    nn.functional.cross_entropy(ddp(x), y).backward()
    return places


def reductions(rank):
    """How often gradients were reduced in one step: by DDP, and by us."""
    counts = {}
    for name in ("plain", "sam", "pugd", "s-sgd", "head-sam"):
        for ascent in ("synchronised", "per-worker"):
            ddp = parallel(network())
            by_ddp, elements = [], []

            def hook(state, bucket, by_ddp=by_ddp):
                by_ddp.append(1)
                return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0] / 2)

            ddp.register_comm_hook(None, hook)
            opt = optimizer(ddp, {**METHODS, **ASKING}[name], ascent=ascent)
            all_reduce = dist.all_reduce

            def counting(tensor, *args, all_reduce=all_reduce, elements=elements, **options):
                if not options.get("async_op"):
                    elements.append(tensor.numel())
                return all_reduce(tensor, *args, **options)

            dist.all_reduce = counting
            step(ddp, opt, 0, rank)
            dist.all_reduce = all_reduce
            size = sum(p.numel() for p in ddp.parameters())
            counts[f"{name} {ascent}"] = [len(by_ddp), elements.count(size)]
    return counts


def micro_batches(rank):
    """Weights after steps of whole batches and of four micro-batches."""
    final = {}
    for ascent in ("synchronised", "per-worker"):
        for parts in (1, 4):
            ddp = parallel(network())
            opt = optimizer(ddp, flatmin.PUGD(), ascent=ascent)
            for number in range(5):
                step(ddp, opt, number, rank, micro_batches=parts)
            final[f"{ascent} {parts}"] = [p.detach().clone() for p in ddp.parameters()]
    return final


class Hardest:
    """The gradient of each worker's half with the largest losses, after a forward pass that looks for it."""

    per_example = True

    def direction(self, w, memory):
        seen = yield flatmin.Ask(gradient=False)
        return (yield flatmin.Ask(rows=seen.losses.topk(len(seen.losses) // 2).indices))


class Tilted:
    """Two gradients, the one with the larger loss counts more."""

    def direction(self, w, memory):
        g = yield
        g_star = yield 0.1 * g.unit()
        weight = 1 / (1 + (g.loss - g_star.loss).exp())
        return (1 - weight) * g + weight * g_star


class Tossing:
    """SAM or not: all workers must toss the same."""

    def direction(self, w, memory):
        g = yield
        if w.coin(0.5):
            return (yield 0.1 * g.unit())
        return g


ASKING = {
    "hardest": Hardest(),
    "tilted": Tilted(),
    "tossing": Tossing(),
    "msam": flatmin.MomentumSAM(rho=0.1),
    "arwp": flatmin.AdaptiveRandomNoise(eta=1.0),
    "m-arwp": flatmin.MixedRandomNoise(eta=1.0),
    "tsam": flatmin.TiltedSAM(tilt=5.0, rho=0.1),
    "entropy-sgd": flatmin.EntropySGD(steps=2),
    "focal-sam": flatmin.FocalSAM(range(1, 11)),
    "polyak": flatmin.PolyakStep(),
    "esam": flatmin.ESAM(),
    "k-sam": flatmin.KSAM(),
    "functional-sam": flatmin.FunctionalSAM(0.3),
    "polyak-sam": flatmin.PolyakSAM(0.1),
    "head-sam": flatmin.HeadSAM(0.1),
}


def by_probe(net, method, rank=None, steps=ASKED, **options):
    """Weights after some steps of the loop that is right for every method."""
    opt = optimizer(net, method, **options)
    for number in range(steps):
        x, y = batch(number, rank)
        for probe in opt.probes():
            outputs = net(x[probe.rows])
            losses = nn.functional.cross_entropy(outputs, y[probe.rows], reduction="none")
            probe.backward(losses, labels=y[probe.rows], outputs=outputs)
        opt.step()
    return [p.detach().clone() for p in net.parameters()]


def reading(net, rank=None, steps=ASKED):
    """Weights after some steps of a base optimizer that reads the loss."""
    opt = flatmin.FlatOptimizer(flatmin.KOALA(net.parameters(), lr=0.1, r=0.5), flatmin.SAM(0.1), model=net, seed=0)
    for number in range(steps):
        x, y = batch(number, rank)
        for probe in opt.probes():
            probe.backward(nn.functional.cross_entropy(net(x), y))
        opt.step()
    return [p.detach().clone() for p in net.parameters()]


def asking(rank):
    """Weights of methods that ask for more than gradients."""
    final = {}
    for name, method in ASKING.items():
        for ascent in ("synchronised", "per-worker"):
            final[f"{name} {ascent}"] = by_probe(parallel(network()), method, rank, ascent=ascent)
    final["koala"] = reading(parallel(network()), rank)
    return final


class SignAscent:
    """A perturbation that is finite where the gradient is not."""

    def direction(self, w, memory):
        g = yield
        return (yield 0.01 * g.sign())


def overflow(rank):
    """Scale and steps when only rank 1 overflows, and only in the first probe."""
    results = {}
    for name, method in {**METHODS, "sign": SignAscent()}.items():
        ddp = parallel(network())
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        opt = optimizer(ddp, method, ascent="per-worker", scaler=scaler)
        before = [p.detach().clone() for p in ddp.parameters()]
        x, y = batch(0, rank)
        for k in opt.probes():
            scaler.scale(nn.functional.cross_entropy(ddp(x), y)).backward()
            if rank == 1 and k == 0:
                next(ddp.parameters()).grad[0] = float("inf")
        scaler.step(opt)
        scaler.update()
        still = all(torch.equal(a, b) for a, b in zip(ddp.parameters(), before, strict=True))
        results[name] = [scaler.get_scale(), opt.steps, still]
    return results


def gated(rank):
    ddp = parallel(network())
    opt = optimizer(ddp, Gated(), ascent="per-worker")
    return {"weights": train(ddp, opt, 20, rank), "memory": opt.memory}


class Lopsided(nn.Module):
    """A layer that only rank 1 uses, one that it uses in first probes only, one that nobody uses."""

    def __init__(self, rank):
        super().__init__()
        torch.manual_seed(0)
        self.rank, self.passes = rank, 0
        self.shared, self.extra, self.early, self.unused = (nn.Linear(64, 10).double() for _ in range(4))

    def forward(self, x):
        x = x.flatten(1)
        y = self.shared(x)
        self.passes += 1
        if self.rank == 0:
            return y
        return y + self.extra(x) + (self.early(x) if self.passes % 2 else 0)


def lopsided(rank):
    """Weights and gradients where workers use different parameters."""
    final = {}
    for name, method in (("pugd", flatmin.PUGD()), ("sam", flatmin.SAM()), ("decay", Decaying())):
        for ascent in ("synchronised", "per-worker"):
            net = Lopsided(rank)
            ddp = parallel(net, find_unused_parameters=True)
            final[f"{name} {ascent}"] = train(ddp, optimizer(ddp, method, ascent=ascent), 5, rank)
            assert net.unused.weight.grad is None
    return final


def sparse(rank):
    """Weights of a network with an embedding, with dense and with sparse gradients."""
    final = []
    for is_sparse in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Embedding(20, 4, sparse=is_sparse), nn.Flatten(), nn.Linear(12, 2)).double()
        ddp = parallel(net)
        opt = flatmin.FlatOptimizer(
            torch.optim.SGD(net.parameters(), lr=0.1), flatmin.PUGD(), model=ddp, ascent="per-worker"
        )
        for number in range(3):
            generator = torch.Generator().manual_seed(10 * number + rank)
            x = torch.randint(20, (8, 3), generator=generator)
            for _ in opt.probes():
                nn.functional.cross_entropy(ddp(x), x[:, 0] % 2).backward()
            opt.step()
        final.append([p.detach().clone() for p in net.parameters()])
    return final


def batchnorm(rank):
    """What five steps do to running statistics, by the ordinary optimizer and by ours."""
    seen = {}
    for name in ("base", "pugd", "sam"):
        for ascent in ("synchronised", "per-worker"):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)).double()
            ddp = parallel(net)
            opt = optimizer(ddp, flatmin.Plain() if name == "base" else METHODS[name], lr=0.0, ascent=ascent)
            train(ddp, opt, 5, rank)
            seen[f"{name} {ascent}"] = [b.clone() for b in net.buffers()]
    return seen


def left_together(rank):
    """Weights after a step that both ranks left early, and steps after it; and the same without it."""
    final = []
    for leave in (True, False):
        ddp = parallel(network())
        opt = optimizer(ddp, flatmin.PUGD(), ascent="per-worker")
        if leave:
            x, y = batch(0, rank)
            for k in opt.probes():
                if k == 1:
                    break
                nn.functional.cross_entropy(ddp(x), y).backward()
        final.append(train(ddp, opt, 3, rank))
    return final


def refused(rank):
    """Messages of what cannot be right."""
    messages = []
    for model, options in (
        (network(), {"ascent": "per-worker"}),
        (network(), {"noise": "per-worker"}),
        (parallel(network()), {"noise": "per-worker", "method": NoiseInTheAnswer()}),
        (parallel(network(), static_graph=True), {"method": flatmin.HeadSAM()}),
    ):
        opt = optimizer(model, options.pop("method", flatmin.SAM()), **options)
        try:
            step(model, opt, 0, rank)
        except RuntimeError as error:
            messages.append(str(error))
    return messages


def fails_alone(rank):
    """Rank 0 runs out of memory in the second probe."""
    ddp = parallel(network())
    opt = optimizer(ddp, flatmin.SAM())
    x, y = batch(0, rank)
    for k in opt.probes():
        if rank == 0 and k == 1:
            raise MemoryError("rank 0 is out of memory")
        nn.functional.cross_entropy(ddp(x), y).backward()
    opt.step()


def fails_and_goes_on(rank):
    """Rank 0 catches the error of its second probe and takes the next batch."""
    from flatmin import distributed

    distributed.PATIENCE /= 20
    ddp = parallel(network())
    opt = optimizer(ddp, flatmin.SAM())
    x, y = batch(0, rank)
    calls = itertools.count()

    def closure():
        opt.zero_grad()
        loss = nn.functional.cross_entropy(ddp(x), y)
        if rank == 0 and next(calls) == 1:
            raise MemoryError("rank 0 is out of memory")
        loss.backward()
        return loss

    for _ in range(2):
        try:
            opt.step(closure)
        except MemoryError:
            continue

"""Methods made of methods. An inner method is any `inner(w, grad) -> u`."""

from .channel import channel_directed
from .plain import plain
from .vector import join, split, unit


def every(w, grad, inner, k, t, otherwise=plain):
    """inner on steps t = 0, k, 2k, …; the plain gradient, or what is wanted otherwise, in between."""
    return inner(w, grad) if t % k == 0 else otherwise(w, grad)


def unit_of(w, grad, inner):
    return split(unit(join(inner(w, grad))), w)


def on_channels(w, grad, inner=plain, layers="conv", **hyper):
    """inner's direction, smoothed along the output channels of the weights that have them."""
    u = inner(w, grad)
    return [channel_directed(t, **hyper) if (t.ndim == 4 if layers == "conv" else t.ndim >= 2) else t for t in u]


def only_on(w, grad, select, inner):
    """inner chooses its probes as if only the selected tensors existed, then answers with the whole gradients there."""
    chosen = [i for i, t in enumerate(w) if select(t)]
    gradients = []

    def restricted(part):
        point = list(w)
        for i, t in zip(chosen, part, strict=True):
            point[i] = t
        gradients.append(grad(point))
        return [gradients[-1][i] for i in chosen]

    inner([w[i] for i in chosen], restricted)
    replay = iter(gradients)
    return inner(w, lambda _: next(replay))

"""The base optimizer, in the convention of PyTorch: weight decay joins the direction, then momentum, no dampening."""


def sgd(w, u, velocity, lr, momentum=0.0, weight_decay=0.0):
    """One step; velocity is None before the first. Returns the new weights and the new velocity."""
    d = [ui + weight_decay * t for ui, t in zip(u, w, strict=True)]
    v = d if velocity is None else [momentum * vi + di for vi, di in zip(velocity, d, strict=True)]
    return [t - lr * vi for t, vi in zip(w, v, strict=True)], v

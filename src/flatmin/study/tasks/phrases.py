"""What the built-in tasks say alike of a protocol."""

from __future__ import annotations

from flatmin.study import settings
from flatmin.study.config import Study


def shares(study: Study) -> str:
    """The levels of noise, such as "0 % and 40 %"."""
    return " and ".join(f"{100 * noise:g} %" for noise in study.noise)


def training(study: Study, passes: str, *own: str) -> str:
    """How a network is trained, in a sentence.

    Args:
        study: the protocol.
        passes: over the training data.
        own: what only this task has, such as its augmentation; empty ones are left out.
    """
    parts = [
        passes,
        f"batches of {study.batch_size}",
        f"learning rate schedule {study.schedule}",
        study.precision,
        f"warm-up over {100 * study.warmup:g} % of the steps" if study.warmup else "",
        f"directions clipped at {study.clip:g}" if study.clip else "",
        "" if study.decay_vectors else "no weight decay of vectors",
        *own,
        f"unless searched or fixed otherwise: {settings.bases_in_words(study)}",
    ]
    return ", ".join(part for part in parts if part) + "."

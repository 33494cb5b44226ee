"""Train PyTorch networks into flat minima: PUGD, the SAM family, and honest comparisons between them."""

from flatmin.dialogue import Conversation, Memory, Method
from flatmin.engine import FlatOptimizer
from flatmin.forward import register_statistics
from flatmin.methods import (
    AMP,
    ASAM,
    NGD,
    PUGD,
    SAM,
    UGD,
    ChannelDirected,
    Every,
    OnlyOn,
    Plain,
    RandomNoise,
    SignDescent,
    SymmetricNoise,
    Unit,
)
from flatmin.number import Number
from flatmin.registry import build, methods
from flatmin.vector import Vec
from flatmin.weights import Weights

__version__ = "0.1.0"

__all__ = [
    "AMP",
    "ASAM",
    "NGD",
    "PUGD",
    "SAM",
    "UGD",
    "ChannelDirected",
    "Conversation",
    "Every",
    "FlatOptimizer",
    "Memory",
    "Method",
    "Number",
    "OnlyOn",
    "Plain",
    "RandomNoise",
    "SignDescent",
    "SymmetricNoise",
    "Unit",
    "Vec",
    "Weights",
    "build",
    "methods",
    "register_statistics",
]

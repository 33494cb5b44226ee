"""Train PyTorch networks into flat minima: PUGD, the SAM family, and honest comparisons between them."""

import types

from flatmin.bases import KOALA as KOALA
from flatmin.create import create_optimizer as create_optimizer
from flatmin.engine.batchnorm import rebuild_statistics as rebuild_statistics
from flatmin.engine.batchnorm import register_statistics as register_statistics
from flatmin.engine.multi_optimizer import MultiOptimizer as MultiOptimizer
from flatmin.engine.one_gradient import OneGradientOptimizer as OneGradientOptimizer
from flatmin.engine.optimizer import FlatOptimizer as FlatOptimizer
from flatmin.engine.probe import Probe as Probe
from flatmin.engine.sampled import predict as predict
from flatmin.engine.sampled import sampled_weights as sampled_weights
from flatmin.estimators import Estimator as Estimator
from flatmin.estimators import ForwardGradient as ForwardGradient
from flatmin.estimators import HybridZerothOrder as HybridZerothOrder
from flatmin.estimators import MultiTangent as MultiTangent
from flatmin.estimators import ZerothOrder as ZerothOrder
from flatmin.half_inverse import half_inverse_backward as half_inverse_backward
from flatmin.methods import *  # noqa: F403  # the methods are found, not listed
from flatmin.protocol import Answer as Answer
from flatmin.protocol import Ask as Ask
from flatmin.protocol import Conversation as Conversation
from flatmin.protocol import Memory as Memory
from flatmin.protocol import Method as Method
from flatmin.registry import build as build
from flatmin.registry import methods as methods
from flatmin.selectors import norm_parameters as norm_parameters
from flatmin.stability import GradientTrace as GradientTrace
from flatmin.stability import dormant_units as dormant_units
from flatmin.subspace import ProjectOut as ProjectOut
from flatmin.subspace import input_bases as input_bases
from flatmin.vectors.expression import Number as Number
from flatmin.vectors.vector import Vec as Vec
from flatmin.vectors.weights import Weights as Weights

__version__ = "0.1.0"

# Not as a statement: type checkers cannot evaluate this list, and would take it for an empty one.
globals()["__all__"] = sorted(
    name for name, value in globals().items() if name[0] != "_" and not isinstance(value, types.ModuleType)
)

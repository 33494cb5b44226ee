"""Estimators of gradients, beside methods: `FlatOptimizer(base, method, gradient=ForwardGradient())`."""

from flatmin.estimators.entries import ESTIMATORS as ESTIMATORS
from flatmin.estimators.entries import EstimatorEntry as EstimatorEntry
from flatmin.estimators.estimated import Estimated as Estimated
from flatmin.estimators.estimated import Estimator as Estimator
from flatmin.estimators.forward import ForwardGradient as ForwardGradient
from flatmin.estimators.forward import MultiTangent as MultiTangent
from flatmin.estimators.zeroth_order import HybridZerothOrder as HybridZerothOrder
from flatmin.estimators.zeroth_order import ZerothOrder as ZerothOrder

"""The methods, one paper or family per file. Each file says where its equations come from.

The files are found, not listed: a file with an `ENTRY` is a method of the registry, and its classes are exported from
here and from `flatmin`.
"""

from __future__ import annotations

from flatmin.entry import modules_of

# Type checkers, editors and the docs run no code, so they find nothing. Here alone are the short names that they know.
from flatmin.methods.adaptive import AESAM as AESAM
from flatmin.methods.adaptive import AELookSAM as AELookSAM
from flatmin.methods.adaptive_noise import AdaptiveRandomNoise as AdaptiveRandomNoise
from flatmin.methods.adaptive_noise import MixedRandomNoise as MixedRandomNoise
from flatmin.methods.amp import AMP as AMP
from flatmin.methods.channel import ChannelDirected as ChannelDirected
from flatmin.methods.class_weighted import FocalSAM as FocalSAM
from flatmin.methods.class_weighted import ImbSAM as ImbSAM
from flatmin.methods.compose import FlatLoRA as FlatLoRA
from flatmin.methods.compose import OnlyOn as OnlyOn
from flatmin.methods.compose import Unit as Unit
from flatmin.methods.eigen_sam import EigenSAM as EigenSAM
from flatmin.methods.entropy import EntropySGD as EntropySGD
from flatmin.methods.esam import ESAM as ESAM
from flatmin.methods.every import Every as Every
from flatmin.methods.fisher import FisherSAM as FisherSAM
from flatmin.methods.friendly import FriendlyPUGD as FriendlyPUGD
from flatmin.methods.friendly import FriendlySAM as FriendlySAM
from flatmin.methods.functional import FunctionalSAM as FunctionalSAM
from flatmin.methods.gam import GAM as GAM
from flatmin.methods.graph import GraphSAM as GraphSAM
from flatmin.methods.gsam import GSAM as GSAM
from flatmin.methods.head import HeadPUGD as HeadPUGD
from flatmin.methods.head import HeadSAM as HeadSAM
from flatmin.methods.ivon import IVON as IVON
from flatmin.methods.k_sam import KSAM as KSAM
from flatmin.methods.late import Late as Late
from flatmin.methods.lookbehind import LookbehindSAM as LookbehindSAM
from flatmin.methods.looksam import LookSAM as LookSAM
from flatmin.methods.momentum import MomentumASAM as MomentumASAM
from flatmin.methods.momentum import MomentumPUGD as MomentumPUGD
from flatmin.methods.momentum import MomentumSAM as MomentumSAM
from flatmin.methods.noise import RandomNoise as RandomNoise
from flatmin.methods.noise import SymmetricNoise as SymmetricNoise
from flatmin.methods.normalized import NGD as NGD
from flatmin.methods.normalized import UGD as UGD
from flatmin.methods.normalized import SignDescent as SignDescent
from flatmin.methods.plain import Plain as Plain
from flatmin.methods.polyak import PolyakSAM as PolyakSAM
from flatmin.methods.polyak import PolyakStep as PolyakStep
from flatmin.methods.pugd import PUGD as PUGD
from flatmin.methods.radius import LESAM as LESAM
from flatmin.methods.radius import LightSAM as LightSAM
from flatmin.methods.reshaped import GCSAM as GCSAM
from flatmin.methods.reshaped import StableSAM as StableSAM
from flatmin.methods.sam import ASAM as ASAM
from flatmin.methods.sam import SAM as SAM
from flatmin.methods.sampa import SAMPa as SAMPa
from flatmin.methods.sometimes import Sometimes as Sometimes
from flatmin.methods.sparse import DynamicSparseSAM as DynamicSparseSAM
from flatmin.methods.sparse import FisherSparseSAM as FisherSparseSAM
from flatmin.methods.stale import S2SAM as S2SAM
from flatmin.methods.stale import AsyncSAM as AsyncSAM
from flatmin.methods.symmetric import CRSAM as CRSAM
from flatmin.methods.symmetric import SymmetricPUGD as SymmetricPUGD
from flatmin.methods.tilted import TiltedSAM as TiltedSAM
from flatmin.methods.tilted_descent import TiltedUGD as TiltedUGD
from flatmin.methods.unnormalized import USAM as USAM
from flatmin.methods.vasso import VaSSO as VaSSO
from flatmin.methods.weighted import GNP as GNP
from flatmin.methods.weighted import WSAM as WSAM
from flatmin.methods.zscore import ZSharp as ZSharp

_exported = {
    name: value
    for module in modules_of(__name__)
    for name, value in vars(module).items()
    if isinstance(value, type)
    and value.__module__ == module.__name__
    and hasattr(value, "direction")
    and not name.startswith("_")
}
globals().update(_exported, __all__=sorted(_exported))

"""PruNet backbones and detectors: a detector that is fast on your GPU.

Importing the package registers its networks with timm and needs torch and timm alone. The
MMDetection parts are in `prunet_det.detection`.
"""

from prunet_det.arch import ArchNet, ArchSpec, BlockSpec, SpecError, StageSpec
from prunet_det.zoo import create, load_spec, model_names

__version__ = "0.1.0"
__all__ = [
    "ArchNet",
    "ArchSpec",
    "BlockSpec",
    "SpecError",
    "StageSpec",
    "create",
    "load_spec",
    "model_names",
]

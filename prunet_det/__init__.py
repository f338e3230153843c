"""PruNet backbones and detectors: a detector that is fast on your GPU.

Importing the package registers its networks with timm and needs torch and timm alone. The
MMDetection parts are in `prunet_det.detection`.
"""

from importlib.metadata import PackageNotFoundError, version

from prunet_det.utils.extras import importing

with importing():  # torch and timm
    from prunet_det.arch import ArchNet, ArchSpec, BlockSpec, SpecError, StageSpec
    from prunet_det.zoo import create, load_spec, model_names

try:
    __version__ = version("prunet_det")
except PackageNotFoundError:  # a source tree on the path that is not installed
    __version__ = "0+unknown"
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

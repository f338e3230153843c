"""PruNet backbones and detectors: a detector that is fast on your GPU.

Importing the package registers its networks with timm and needs torch and timm alone. The
MMDetection parts are in `prunet_det.detection`; `load_detector` gives a trained detector, and
`prunet_det.search.search` finds networks for latency budgets.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from prunet_det.utils.extras import importing

with importing():  # torch and timm
    from prunet_det.arch import ArchNet, ArchSpec, BlockSpec, SpecError, StageSpec
    from prunet_det.zoo import create, load_spec, model_names

if TYPE_CHECKING:
    from prunet_det.inference import Detection, Detections, Detector, load_detector
    from prunet_det.search import SearchConfig, SearchResult

try:
    __version__ = version("prunet_det")
except PackageNotFoundError:  # a source tree on the path that is not installed
    __version__ = "0+unknown"
__all__ = [
    "ArchNet",
    "ArchSpec",
    "BlockSpec",
    "Detection",
    "Detections",
    "Detector",
    "SearchConfig",
    "SearchResult",
    "SpecError",
    "StageSpec",
    "create",
    "load_detector",
    "load_spec",
    "model_names",
]

_LAZY = {
    **dict.fromkeys(("Detection", "Detections", "Detector", "load_detector"), "inference"),
    **dict.fromkeys(("SearchConfig", "SearchResult"), "search"),
}


def __getattr__(name: str) -> Any:
    """Imports what detects or searches when it is first asked for."""
    if name == "search":
        return import_module("prunet_det.search")
    if name in _LAZY:
        return getattr(import_module(f"prunet_det.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Detectors for MMDetection; importing this registers PruNet, TimmBackbone, BiFPN and the others.

Use it from a config with `custom_imports = dict(imports=["prunet_det.detection"])`.
"""

import contextlib
import sys

from prunet_det.utils.errors import MissingPackageError
from prunet_det.utils.extras import importing

try:
    # MMDetection prints when it is imported.
    with importing(), contextlib.redirect_stdout(sys.stderr):
        import mmdet.datasets  # noqa: F401
        import mmdet.models  # noqa: F401
except ImportError as e:
    raise MissingPackageError(
        "prunet_det.detection needs mmdet, mmcv and mmengine, and one of them does not import "
        f"({e}). Install them with `make env` or `pip install 'prunet_det[det]'`; "
        "`python tools/doctor.py` names what is wrong."
    ) from e

from prunet_det.detection.backbone import PruNet, TimmBackbone
from prunet_det.detection.bifpn import BiFPN
from prunet_det.detection.data import CocoFolder, EmbeddedDataset, LoadImageFromFile
from prunet_det.detection.detector import OneStageDetector
from prunet_det.detection.head import EfficientDetHead
from prunet_det.detection.letterbox import Letterbox
from prunet_det.detection.metric import CocoFolderMetric
from prunet_det.detection.preprocessor import BatchPreprocessor
from prunet_det.detection.strides import check_strides
from prunet_det.detection.transforms import PackChannelsLast, RandomScaleCrop
from prunet_det.training import ClassCheckHook, RecordHook

__all__ = [
    "BatchPreprocessor",
    "BiFPN",
    "ClassCheckHook",
    "CocoFolder",
    "CocoFolderMetric",
    "EfficientDetHead",
    "EmbeddedDataset",
    "Letterbox",
    "LoadImageFromFile",
    "OneStageDetector",
    "PackChannelsLast",
    "PruNet",
    "RandomScaleCrop",
    "RecordHook",
    "TimmBackbone",
    "check_strides",
]

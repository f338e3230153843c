"""Classifiers for mmengine's Runner; importing this registers the model, data sets and metric.

Use it from a config with `custom_imports = dict(imports=["prunet_det.classification"])`.
"""

from prunet_det.classification.data import EmbeddedCrops, ImageFolder
from prunet_det.classification.metric import TopKAccuracy
from prunet_det.classification.model import Classifier
from prunet_det.training import ClassCheckHook, RecordHook

__all__ = [
    "ClassCheckHook",
    "Classifier",
    "EmbeddedCrops",
    "ImageFolder",
    "RecordHook",
    "TopKAccuracy",
]

"""Embedded data sets: made on first use from files inside installed packages, without download."""

from prunet_det.datasets.build import SETS, data_hash, ensure, get_set
from prunet_det.datasets.crops import ensure_crops

__all__ = ["SETS", "data_hash", "ensure", "ensure_crops", "get_set"]

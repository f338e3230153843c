"""The embedded sets: made on first use from what is inside installed packages, no download."""

from prunet_det.datasets.build import SETS, data_hash, ensure, get_set

__all__ = ["SETS", "data_hash", "ensure", "get_set"]

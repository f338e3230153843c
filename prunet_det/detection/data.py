"""COCO-format data sets for MMDetection: the embedded sets, and one's own."""

from __future__ import annotations

import os
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from prunet_det.datasets import ensure, get_set


@DATASETS.register_module()
class EmbeddedDataset(CocoDataset):
    """An embedded set, made in `data_root` when it is not there yet.

    Args:
        name: `digits`.
        data_root: The folder of the set.
        **kwargs: CocoDataset's.
    """

    def __init__(self, name: str, data_root: str | os.PathLike[str], **kwargs: Any) -> None:
        ensure(name, data_root)
        metainfo = {"classes": get_set(name).classes}
        super().__init__(data_root=str(data_root), metainfo=metainfo, **kwargs)

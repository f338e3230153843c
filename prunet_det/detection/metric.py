"""mAP by pycocotools, of annotation files in whatever state they come."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS

from prunet_det.datasets.coco import read_coco, select_classes


def coco_api(content: Mapping[str, Any]) -> COCO:
    """Returns pycocotools' API of the content of an annotation file, see `read_coco`."""
    api = COCO()
    api.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # it prints how far it is
        api.createIndex()
    api.img_ann_map, api.cat_img_map = api.imgToAnns, api.catToImgs  # MMDetection's names
    return api


@METRICS.register_module()
class CocoFolderMetric(CocoMetric):
    """MMDetection's CocoMetric for a CocoFolder: categories are matched by name.

    Where nothing is found at all the mAP is 0, as it should be, and not missing.

    Args:
        ann_file: Annotation file.
        **kwargs: Further arguments of CocoMetric.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is damaged.
    """

    def __init__(self, ann_file: str | os.PathLike[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._ann_file, self._content = ann_file, read_coco(ann_file)
        self._coco_api = coco_api(self._content)

    def compute_metrics(self, results: Sequence[tuple[dict[str, Any], ...]]) -> dict[str, float]:
        """Computes the metrics of all images.

        Args:
            results: Ground truth and predictions of each image, as `process` collects them.

        Returns:
            `bbox_mAP` and the others, 0..1; -1 for sizes of which there are no objects.
        """
        content = select_classes(self._content, self.dataset_meta["classes"], self._ann_file)
        self._coco_api, self.cat_ids = coco_api(content), None
        predictions = [prediction for _, prediction in results]
        if predictions and not any(len(p["scores"]) for p in predictions):
            # For an empty list MMDetection gives no figures. A box of no size hits nothing.
            predictions[0].update(
                bboxes=np.zeros((1, 4)), scores=np.zeros(1), labels=np.zeros(1, int)
            )
        metrics: dict[str, float] = super().compute_metrics(results)
        return metrics

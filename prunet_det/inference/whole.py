"""Any of MMDetection's detectors, run as MMDetection runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.apis import inference_detector
from mmdet.models.detectors import BaseDetector
from mmdet.utils import get_test_pipeline_cfg

from prunet_det.inference.detector import Engine, Found
from prunet_det.runtime.outputs import tf32


class WholeModel(Engine):
    """A detector with its config's own test pipeline, in eager PyTorch, one image at a time.

    It is for what cannot be cut into a network of one shape and what stands around it: detectors of
    two stages, transformers, and pipelines that give images of many shapes.

    Args:
        detector: MMDetection's detector, in eval mode on its device.
        device: The device.
    """

    runtime = "eager"

    def __init__(self, detector: BaseDetector, device: str) -> None:
        self.detector, self.device = detector, device
        self.transforms = Compose(_pipeline(detector))

    def prepare(self, image: np.ndarray) -> Any:
        """Returns what the pipeline makes of an image, (H, W, 3) uint8 in BGR."""
        return self.transforms(dict(img=image, img_id=0))

    def run(self, prepared: Sequence[Any]) -> list[Found]:
        """Finds the objects in images, each by itself: padding would change them."""
        results = []
        for data in prepared:
            with tf32(False), torch.inference_mode():
                batch = {key: [data[key]] for key in ("inputs", "data_samples")}
                (sample,) = self.detector.test_step(batch)
            found = sample.pred_instances.cpu().numpy()
            results.append(Found(found.bboxes, found.scores, found.labels))
        return results


def inference_run(
    detector: BaseDetector, images: Sequence[np.ndarray]
) -> Callable[[], Sequence[Any]]:
    """Makes a function that runs MMDetection's `inference_detector`, for comparison.

    Args:
        detector: Detector that `build_detector` made.
        images: (H, W, 3) uint8 in BGR, each, of one size, at which they are detected; it takes
            them one after the other.

    Returns:
        A function that runs once and returns a sample with its predictions for each image. The
        config's test pipeline is built beforehand, which is the quicker way of calling it.
    """
    pipeline = _pipeline(detector)
    for step in pipeline:
        if "scale" in step:
            step.scale = images[0].shape[1::-1]
    transforms = Compose(pipeline)
    return lambda: inference_detector(detector, list(images), transforms)


def _pipeline(detector: BaseDetector) -> Any:
    """Returns the steps of a config's test pipeline, for images in memory."""
    pipeline = get_test_pipeline_cfg(detector.cfg.copy())
    pipeline[0].type = "mmdet.LoadImageFromNDArray"
    return pipeline

"""Detecting objects in image files with a trained detector."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.apis import inference_detector
from mmdet.models.detectors import BaseDetector
from mmdet.utils import get_test_pipeline_cfg

from prunet_det.datasets.drawing import class_colour, draw_box
from prunet_det.utils.images import read_image
from prunet_det.zoo.weights import CheckpointError


def read_card(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the JSON card beside a released checkpoint.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    path = Path(checkpoint).with_suffix(".json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise CheckpointError(
            f"{checkpoint} has no readable card {path.name} and no train.json that knows its "
            "classes; name the config and the classes yourself (--config FILE --classes A B ...)."
        ) from e


def detect(
    model: BaseDetector, paths: Sequence[str | os.PathLike[str]], score_thr: float = 0.3
) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
    """Detects objects in image files.

    Args:
        model: Detector that `build_detector` made with its class names.
        paths: Image files.
        score_thr: Minimum score of a detection, 0..1.

    Yields:
        For each file, the image, (H, W, 3) uint8 in BGR, and its detections, best first: dicts of
        `label` (index), `category` (name), `score` and `bbox` (x, y, width, height in pixels).

    Raises:
        MissingFileError, InputError: If a file cannot be read as an image.
    """
    classes = model.dataset_meta["classes"]
    for path in paths:
        image = read_image(path)
        with torch.no_grad():
            predicted = inference_detector(model, image).pred_instances.cpu().numpy()
        detections = []
        for i in np.argsort(-predicted.scores, kind="stable"):
            if predicted.scores[i] < score_thr:
                break
            x1, y1, x2, y2 = (float(v) for v in predicted.bboxes[i])
            label = int(predicted.labels[i])
            detections.append(
                {
                    "label": label,
                    "category": classes[label],
                    "score": round(float(predicted.scores[i]), 5),
                    "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
                }
            )
        yield image, detections


def inference_run(model: BaseDetector, images: Sequence[np.ndarray]) -> Callable[[], Sequence[Any]]:
    """Makes a function that runs MMDetection's `inference_detector`, for comparison.

    Args:
        model: Detector that `build_detector` made.
        images: (H, W, 3) uint8 in BGR, each, of one size, at which they are detected; it takes
            them one after the other.

    Returns:
        A function that runs once and returns a sample with its predictions for each image. The
        config's test pipeline is built beforehand, which is the quicker way of calling it.
    """
    pipeline = get_test_pipeline_cfg(model.cfg.copy())
    pipeline[0].type = "mmdet.LoadImageFromNDArray"
    for step in pipeline:
        if "scale" in step:
            step.scale = images[0].shape[1::-1]
    transforms = Compose(pipeline)
    return lambda: inference_detector(model, list(images), transforms)


def draw(image: np.ndarray, detections: Sequence[dict[str, Any]], classes: int) -> np.ndarray:
    """Draws boxes, class names and scores on a copy of an image.

    Args:
        image: (H, W, 3) uint8, BGR.
        detections: Detections from `detect`, best first.
        classes: Number of classes, over which the colours are spread.
    """
    out = image.copy()
    for d in reversed(detections):  # the best on top
        x, y, w, h = d["bbox"]
        text = f"{d['category']} {d['score']:.2f}"
        draw_box(out, (x, y, x + w, y + h), text, class_colour(d["label"], classes))
    return out

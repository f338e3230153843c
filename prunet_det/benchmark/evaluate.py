"""Accuracy of what is deployed: the network in its runtime and precision, not the training's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch.nn import functional

from prunet_det.benchmark.records import METRICS
from prunet_det.detection.build import NetworkPart
from prunet_det.runtime import make_program
from prunet_det.runtime.program import Program
from prunet_det.training.launch import set_classes
from prunet_det.utils.errors import InputError

# pycocotools' names, in mmdet's spelling, of METRICS.
_COCO = ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP_m", "bbox_mAP_l")


def make_artifact(
    detector: BaseDetector, input_size: int, artifact: str, device: str, threads: int
) -> tuple[NetworkPart, Program]:
    """A detector's network as it is deployed, for one image.

    Args:
        detector: MMDetection's model, trained, on the CPU.
        input_size: Side of its images.
        artifact: Runtime and precision, such as `onnxruntime fp32`.
        device: A torch device.
        threads: Threads of a CPU.

    Raises:
        RuntimeMissingError: The runtime is not here.
        ValueError: The network cannot be exported.
    """
    runtime, precision = artifact.split()
    part = NetworkPart(detector, input_size).eval()
    images = torch.zeros(1, 3, input_size, input_size)
    return part, make_program(part, images, runtime, precision, device, threads or None)


def predictor(
    detector: BaseDetector, part: NetworkPart, program: Program
) -> Callable[[dict[str, Any]], Sequence[Any]]:
    """Predicts a batch of a data loader, image by image, through the program.

    Normalisation before it and selection and NMS after it are the detector's own. What an image
    lacks to the program's square is zeros, as the detector's own padding.
    """
    height, width = program.shape[2:]
    preprocess, head = detector.data_preprocessor, detector.bbox_head

    def predict(batch: dict[str, Any]) -> Sequence[Any]:
        with torch.inference_mode():
            data = preprocess(batch, False)
            samples = data["data_samples"]
            for image, sample in zip(data["inputs"], samples, strict=True):
                margins = (0, width - image.shape[2], 0, height - image.shape[1])
                outputs = program.bind(functional.pad(image[None], margins))()
                groups = part.grouped([output.float() for output in outputs])
                sample.pred_instances = head.predict_by_feat(
                    *groups, batch_img_metas=[sample.metainfo], rescale=True
                )[0]
        return list(samples)

    return predict


def without_workers(loader: Config) -> Any:
    """A data loader that loads in this process."""
    return Runner.build_dataloader({**loader, "num_workers": 0, "persistent_workers": False})


def evaluate(
    cfg: Config, predict: Callable[[dict[str, Any]], Sequence[Any]], classes: Sequence[str]
) -> dict[str, float | None]:
    """METRICS on a config's test split, by pycocotools.

    Args:
        cfg: With the test data and their evaluator; the data are told the classes.
        predict: From a batch to its samples with their predictions.
        classes: Classes of the training, in the order of the labels.

    Raises:
        InputError: The test data have other classes, and cannot match them by name.
    """
    set_classes(cfg.test_dataloader.dataset, classes)
    loader = Runner.build_dataloader(cfg.test_dataloader, seed=0)
    if tuple(loader.dataset.metainfo["classes"]) != tuple(classes):
        raise InputError("the training and test data have different classes, or in another order.")
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = loader.dataset.metainfo
    for batch in loader:
        evaluator.process(data_samples=predict(batch), data_batch=batch)
    found = evaluator.evaluate(len(loader.dataset))
    values = [float(found.get(f"coco/{name}", 0.0)) for name in _COCO]  # nothing found: no figures
    return {name: None if value < 0 else value for name, value in zip(METRICS, values, strict=True)}

"""Trained detectors from what a user names: a folder, weights, or an exported file."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prunet_det.inference.detector import Detector, Engine, check_selection
from prunet_det.inference.exported import ExportedFile
from prunet_det.inference.images import ChannelOrder
from prunet_det.runtime import RUNTIMES, RuntimeMissingError, check_runtime
from prunet_det.utils.config import positive_int
from prunet_det.utils.env import check_device
from prunet_det.utils.errors import InputError, MissingFileError
from prunet_det.utils.package import find_checkpoint
from prunet_det.zoo.weights import CheckpointError

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector
    from mmengine.config import Config

logger = logging.getLogger(__name__)

SHIPPED = "checkpoints/prunet_demo_digits.safetensors"
WEIGHTS = "weights.safetensors"  # as a training leaves them in its folder


def load_detector(  # noqa: PLR0913 (what a user may choose)
    model: str | os.PathLike[str] | None = None,
    runtime: str = "auto",
    *,
    config: str | os.PathLike[str] | Config | None = None,
    classes: Sequence[str] | None = None,
    device: str | None = None,
    precision: str = "fp32",
    batch: int = 1,
    threads: int | None = None,
    score_thr: float = 0.3,
    max_per_img: int | None = None,
    channel_order: ChannelOrder = "bgr",
) -> Detector:
    """Loads a trained detector, which is then called with images.

    Args:
        model: A training's folder, with its weights, train.json and config; or a file of weights,
            with a card or a train.json beside it; or an .onnx that `tools/export.py --scope e2e`
            wrote, which needs neither MMDetection nor a config; by default the shipped detector of
            digits.
        runtime: One of `prunet_det.runtime.RUNTIMES`, or `auto` for the fastest that is ready
            within seconds: ONNX Runtime on a CPU, a CUDA graph on a GPU. It is held to eager
            PyTorch once.
        config: Config of the detector; by default the one in the folder, or the card's.
        classes: Class names, in the order of the labels; by default those of train.json or the
            card, or of the config's test data.
        device: Torch device; by default CUDA where there is one, and ONNX Runtime can use it if
            the model is an .onnx.
        precision: `fp32` or `fp16`, of weights and activations.
        batch: Number of images of a list that are run at once; one for detectors that run as a
            whole, such as those of two stages, with a warning.
        threads: Threads of a CPU; all cores by default. Only ONNX Runtime has threads of its own:
            in PyTorch these are the whole process's, `torch.set_num_threads`, and stay so.
        score_thr: Minimum score of a detection, 0..1. The default is for looking at pictures; to
            compute an mAP give 0, for every detection left out lowers it.
        max_per_img: Maximum number of detections in an image; by default the config's.
        channel_order: Order in arrays and tensors: `bgr`, as OpenCV reads images, or `rgb`.

    Returns:
        The detector: `detector(image)` gives `Detections`, `detector([image, ...])` a list.

    Raises:
        MissingFileError: If there is no such folder or file.
        MissingPackageError: If a package of an extra is not installed.
        CheckpointError: If the weights cannot be read or do not fit.
        InputError: If config or classes are not known, or an argument is impossible.
    """
    check_selection(score_thr, max_per_img)
    positive_int(batch, "batch")
    if threads is not None:
        positive_int(threads, "threads")
    devices = [device] if device else ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    device = check_device(devices[0])
    if runtime not in ("auto", *RUNTIMES):
        raise InputError(
            f"there is no runtime {runtime!r}; the known ones are auto, {', '.join(RUNTIMES)}."
        )
    choice: dict[str, Any] = dict(
        score_thr=score_thr, max_per_img=max_per_img, channel_order=channel_order
    )
    if model is not None and Path(model).suffix == ".onnx":
        if runtime not in ("auto", "onnxruntime") or precision != "fp32" or config is not None:
            raise InputError(
                f"{os.fspath(model)} runs in ONNX Runtime, in the precision that it was exported "
                "in, and needs no config."
            )
        exported = _open_exported(model, devices, batch, threads)
        if classes is not None and len(classes) != len(exported.classes):
            raise InputError(
                f"the file has {len(exported.classes)} classes, but {len(classes)} names were "
                "given."
            )
        return Detector(exported, classes or exported.classes, **choice)
    check_runtime("eager" if runtime == "auto" else runtime, precision, device)
    found = find_training(SHIPPED if model is None else model, config, classes)
    options = dict(device=device, precision=precision, batch=batch, threads=threads)
    engine = build_engine(found, runtime, score_thr, max_per_img, **options)
    return Detector(engine, found.classes, **choice)


def _open_exported(
    path: str | os.PathLike[str], devices: Sequence[str], batch: int, threads: int | None
) -> ExportedFile:
    """Opens an exported file on the first of the devices that this ONNX Runtime can use."""
    *others, last = devices
    for device in others:
        try:
            return ExportedFile(path, device, batch, threads)
        except RuntimeMissingError as e:
            logger.warning("%s runs on %s: %s", os.fspath(path), last, e)
    return ExportedFile(path, last, batch, threads)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a trained detector is made of.

    Attributes:
        config: Its config, as it was read.
        weights: File of the weights.
        classes: Class names, in the order of the labels.
    """

    config: Config
    weights: Path
    classes: tuple[str, ...]


def find_training(
    model: str | os.PathLike[str],
    config: str | os.PathLike[str] | Config | None = None,
    classes: Sequence[str] | None = None,
) -> Trained:
    """Finds config, weights and classes.

    Args:
        model: A training's folder, or a file of weights.
        config: Config to use in the place of the one that belongs to the weights.
        classes: Class names to use in the place of theirs.

    Raises:
        MissingFileError: If there is no such folder or file.
        InputError: If nothing says the config or the classes.
    """
    from mmengine.config import Config

    import prunet_det.detection  # noqa: F401  (names the extra that is missing)
    from prunet_det.training.records import read_classes
    from prunet_det.utils.config import read_config

    weights = find_weights(Path(model))
    if config is None:
        config = _config_of(weights)
    cfg = config if isinstance(config, Config) else read_config(config)
    names = classes or read_classes(weights) or _test_classes(cfg)
    if not names:
        raise CheckpointError(
            f"nothing says the classes of {weights}, neither a train.json or a card beside it nor "
            "its config; name them in the order of the labels (classes=..., --classes A B ...)."
        )
    return Trained(config=cfg, weights=weights, classes=tuple(map(str, names)))


def find_weights(model: Path) -> Path:
    """Returns the file of weights that a user has named, itself or by its folder.

    Raises:
        MissingFileError: If it is not there.
        InputError: If it is a config.
    """
    if model.suffix == ".py" and model.is_file():
        raise InputError(
            f"{model} is a config, which has no weights; name a training's folder or its weights, "
            "and the config beside them (config=..., --config FILE)."
        )
    if model.is_dir():
        if not (model / WEIGHTS).is_file():
            raise MissingFileError(
                f"the folder {model} has no {WEIGHTS}, which a training writes with every "
                "checkpoint; name the file of the weights."
            )
        return model / WEIGHTS
    found = find_checkpoint(model)
    if not found.is_file():
        raise MissingFileError(f"there is no checkpoint or folder {model}.")
    return found


def _config_of(weights: Path) -> str | Path:
    """Returns the config that belongs to weights, as their card or their training says.

    Raises:
        CheckpointError: If neither does, or several configs could be the training's.
        MissingFileError: If the training's config is not there.
    """
    from prunet_det.training.records import TRAINING_FILE, read_card, read_training

    folder, card, training = weights.parent, read_card(weights), read_training(weights)
    name_it = "name the config (config=..., --config FILE)."
    if named := card.get("config"):
        beside = folder / str(named)
        return beside if beside.is_file() else str(named)
    own = weights.with_suffix(".py")
    if own.is_file():
        return own
    if named := training.get("config"):
        config = folder / Path(str(named)).name
        if not config.is_file():
            raise MissingFileError(
                f"{folder} has no {config.name}, with which {TRAINING_FILE} says that the weights "
                f"were trained; {name_it}"
            )
        return config
    configs = sorted(folder.glob("*.py")) if training else []
    if len(configs) == 1:
        return configs[0]
    if configs:
        names = ", ".join(path.name for path in configs)
        raise CheckpointError(
            f"{folder} has several configs ({names}), and its {TRAINING_FILE} does not say which "
            f"of them is the weights'; {name_it}"
        )
    if card:
        raise CheckpointError(
            f"the card {weights.stem}.json of {weights} names no config; {name_it}"
        )
    raise CheckpointError(
        f"{weights} has no readable card {weights.stem}.json beside it, nor the {TRAINING_FILE} "
        f"and the config of its training; {name_it}"
    )


def _test_classes(cfg: Config) -> Sequence[str]:
    """Returns the classes that a config of MMDetection's kind gives its test data."""
    dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    return (dataset.get("metainfo") or {}).get("classes") or ()


def build_engine(
    found: Trained, runtime: str, score_thr: float, max_per_img: int | None, **options: Any
) -> Engine:
    """Builds what runs a detector.

    Args:
        found: The detector.
        runtime: One of RUNTIMES, or `auto`.
        score_thr: Minimum score of a detection.
        max_per_img: Maximum number of detections in an image; None for the config's.
        **options: `device`, `precision`, `batch` and `threads`, see `network_engine`.

    Raises:
        InputError: If the runtime is unknown or cannot run the detector.
        RuntimeMissingError: If the runtime is not here.
    """
    from prunet_det.detection.build import build_detector
    from prunet_det.inference.network import network_engine
    from prunet_det.inference.whole import WholeModel

    detector = build_detector(found.config, found.weights, classes=found.classes)
    select(detector, score_thr, max_per_img)
    engine = network_engine(detector, runtime, **options)
    if engine is not None:
        return engine
    if options["batch"] > 1:
        kind = type(detector).__name__
        logger.warning("this %s runs one image at a time, not %d", kind, options["batch"])
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    return WholeModel(detector.to(options["device"]), options["device"])


def select(detector: BaseDetector, score_thr: float, max_per_img: int | None) -> None:
    """Has a detector's heads select no more than is wanted.

    What is not wanted need not go through NMS. There it would remove nothing that is, for its
    scores are lower.

    Args:
        detector: MMDetection's detector; changed in place.
        score_thr: Minimum score of a detection, if it is higher than the config's.
        max_per_img: Maximum number of detections in an image; None for the config's.
    """
    for name in ("bbox_head", "roi_head"):
        selection = getattr(getattr(detector, name, None), "test_cfg", None) or {}
        if "score_thr" in selection:
            selection["score_thr"] = max(selection["score_thr"], score_thr)
        if "max_per_img" in selection and max_per_img is not None:
            selection["max_per_img"] = max_per_img

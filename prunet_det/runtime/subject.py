"""Networks that can be exported and timed: by name or spec file, cut to a scope."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from prunet_det.arch.network import reestimate_norms
from prunet_det.arch.spec import ArchSpec
from prunet_det.utils.config import positive_int
from prunet_det.utils.errors import InputError

if TYPE_CHECKING:
    from mmengine.model import ImgDataPreprocessor

logger = logging.getLogger(__name__)

DETECTION_SIZE = 512  # pixels, where nothing else says


class Scope(str, Enum):
    """What part of a network is run and timed; the value is what JSON and command lines say.

    Raises:
        InputError: If a text names no scope.
    """

    CLASSIFIER = "classifier"  # the whole classification network
    BACKBONE = "backbone"  # everything up to the deepest stride, without the tail
    DETECTOR = "detector"  # backbone, neck and head up to raw outputs
    E2E = "e2e"  # the detector with normalisation before and selection and NMS after it

    def __str__(self) -> str:
        return self.value

    @property
    def label(self) -> str:
        """Name in tables and figures."""
        return "end to end" if self is Scope.E2E else self.value

    @classmethod
    def _missing_(cls, value: object) -> Scope:
        known = ", ".join(scope.value for scope in cls)
        raise InputError(f"there is no scope {value!r}; the known ones are {known}.")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network that can be exported and timed.

    Attributes:
        name: Name in records and tables.
        scope: What part of the network `module` is.
        module: From images (N, 3, H, W) to one tensor or a tuple of them; for `e2e`, the network
            part of the detector.
        input_size: Side of the square images, in pixels.
        output_names: One name for each output tensor.
        detector: MMDetection's model, for the scopes `detector` and `e2e`.
        picture: (3, input_size, input_size) in uint8: the image to run on, for networks whose time
            depends on what they see. Random images by default.
    """

    name: str
    scope: Scope
    module: nn.Module
    input_size: int
    output_names: tuple[str, ...] = ()
    detector: Any = None
    picture: torch.Tensor | None = None

    def images(self, batch: int = 1, seed: int = 0) -> torch.Tensor:
        """Input of the network: (batch, 3, input_size, input_size), float32, normalised.

        Args:
            batch: Number of images.
            seed: Seed of random images, which are normally distributed.
        """
        if self.picture is not None:
            return normalise(self.detector.data_preprocessor, self.pixels(batch)).cpu()
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, 3, self.input_size, self.input_size, generator=generator)

    def pixels(self, batch: int = 1, seed: int = 0) -> torch.Tensor:
        """Input of `e2e`: (batch, 3, input_size, input_size), uint8.

        Args:
            batch: Number of images.
            seed: Seed of random images, which are uniformly distributed.
        """
        if self.picture is not None:
            return self.picture.expand(batch, -1, -1, -1)
        shape = (batch, 3, self.input_size, self.input_size)
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def load_subject(
    model: str | os.PathLike[str] | ArchSpec,
    scope: Scope | str = Scope.BACKBONE,
    input_size: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    settle: bool = True,
) -> Subject:
    """Builds a network; `latency.subject.load_named` takes configs of detectors as well.

    Without a checkpoint the weights are random, always the same, with batch norms that fit them, so
    that deep networks stay within half precision.

    Args:
        model: A network of the zoo or of timm, or a spec or its file (*.json).
        scope: What part of it, classifier or backbone.
        input_size: Side of the square images, in pixels; by default a classifier's own, or 512.
        checkpoint: File of weights; random ones by default.
        settle: Whether to fit the batch norms of random weights; not needed where nothing is run.

    Raises:
        InputError: If network or scope are unknown, or the model does not have the scope.
        FileNotFoundError: If there is no such spec or checkpoint.
        CheckpointError: If the weights do not fit.
    """
    scope = Scope(scope)
    if input_size is not None:
        positive_int(input_size, "the input size")

    def build() -> Subject:
        if isinstance(model, ArchSpec):
            return _from_spec(model, scope, input_size, checkpoint)
        if os.fspath(model).endswith(".py"):
            raise InputError(
                f"{model} is a detector's config: latency.subject.load_named takes it."
            )
        if scope in (Scope.DETECTOR, Scope.E2E):
            raise InputError(f"scope {scope} needs a detector's config (*.py), got {model}.")
        return _from_network(os.fspath(model), scope, input_size, checkpoint)

    return build_seeded(build, settle and checkpoint is None)


def build_seeded(build: Callable[[], Subject], settle: bool) -> Subject:
    """Builds a network from a fixed seed.

    Args:
        build: Builds it.
        settle: Whether to fit the batch norms to its weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subject = build()
        if settle:
            size = min(subject.input_size, 256)
            reestimate_norms(subject.module, [torch.randn(2, 3, size, size)])
    return subject


def normalise(preprocessor: ImgDataPreprocessor, images: torch.Tensor) -> torch.Tensor:
    """Normalises images as a preprocessor does, at the size that they have, without padding.

    Args:
        preprocessor: mmengine's or MMDetection's, or one of ours.
        images: (N, 3, H, W), uint8 as a rule, on any device.

    Returns:
        (N, 3, H, W) float32, on the preprocessor's device.
    """
    images = images.to(preprocessor.device, non_blocking=True)
    # Not by an index, which would be copied to the device, and the host would wait for it.
    images = images.flip(1) if preprocessor._channel_conversion else images
    if preprocessor._enable_normalize:
        images = (images - preprocessor.mean.float()).div_(preprocessor.std)  # YOLO's are integers
    return images.float()


def is_ours(name: str) -> bool:
    """Returns whether a name is a network of the zoo or a spec file, rather than one of timm."""
    from prunet_det.zoo.models import ALIASES, model_names

    return name.endswith(".json") or name in (*model_names(), *ALIASES)


def check_names(models: Iterable[str]) -> None:
    """Refuses networks that are neither here nor in timm, before anything is built.

    Args:
        models: As `load_subject` takes them; files are looked at when they are read.

    Raises:
        InputError: If one is unknown.
    """
    import timm

    from prunet_det.zoo.models import model_names

    for name in models:
        if not (is_ours(name) or name.endswith(".py") or timm.is_model(name)):
            raise InputError(
                f"there is no network {name!r}, neither here ({', '.join(model_names())}) nor in "
                "timm."
            )


def timm_network(name: str, scope: Scope | str) -> tuple[nn.Module, int]:
    """One of timm's networks as `scope` has it, without pretrained weights, and its own resolution.

    Raises:
        ValueError: timm has no such network, or it gives no feature maps.
    """
    import timm

    from prunet_det.zoo.features import timm_features

    check_names([name])
    if Scope(scope) is Scope.CLASSIFIER:
        network: Any = timm.create_model(name)
        return network, network.pretrained_cfg["input_size"][-1]
    return timm_features(name), DETECTION_SIZE


def _from_network(
    name: str,
    scope: Scope,
    input_size: int | None,
    checkpoint: str | os.PathLike[str] | None,
) -> Subject:
    from prunet_det.zoo.models import resolve_spec

    if is_ours(name):
        return _from_spec(resolve_spec(name), scope, input_size, checkpoint)
    module, size = timm_network(name, scope)
    if checkpoint is not None:
        _load(module, scope, checkpoint)
    return Subject(
        name=name,
        scope=scope,
        module=module.eval(),
        input_size=input_size or size,
        output_names=_names(module),
    )


def _from_spec(
    spec: ArchSpec,
    scope: Scope,
    input_size: int | None,
    checkpoint: str | os.PathLike[str] | None,
) -> Subject:
    from prunet_det.zoo import create
    from prunet_det.zoo.features import MIN_STRIDE, choose_indices

    size = input_size or (spec.input_size if scope is Scope.CLASSIFIER else DETECTION_SIZE)
    options: dict[str, Any] = {}
    if scope is Scope.BACKBONE:
        strides = [stride for _, _, stride in spec.feature_stages()]
        deepest = None if strides[-1] >= MIN_STRIDE else [-1]
        indices = choose_indices(strides, None, deepest, spec.name)
        options = dict(features_only=True, out_indices=indices, padding="same")
    module = create(spec, **options)
    if checkpoint is not None:
        _load(module, scope, checkpoint)
    return Subject(
        name=spec.name,
        scope=scope,
        module=module.eval(),
        input_size=size,
        output_names=_names(module),
    )


def _load(network: nn.Module, scope: Scope, checkpoint: str | os.PathLike[str]) -> None:
    """Loads a network's weights; of a classifier all of them, or it would answer at random."""
    from prunet_det.zoo.weights import load_backbone_weights, load_classifier_weights

    whole = scope is Scope.CLASSIFIER
    load = load_classifier_weights if whole else load_backbone_weights
    logger.info("%s", load(network, checkpoint))


def _names(network: Any) -> tuple[str, ...]:
    info: Any = getattr(network, "feature_info", None)
    if hasattr(info, "reduction"):  # a feature extractor of timm's
        return tuple(f"stride{s}" for s in info.reduction())
    return ("logits",)

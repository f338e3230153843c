"""Networks that can be exported and timed: by name, spec file or config, cut to a scope."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from prunet_det.arch.network import reestimate_norms
from prunet_det.arch.spec import ArchSpec
from prunet_det.utils.config import positive_int
from prunet_det.utils.errors import InputError

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
            from prunet_det.detection.preprocessor import normalise

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
    """Builds what a command line names.

    Without a checkpoint the weights are random, always the same, with batch norms that fit them, so
    that deep networks stay within half precision.

    Args:
        model: A network of the zoo or of timm, a spec or its file (*.json), or a config (*.py).
        scope: What part of it; networks have the first two, configs of detectors the last three.
        input_size: Side of the square images, in pixels; by default a classifier's own, that of a
            config's test pipeline, or 512.
        checkpoint: File of weights; random ones by default.
        settle: Whether to fit the batch norms of random weights; not needed where nothing is run.

    Raises:
        InputError: If network or scope are unknown, or the model does not have the scope.
        FileNotFoundError: If there is no such spec, config or checkpoint.
        CheckpointError: If the weights do not fit.
    """
    scope = Scope(scope)
    if input_size is not None:
        positive_int(input_size, "the input size")
    name = model.name if isinstance(model, ArchSpec) else os.fspath(model)
    with _seeded():
        if isinstance(model, ArchSpec):
            subject = _from_spec(model, scope, input_size, checkpoint)
        elif name.endswith(".py"):
            subject = _from_config(name, scope, input_size, checkpoint)
        elif scope in (Scope.DETECTOR, Scope.E2E):
            raise InputError(f"scope {scope} needs a detector's config (*.py), got {name}.")
        else:
            subject = _from_network(name, scope, input_size, checkpoint)
        if settle and checkpoint is None:
            size = min(subject.input_size, 256)
            reestimate_norms(subject.module, [torch.randn(2, 3, size, size)])
    return subject


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


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


def _from_config(
    path: str,
    scope: Scope,
    input_size: int | None,
    checkpoint: str | os.PathLike[str] | None,
) -> Subject:
    from prunet_det.detection import build

    detector = build.build_detector(path, checkpoint)
    size = input_size or build.image_size(detector.cfg) or DETECTION_SIZE
    name = os.path.splitext(os.path.basename(path))[0]
    if scope is Scope.CLASSIFIER:
        raise InputError(f"{path} is a detector's config; scope classifier needs a network.")
    if scope is Scope.BACKBONE:
        strides = getattr(detector.backbone, "out_strides", None)
        names = tuple(f"stride{s}" for s in strides) if strides else ()
        module = detector.backbone.eval()
    else:
        try:
            module = build.NetworkPart(detector, size).eval()
        except Exception as e:  # whatever a detector's own code raises
            raise InputError(
                f"the detector of {path} does not run as backbone, neck and head on images of "
                f"{size} px: {' '.join(str(e).split())[:200]}"
            ) from e
        names = module.output_names
    return Subject(
        name=name,
        scope=scope,
        module=module,
        input_size=size,
        output_names=names,
        detector=detector,
    )

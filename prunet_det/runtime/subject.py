"""What is run: a network by name, spec file or config, cut to a scope."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunet_det.arch.spec import ArchSpec
from prunet_det.utils.config import positive_int
from prunet_det.utils.errors import InputError, MissingPackageError

# `classifier`: the whole classification network. `backbone`: everything up to the deepest stride,
# without the tail. `detector`: backbone, neck and head up to raw outputs. `e2e`: `detector` with
# normalisation before and selection and NMS after it.
SCOPES = ("classifier", "backbone", "detector", "e2e")
DETECTION_SIZE = 512  # pixels, where nothing else says
_LEAST_STRIDE = 8  # of the maps that a backbone gives to a detector


@dataclass(frozen=True)
class Subject:
    """A network that can be exported and timed.

    Attributes:
        name: What it is called.
        scope: One of SCOPES.
        module: From images to one tensor or a tuple of them; of scope `e2e` its network part.
        input_size: Side of the images.
        output_names: One for each tensor.
        detector: MMDetection's model, of the scopes `detector` and `e2e`.
    """

    name: str
    scope: str
    module: nn.Module
    input_size: int
    output_names: tuple[str, ...]
    detector: Any = None

    def images(self, batch: int = 1, seed: int = 0) -> torch.Tensor:
        """Random images, (batch, 3, input_size, input_size), normally distributed."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, 3, self.input_size, self.input_size, generator=generator)


def load_subject(
    model: str | os.PathLike[str] | ArchSpec,
    scope: str = "backbone",
    input_size: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    settle: bool = True,
) -> Subject:
    """Builds what a command line names.

    Without a checkpoint the weights are random, always the same, with batch norms that fit them, so
    that deep networks stay within half precision.

    Args:
        model: A network of the zoo or of timm, a spec or its file (*.json), or a config (*.py).
        scope: One of SCOPES; networks have the first two, configs of detectors the last three.
        input_size: In pixels; by default a classifier's own, a config's `input_size`, or 512.
        checkpoint: Weights.
        settle: Fit the batch norms of random weights; not needed where nothing is run.

    Raises:
        ValueError: Unknown network or scope, or a scope that the model does not have.
        FileNotFoundError, CheckpointError: Of the spec, config or checkpoint.
    """
    if scope not in SCOPES:
        raise InputError(f"there is no scope {scope!r}; the known ones are {', '.join(SCOPES)}.")
    if input_size is not None:
        positive_int(input_size, "the input size")
    name = model.name if isinstance(model, ArchSpec) else os.fspath(model)
    with _seeded():
        if isinstance(model, ArchSpec):
            subject = _from_spec(model, scope, input_size, checkpoint)
        elif name.endswith(".py"):
            subject = _from_config(name, scope, input_size, checkpoint)
        elif scope in ("detector", "e2e"):
            raise InputError(f"scope {scope} needs a detector's config (*.py), got {name}.")
        else:
            subject = _from_network(name, scope, input_size, checkpoint)
        if settle and checkpoint is None:
            settle_statistics(subject)
    return subject


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def is_ours(name: str) -> bool:
    """Whether a name is a network of the zoo's or a spec file, rather than one of timm's."""
    from prunet_det.zoo.models import ALIASES, model_names

    return name.endswith(".json") or name in (*model_names(), *ALIASES)


def timm_network(name: str, scope: str) -> tuple[nn.Module, int]:
    """One of timm's networks as `scope` has it, without pretrained weights, and its own resolution.

    Raises:
        ValueError: timm has no such network, or it gives no feature maps.
    """
    import timm

    from prunet_det.zoo.models import model_names

    if not timm.is_model(name):
        raise InputError(
            f"there is no network {name!r}, neither here ({', '.join(model_names())}) nor in timm."
        )
    if scope == "classifier":
        network: Any = timm.create_model(name)
        return network, network.pretrained_cfg["input_size"][-1]
    try:
        options: dict[str, Any] = dict(features_only=True, feature_cls="getter")
        with torch.device("meta"):
            probe: Any = timm.create_model(name, **options)
        strides = probe.feature_info.reduction()
        indices = [i for i, s in zip(probe.out_indices, strides, strict=True) if s >= _LEAST_STRIDE]
        return timm.create_model(name, out_indices=indices, **options), DETECTION_SIZE
    except (RuntimeError, TypeError, AssertionError) as e:
        raise InputError(f"timm's {name} gives no feature maps: {e}.") from e


def _from_network(
    name: str,
    scope: str,
    input_size: int | None,
    checkpoint: str | os.PathLike[str] | None,
) -> Subject:
    from prunet_det.zoo import load_backbone_weights
    from prunet_det.zoo.models import resolve_spec

    if is_ours(name):
        return _from_spec(resolve_spec(name), scope, input_size, checkpoint)
    module, size = timm_network(name, scope)
    if checkpoint is not None:
        print(load_backbone_weights(module, checkpoint))
    return Subject(name, scope, module.eval(), input_size or size, _names(module))


def _from_spec(
    spec: ArchSpec,
    scope: str,
    input_size: int | None,
    checkpoint: str | os.PathLike[str] | None,
) -> Subject:
    from prunet_det.zoo import create

    size = input_size or (spec.input_size if scope == "classifier" else DETECTION_SIZE)
    options: dict[str, Any] = {}
    if scope == "backbone":
        strides = [stride for _, _, stride in spec.feature_stages()]
        indices = [i for i, s in enumerate(strides) if s >= _LEAST_STRIDE]
        indices = indices or [len(strides) - 1]
        options = dict(features_only=True, out_indices=indices, padding="same")
    module = create(spec, checkpoint, **options)
    return Subject(spec.name, scope, module.eval(), size, _names(module))


def _names(network: Any) -> tuple[str, ...]:
    info: Any = getattr(network, "feature_info", None)
    if hasattr(info, "reduction"):  # a feature extractor of timm's
        return tuple(f"stride{s}" for s in info.reduction())
    return ("logits",)


def _from_config(
    path: str,
    scope: str,
    input_size: int | None,
    checkpoint: str | os.PathLike[str] | None,
) -> Subject:
    try:
        from prunet_det.detection import build
    except ImportError as e:
        raise MissingPackageError(
            f"configs need the extra: pip install prunet_det[det] ({e})."
        ) from e
    detector, size = build.build_detector(path, checkpoint)
    size = input_size or size or DETECTION_SIZE
    name = os.path.splitext(os.path.basename(path))[0]
    if scope == "classifier":
        raise InputError(f"{path} is a detector's config; scope classifier needs a network.")
    if scope == "backbone":
        strides = getattr(detector.backbone, "out_strides", None)
        names = tuple(f"stride{s}" for s in strides) if strides else ()
        return Subject(name, scope, detector.backbone.eval(), size, names, detector)
    part = build.NetworkPart(detector, size).eval()
    return Subject(name, scope, part, size, part.output_names, detector)


def settle_statistics(subject: Subject) -> None:
    """Sets every batch norm's statistics to those of random images, as training would."""
    norms = [m for m in subject.module.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        return
    size = min(subject.input_size, 256)
    images = torch.randn(2, 3, size, size)
    subject.module.eval()
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        with torch.no_grad():
            subject.module(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

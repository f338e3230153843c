"""What a command line names, to be exported, timed or priced: a network, or a detector's config."""

from __future__ import annotations

import os
from functools import partial

from prunet_det.runtime.subject import (
    DETECTION_SIZE,
    Scope,
    Subject,
    build_seeded,
    load_subject,
)
from prunet_det.utils.config import positive_int
from prunet_det.utils.errors import InputError


def load_named(
    model: str | os.PathLike[str],
    scope: Scope | str = Scope.BACKBONE,
    input_size: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    settle: bool = True,
) -> Subject:
    """Builds what a command line names.

    Args:
        model: As `load_subject` takes it, or a config of a detector (*.py).
        scope: What part of it; networks have the first two, configs of detectors the last three.
        input_size: Side of the square images, in pixels; by default what `load_subject` takes, or
            the size of a config's test pipeline.
        checkpoint: File of weights; random ones by default.
        settle: Whether to fit the batch norms of random weights; not needed where nothing is run.

    Raises:
        InputError: If network or scope are unknown, or the model does not have the scope.
        FileNotFoundError: If there is no such spec, config or checkpoint.
        CheckpointError: If the weights do not fit.
    """
    if not os.fspath(model).endswith(".py"):
        return load_subject(model, scope, input_size, checkpoint, settle)
    if input_size is not None:
        positive_int(input_size, "the input size")
    build = partial(_from_config, os.fspath(model), Scope(scope), input_size, checkpoint)
    return build_seeded(build, settle and checkpoint is None)


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

"""One-stage detectors whose network is a program of one shape, in any runtime."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector, SingleStageDetector

from prunet_det.detection.build import NetworkPart
from prunet_det.detection.letterbox import Letterbox, step_name, test_pipeline
from prunet_det.inference.detector import Engine, Found
from prunet_det.runtime import RUNTIMES, Program, make_program
from prunet_det.runtime.outputs import Reference
from prunet_det.utils.errors import InputError, UserError

logger = logging.getLogger(__name__)

# What `auto` tries, fastest first. Each of them is ready within seconds: TensorRT and torch.compile
# build for minutes, each time, and are for whoever asks for them.
AUTO = {
    "cpu": ("onnxruntime", "channels_last", "eager"),
    "cuda": ("cuda_graph", "channels_last", "eager"),
}
# Steps of a test pipeline that do no more than read an image and fit it into a square.
_PLAIN_STEPS = {
    *("LoadImageFromFile", "LoadImageFromNDArray", "LoadAnnotations"),
    *("Letterbox", "Resize", "Pad", "PackDetInputs", "PackChannelsLast"),
}


class NetworkEngine(Engine):
    """A network in a runtime, with the detector's own normalisation, selection and NMS around it.

    Args:
        detector: MMDetection's detector, in eval mode on the program's device.
        part: Its network.
        program: The network in a runtime.
        letterbox: How images are fitted into the network's square.
    """

    def __init__(
        self, detector: BaseDetector, part: NetworkPart, program: Program, letterbox: Letterbox
    ) -> None:
        self.detector, self.part, self.program, self.letterbox = detector, part, program, letterbox
        self.runtime, self.device = program.runtime, str(program.device)
        self.batch = program.shape[0]

    def prepare(self, image: np.ndarray) -> Any:
        """Returns the square of an image, (H, W, 3) uint8 in BGR, and what is known of it."""
        square, factors, shape = self.letterbox.fit(image)
        whole = square.shape[:2]
        meta = dict(
            img_shape=shape,
            ori_shape=image.shape[:2],
            pad_shape=whole,
            batch_input_shape=whole,
            scale_factor=factors,
        )
        return square, meta

    def run(self, prepared: Sequence[Any]) -> list[Found]:
        """Finds the objects in images; a batch that is not full is filled up with the last one."""
        squares, metas = zip(*prepared, strict=True)
        squares += squares[-1:] * (self.batch - len(squares))
        images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
        results = self.part.detect(self.detector, self.program.bind, images, metas)
        return [
            Found(*(t.cpu().numpy() for t in (found.bboxes, found.scores, found.labels)))
            for found in results
        ]


def choose_program(
    part: NetworkPart,
    example: torch.Tensor,
    runtime: str,
    *,
    precision: str,
    device: str,
    threads: int | None,
) -> Program:
    """Builds a network in a runtime, and holds it to eager PyTorch once.

    Args:
        part: The network, on the CPU.
        example: Normalised images, (N, 3, S, S) float32: the program's shape.
        runtime: One of RUNTIMES; or `auto` for the first of AUTO that is here and computes what
            eager PyTorch does, with a warning for each that does not.
        precision: `fp32` or `fp16`.
        device: Torch device.
        threads: Threads of a CPU; all cores by default.

    Raises:
        InputError: If a runtime that was asked for cannot run the network, or computes another one.
        RuntimeMissingError: If it is not here.
    """
    reference = None

    def build(name: str) -> Program:
        nonlocal reference
        program = make_program(part, example, name, precision, device, threads)
        if name != "eager":
            reference = reference or Reference(part, example, precision, device)
            reference.check(f"{name} {precision}", program(example))
        return program

    if runtime != "auto":
        return build(runtime)
    *faster, last = AUTO[torch.device(device).type]
    for name in faster:
        if RUNTIMES[name].missing(device):
            continue
        try:
            return build(name)
        except (UserError, RuntimeError) as e:  # such as an operator that a runtime does not have
            reason = " ".join(str(e).split())
            logger.warning("not run by %s: %s", name, reason)
    return build(last)


def network_engine(
    detector: BaseDetector,
    runtime: str,
    *,
    precision: str,
    device: str,
    batch: int,
    threads: int | None,
) -> NetworkEngine | None:
    """Builds what runs a detector's network as a program, if it is such a detector.

    Args:
        detector: MMDetection's detector, in eval mode on the CPU; it is moved to the device.
        runtime: One of RUNTIMES, or `auto`.
        precision: `fp32` or `fp16`.
        device: Torch device.
        batch: Images at once.
        threads: Threads of a CPU; all cores by default.

    Returns:
        The engine; None if `auto` or `eager` was asked for and the detector runs as a whole only.

    Raises:
        InputError: If the runtime cannot run the detector.
    """
    whole = runtime in ("auto", "eager") and precision == "fp32"
    try:
        letterbox = _letterbox(detector)
    except InputError:
        if whole:
            return None
        raise
    if whole and min(letterbox.scale) < letterbox.size:
        return None  # much of a square would be filling, and the pipeline's images have less of it
    part = NetworkPart(detector, letterbox.size).eval()
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(batch, 3, letterbox.size, letterbox.size, generator=generator)
    program = choose_program(
        part, example, runtime, precision=precision, device=device, threads=threads
    )
    return NetworkEngine(detector.to(device), part, program, letterbox)


def _letterbox(detector: BaseDetector) -> Letterbox:
    """Finds how a detector's images are fitted into a square.

    Raises:
        InputError: If it is no detector of one stage, or its test pipeline does something else.
    """
    if not isinstance(detector, SingleStageDetector):
        raise InputError(
            f"a {type(detector).__name__} runs in eager PyTorch in fp32 alone (runtime='eager')."
        )
    steps = [step_name(step) for step in test_pipeline(detector.cfg)]
    others = [name for name in steps if name not in _PLAIN_STEPS]
    if others:
        raise InputError(
            f"the test pipeline has a {others[0]}, which no other runtime knows (runtime='eager')."
        )
    return Letterbox.from_config(detector.cfg)

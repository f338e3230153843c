"""Latency of networks, measured on the machine that is here."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from prunet_det.latency.record import Conditions, Failure, Latency
from prunet_det.latency.stopwatch import Task, Timing, time_interleaved
from prunet_det.runtime import check_runtime, make_program
from prunet_det.runtime.outputs import Reference
from prunet_det.runtime.program import Program
from prunet_det.runtime.subject import Scope, Subject
from prunet_det.utils.config import positive_int
from prunet_det.utils.env import device_title, local_devices
from prunet_det.utils.errors import InputError, UserError

if TYPE_CHECKING:
    from prunet_det.detection.build import NetworkPart

logger = logging.getLogger(__name__)

MMDET = "mmdet"  # as a runtime: mmdet.apis.inference_detector, as its users call it


@dataclass(frozen=True)
class Measurement:
    """A measured latency and how it was measured.

    Attributes:
        latency: Median, 10th and 90th percentile.
        timing: All samples.
        difference: Largest relative L2 error of an output against eager FP32 on the same device; of
            `mmdet`, the share of its detections that the detector does not find (see `missed`).
    """

    latency: Latency
    timing: Timing
    difference: float | None

    def to_dict(self) -> dict[str, Any]:
        """One flat record: the latency's, with the timing's figures and images a second."""
        timing = self.timing.to_dict()
        return {
            **self.latency.to_dict(),
            **{k: v for k, v in timing.items() if k != "median_ms"},
            "images_per_s": 1e3 * self.latency.conditions.batch / self.latency.ms,
            "difference": self.difference,
            "failed": "",
        }


def local_conditions(
    device: str | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    batch: int = 1,
    threads: int | None = None,
) -> Conditions:
    """Conditions of a measurement on this machine.

    Args:
        device: A torch device; CUDA where there is one by default.
        runtime: One of `runtime.RUNTIMES`; what deployments use on the device by default.
        precision: `fp32` or `fp16`; what deployments use on the device by default.
        batch: Images at once.
        threads: Threads of a CPU, all cores by default; ignored on CUDA.

    Raises:
        InputError: If batch or threads are no positive integers.
    """
    if threads is not None:
        positive_int(threads, "the number of threads")
    device = device or local_device()
    usual = default_runtime(device)
    on_cpu = torch.device(device).type == "cpu"
    return Conditions(
        device=device_title(device),
        runtime=runtime or usual[0],
        precision=precision or usual[1],
        batch=batch,
        threads=(threads or os.cpu_count() or 1) if on_cpu else 0,
    )


def default_runtime(device: str) -> tuple[str, str]:
    """Runtime and precision that deployments use on a torch device."""
    cuda = torch.device(device).type == "cuda"
    return ("cuda_graph", "fp16") if cuda else ("onnxruntime", "fp32")


def local_device() -> str:
    """Torch device that `here` means: CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_device(conditions: Conditions) -> str | None:
    """Returns the torch device that has the title in the conditions, None where it is not here.

    Of several equal GPUs it is the first; CUDA_VISIBLE_DEVICES chooses among them.
    """
    return next((k for k, title in local_devices().items() if title == conditions.device), None)


def require_device(conditions: Conditions) -> str:
    """Returns the torch device that has the title in the conditions.

    Raises:
        InputError: If this machine does not have it.
    """
    device = find_device(conditions)
    if device is None:
        raise InputError(f"{conditions.device} is not here: it cannot be measured on.")
    return device


def measure(
    subjects: Sequence[Subject | Failure],
    conditions: Conditions,
    *,
    device: str | None = None,
    seconds: float = 2.0,
    progress: str = "",
    beside_mmdet: bool = False,
) -> list[Measurement | Failure]:
    """Times networks interleaved, once their outputs are held to eager's.

    What one network raises is its own failure; the others are timed.

    Args:
        subjects: Networks to time; those that could not be loaded have failed already.
        conditions: What they run on and how, as `local_conditions` gives it.
        device: Torch device; the one of the conditions' title by default.
        seconds: Largest time to spend on each network.
        progress: Label of a progress bar; none where empty.
        beside_mmdet: Whether detectors that are timed end to end are also timed through
            MMDetection's `inference_detector`, in the same rounds: runtime MMDET, and FP32 as
            PyTorch has it.

    Returns:
        A measurement or a failure for each network in order, MMDET's after the detector's own.

    Raises:
        InputError: If the device is not here, or runtime, precision or seconds are impossible.
        RuntimeMissingError: If the runtime is not here.
    """
    device = device or require_device(conditions)
    check_runtime(conditions.runtime, conditions.precision, device)
    if conditions.threads:
        torch.set_num_threads(conditions.threads)  # of what stands around a network, too
    preparing = _Preparing(conditions, device)
    jobs: list[_Job | Failure] = []
    for subject in subjects:
        if isinstance(subject, Failure):
            jobs.append(subject)
            continue
        jobs.append(_attempt(preparing.program, subject, conditions))
        if beside_mmdet and subject.scope is Scope.E2E:
            usual = replace(conditions, runtime=MMDET, precision="fp32")
            jobs.append(_attempt(preparing.mmdet, subject, usual))
    tasks = [job.task for job in jobs if isinstance(job, _Job)]
    timings = iter(time_interleaved(tasks, seconds, progress=progress) if tasks else [])
    return [job.measured(next(timings)) if isinstance(job, _Job) else job for job in jobs]


@dataclass(frozen=True)
class _Job:
    """A network that is ready to be timed."""

    subject: Subject
    conditions: Conditions
    task: Task
    difference: float | None

    def measured(self, timing: Timing) -> Measurement:
        return Measurement(_latency(self.subject, self.conditions, timing), timing, self.difference)


def _attempt(
    prepare: Callable[[Subject], tuple[Task, float | None]],
    subject: Subject,
    conditions: Conditions,
) -> _Job | Failure:
    """Makes a network ready and runs it once; or says why that cannot be."""
    try:
        task, difference = prepare(subject)
        task.sample(1)
        return _Job(subject, conditions, task, difference)
    except Exception as e:  # whatever a network's own code or a runtime raises
        return failure(e, subject.name, conditions, subject.scope, subject.input_size)


def failure(
    error: Exception,
    name: str,
    conditions: Conditions,
    scope: Scope | str,
    input_size: int | None,
    *,
    kind: str = "measured",
) -> Failure:
    """Makes the row of a network that has no latency; a bug's traceback goes to the log.

    Args:
        error: What was raised.
        name: Name of the network.
        conditions: What was to be measured or predicted.
        scope: What part of it.
        input_size: Side of the square images, in pixels; None where it is not known.
        kind: `measured` or `predicted`.
    """
    return Failure(
        model=name,
        input_size=input_size,
        scope=Scope(scope),
        conditions=conditions,
        reason=reason_of(error, name),
        kind=kind,
    )


def reason_of(error: Exception, what: str) -> str:
    """Returns what a row says of something that failed; a bug's traceback goes to the log.

    Args:
        error: What was raised.
        what: Name of what failed, for the log.
    """
    if isinstance(error, UserError):
        return str(error)
    logger.error("%s failed:", what, exc_info=error)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


class _Preparing:
    """Makes tasks of networks; what several of them share is made once."""

    def __init__(self, conditions: Conditions, device: str) -> None:
        self.conditions, self.device = conditions, device
        self.programs: dict[int, tuple[Program, float]] = {}  # by the network's id
        self.detectors: dict[int, Any] = {}  # copies on the device, by the detector's id

    def program(self, subject: Subject) -> tuple[Task, float]:
        """A network in the runtime of the conditions, held to eager's outputs."""
        c, images = self.conditions, subject.images(self.conditions.batch)
        if id(subject.module) not in self.programs:
            program = make_program(
                subject.module, images, c.runtime, c.precision, self.device, c.threads or None
            )
            reference = Reference(subject.module, images, c.precision, self.device)
            name = f"{c.runtime} {c.precision} of {subject.name}"
            self.programs[id(subject.module)] = program, reference.check(name, program(images))
        program, difference = self.programs[id(subject.module)]
        if subject.scope is not Scope.E2E:
            return Task(program.bind(images), program.device, program.host_clock), difference
        detect, pictures = self._callable(subject, program), self._pictures(subject)
        return Task(lambda: detect(pictures), program.device, host_clock=True), difference

    def mmdet(self, subject: Subject) -> tuple[Task, float | None]:
        """MMDetection's `inference_detector` on the same pictures, its pipeline built once."""
        from prunet_det.inference.whole import inference_run

        run = inference_run(self._detector(subject), self._pictures(subject))
        difference = None
        if id(subject.module) in self.programs:
            wanted = [sample.pred_instances.cpu().numpy() for sample in run()]
            found = self.program(subject)[0].run()
            difference = max(map(missed, found, wanted))
        return Task(run, self.device, host_clock=True), difference

    def _callable(self, subject: Subject, program: Program) -> Callable[[Any], Any]:
        """The detector as users call it; all that it finds counts, as in an evaluation."""
        from prunet_det.detection.letterbox import Letterbox
        from prunet_det.inference import Detector
        from prunet_det.inference.network import NetworkEngine

        detector, part = self._detector(subject), cast("NetworkPart", subject.module)
        engine = NetworkEngine(detector, part, program, Letterbox(subject.input_size))
        return Detector(engine, classes=(), score_thr=0.0)

    def _pictures(self, subject: Subject) -> list[np.ndarray]:
        pixels = subject.pixels(self.conditions.batch)
        return [np.ascontiguousarray(p.permute(1, 2, 0)) for p in pixels]

    def _detector(self, subject: Subject) -> Any:
        """A copy on the device: the detector's own network stays where its programs expect it."""
        if id(subject.detector) not in self.detectors:
            self.detectors[id(subject.detector)] = copy.deepcopy(subject.detector).to(self.device)
        return self.detectors[id(subject.detector)]


def missed(found: Any, wanted: Any) -> float:
    """Returns the share of MMDetection's detections in an image that a detector does not find.

    One is found again with its class, within 0.1 px and 1e-3 of its score. Where scores are equal
    up to rounding, as those of random weights are, either may keep another.

    Args:
        found: Detections.
        wanted: MMDetection's instances, as arrays.
    """
    if not len(wanted.scores):
        return float(len(found) > 0)
    same = wanted.labels[:, None] == found.labels
    same &= np.abs(wanted.scores[:, None] - found.scores) < 1e-3
    same &= (np.abs(wanted.bboxes[:, None] - found.boxes) < 0.1).all(-1)
    return 1 - float(same.any(1).mean())


def _latency(subject: Subject, conditions: Conditions, timing: Timing) -> Latency:
    median = timing.median_ms
    return Latency(
        model=subject.name,
        input_size=subject.input_size,
        scope=subject.scope,
        conditions=conditions,
        ms=median,
        low=min(timing.percentile(10), median),
        high=max(timing.percentile(90), median),
        kind="measured",
        note=f"unstable: {timing.unstable}" if timing.unstable else "",
    )

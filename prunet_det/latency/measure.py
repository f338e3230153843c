"""Latency of networks on the machine that is here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prunet_det.latency.record import Latency
from prunet_det.latency.roofline import check_batch
from prunet_det.latency.stopwatch import Task, Timing, time_interleaved
from prunet_det.machine import device_title
from prunet_det.runtime import make_program
from prunet_det.runtime.program import TOLERANCE, Program, check_outputs
from prunet_det.runtime.pytorch import as_tuple
from prunet_det.runtime.subject import Subject


@dataclass(frozen=True)
class Measurement:
    """A measured latency and how it was measured.

    Attributes:
        latency: The record: median, 10th and 90th percentile.
        timing: All samples.
        difference: Of the outputs to eager FP32, of the largest magnitude.
    """

    latency: Latency
    timing: Timing
    difference: float

    def to_dict(self) -> dict[str, Any]:
        """One flat record."""
        latency, timing = self.latency.to_dict(), self.timing.to_dict()
        throughput = 1e3 * self.latency.batch / self.latency.latency_ms
        return {
            **latency,
            **{k: v for k, v in timing.items() if k != "median_ms"},
            "images_per_s": throughput,
            "difference": self.difference,
        }


def local_device() -> str:
    """The torch device that `here` means: CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_runtime(device: str) -> tuple[str, str]:
    """Runtime and precision that deployments use on a device."""
    return (
        ("cuda_graph", "fp16") if torch.device(device).type == "cuda" else ("onnxruntime", "fp32")
    )


def count_threads(device: str, threads: int | None) -> int:
    """Threads for the record: of a CPU, all cores by default; 0 on CUDA.

    Raises:
        ValueError: Less than one.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"the number of threads must be at least 1, got {threads}.")
    if torch.device(device).type != "cpu":
        return 0
    return threads or os.cpu_count() or 1


def measure(
    subjects: Sequence[Subject],
    runtime: str,
    precision: str = "fp32",
    device: str = "cpu",
    batch: int = 1,
    threads: int | None = None,
    seconds: float = 2.0,
    progress: str = "",
    failed: dict[str, str] | None = None,
) -> list[Measurement]:
    """Times networks interleaved, after their outputs were held to eager's.

    Args:
        subjects: What to time.
        runtime, precision: See `make_program`.
        device: A torch device.
        batch: Images at once.
        threads: On a CPU; by default all cores.
        seconds: To spend on each.
        progress: Label of a progress bar.
        failed: Gets the names of those that cannot be timed, and why; the others are timed.

    Raises:
        ValueError: An impossible batch or number of threads; without `failed`, outputs that are not
            finite or not equal to eager's, a network that cannot be exported, an unknown runtime.
        RuntimeMissingError: The runtime is not here.
    """
    check_batch(batch)
    threads = count_threads(device, threads)
    kept, tasks, differences = [], [], []
    programs: dict[int, Program] = {}  # a detector and itself end to end have one network
    for subject in subjects:
        images = subject.images(batch)
        try:
            program = programs.get(id(subject.module)) or make_program(
                subject.module, images, runtime, precision, device, threads or None
            )
            programs[id(subject.module)] = program
            difference = _difference(subject, program, images)
            task = _task(subject, program, images)
        except ValueError as e:
            if failed is None:
                raise
            failed[f"{subject.name}@{subject.input_size} {subject.scope}"] = str(e)
            continue
        kept.append(subject)
        differences.append(difference)
        tasks.append(task)
    timings = time_interleaved(tasks, seconds, progress=progress) if tasks else []
    title = device_title(device)
    return [
        Measurement(
            Latency(
                subject.name,
                title,
                runtime,
                precision,
                batch,
                subject.input_size,
                subject.scope,
                "measured",
                timing.median_ms,
                min(timing.percentile(10), timing.median_ms),
                max(timing.percentile(90), timing.median_ms),
                f"unstable: {timing.unstable}" if timing.unstable else "",
                threads,
            ),
            timing,
            difference,
        )
        for subject, timing, difference in zip(kept, timings, differences, strict=True)
    ]


def _difference(subject: Subject, program: Program, images: torch.Tensor) -> float:
    with torch.no_grad():
        expected = as_tuple(subject.module(images))
    name = f"{program.runtime} {program.precision} of {subject.name}"
    return check_outputs(name, program(images), expected, TOLERANCE[program.precision])


def _task(subject: Subject, program: Program, images: torch.Tensor) -> Task:
    if subject.scope != "e2e":
        return Task(program.bind(images), program.device, program.host_clock)
    pixels = (images * 50 + 128).clamp(0, 255).to(torch.uint8).to(program.device)
    detector = subject.detector.to(program.device)
    part: Any = subject.module
    run = part.end_to_end(detector, program.bind, pixels)
    return Task(run, program.device, host_clock=True)

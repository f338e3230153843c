"""The verb `measure` of tools/latency.py, and what other verbs measure with."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from prunet_det.utils.errors import UserError
from prunet_det.utils.io import text_table


def write_records(path: str | None, records: Sequence[dict[str, Any]]) -> None:
    """A CSV file that knows this command and this machine, where one is wanted."""
    from prunet_det.utils.io import write_csv

    if path:
        write_csv(path, records, " ".join(["python", *sys.argv]))
        print(f"written: {path}", file=sys.stderr)


def torch_device(name: str) -> str:
    """A torch device from `here`, `cpu`, `cuda` or `cuda:1`."""
    from prunet_det.latency.measure import local_device
    from prunet_det.utils.env import check_device

    return local_device() if name == "here" else check_device(name)


def asked_conditions(args: argparse.Namespace, device: str) -> Any:
    """Conditions that were asked for, with the device's usual runtime and precision."""
    from prunet_det.latency.measure import local_conditions

    return local_conditions(device, args.runtime, args.precision, args.batch, args.threads)


def measure_all(args: argparse.Namespace, names: Sequence[str], device: str) -> Sequence[Any]:
    """The networks, timed interleaved on a torch device of this machine; a row for each.

    An unknown network is refused at once, and so is a command line of which nothing can be built.
    """
    from prunet_det.latency.measure import failure, measure
    from prunet_det.latency.subject import load_named
    from prunet_det.runtime.subject import Subject, check_names
    from prunet_det.utils.errors import MissingFileError

    check_names(names)
    conditions, subjects = asked_conditions(args, device), []
    for name in names:
        try:
            checkpoint = getattr(args, "checkpoint", None)
            subject = load_named(name, args.scope, args.input_size, checkpoint)
            subjects.append(with_picture(subject, getattr(args, "picture", None)))
        except MissingFileError:
            raise
        except Exception as e:  # whatever a network's own code raises
            if name is names[-1] and not any(isinstance(s, Subject) for s in subjects):
                raise
            subjects.append(failure(e, name, conditions, args.scope, args.input_size))
    return measure(
        subjects,
        conditions,
        device=device,
        seconds=args.seconds,
        progress="" if args.json else "timing",
        beside_mmdet=getattr(args, "beside_mmdet", False),
    )


def with_picture(subject: Any, path: str | None) -> Any:
    """A detector that is to run on a picture, fitted into its square."""
    if not path:
        return subject
    if subject.detector is None:
        raise UserError("--picture is for detectors end to end: give --scope e2e.")
    import torch

    from prunet_det.detection.letterbox import Letterbox
    from prunet_det.utils.images import read_image

    square, *_ = Letterbox.from_config(subject.detector.cfg, subject.input_size).fit(
        read_image(path)
    )
    return replace(subject, picture=torch.from_numpy(square).permute(2, 0, 1))


def failed(records: Sequence[dict[str, Any]]) -> int:
    """The exit code: 1 if there is a row without its figures."""
    return int(any(record["failed"] for record in records))


def run_measure(args: argparse.Namespace) -> int:
    """Milliseconds on this machine, all models interleaved in one run."""
    from prunet_det.latency.measure import MMDET
    from prunet_det.latency.record import Failure

    if args.beside_mmdet and args.scope != "e2e":
        raise UserError("--beside-mmdet compares detectors end to end: give --scope e2e.")
    found = measure_all(args, args.model, torch_device(args.device))
    records = [m.to_dict() for m in found]
    write_records(args.out, records)
    if args.json:
        for record in records:
            print(json.dumps(record))
        return failed(records)
    percentiles = ["median", "p10", "p90", "p99"]
    figures = [*percentiles, "spread", "images/s", "MB", "difference"]
    rows = []
    for m, record in zip(found, records, strict=True):
        beside = f" ({record['runtime']})" if record["runtime"] != records[0]["runtime"] else ""
        name = [record["model"] + beside, str(record["input_size"] or "-")]
        if isinstance(m, Failure):
            rows.append([*name, *["-"] * len(figures), f"failed: {m.reason}"])
            continue
        memory = m.timing.peak_memory_mb
        rows.append(
            [
                *name,
                *(f"{m.timing.percentile(q):.3f}" for q in (50, 10, 90, 99)),
                f"{m.timing.spread:.1%}",
                f"{record['images_per_s']:.1f}",
                "-" if memory is None else f"{memory:.0f}",
                "-" if m.difference is None else f"{m.difference:.0e}",
                m.latency.note or "stable",
            ]
        )
    conditions = asked_conditions(args, torch_device(args.device))
    title = f"measured on {conditions}, scope {args.scope}, in ms"
    print(text_table(title, ["model", "px", *figures, "verdict"], rows))
    for (own, usual), record in zip(pairwise(found), records[1:], strict=True):
        if record["runtime"] == MMDET and not any(isinstance(m, Failure) for m in (own, usual)):
            print(beside_mmdet(own, usual))
    return failed(records)


def beside_mmdet(own: Any, usual: Any) -> str:
    """How a detector compares with MMDetection's way of running it, in the rounds of both."""
    import numpy as np

    ratios = np.divide(usual.timing.samples_ms, own.timing.samples_ms)
    median, low, high = np.percentile(ratios, (50, 10, 90))
    shaky = " (unstable)" if usual.latency.note or own.latency.note else ""
    return (
        f"{own.latency.model}: {median:.2f} times as fast as mmdet.apis.inference_detector, "
        f"{low:.2f} to {high:.2f} in eight of ten rounds{shaky}, with "
        f"{1 - usual.difference:.0%} of its detections"
    )

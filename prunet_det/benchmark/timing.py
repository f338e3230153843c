"""Latencies of a suite's networks: measured here, all in one interleaved run, and predicted."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from prunet_det.arch.spec import ArchSpec
from prunet_det.benchmark.evaluate import without_workers
from prunet_det.benchmark.records import (
    REPEAT,
    Record,
    check_shared,
    latency_path,
    load_records,
    save_latencies,
)
from prunet_det.benchmark.run import WORK, work_folder
from prunet_det.benchmark.suite import Candidate, Suite
from prunet_det.detection.build import NetworkPart, build_detector
from prunet_det.latency.measure import local_conditions, measure
from prunet_det.latency.predict import predict, predict_module
from prunet_det.latency.record import Failure
from prunet_det.runtime.subject import Scope, Subject, is_ours
from prunet_det.training.hooks import WEIGHTS_FILE
from prunet_det.utils.env import device_title, environment
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.io import file_digest
from prunet_det.zoo.models import ALIASES, model_names

logger = logging.getLogger(__name__)

PREDICTED_FOR = "v100"


def done_candidates(suite: Suite, out: Path) -> dict[Candidate, Record]:
    """The candidates that have a run, with that of the lowest seed, the suite's own first.

    Args:
        suite: All of it; records of other networks count too.
        out: Folder of the records.

    Raises:
        UserError: There is none, the records do not belong together, or they are of another
            artifact or recipe than the suite's here.
    """
    records = load_records(out)
    check_shared(records, {"artifact": suite.artifact, "config_hash": suite.config_hash()})
    own = {(c.model, c.input_size): c for c in suite.candidates}
    found: dict[Candidate, Record] = {}
    for record in sorted(records, key=lambda r: r.seed):
        candidate = own.get((record.model, record.input_size)) or Candidate(
            _source(suite, record, out), record.family, record.input_size
        )
        found.setdefault(candidate, record)
    return {c: found[c] for c in (*suite.candidates, *found) if c in found}


def _source(suite: Suite, record: Record, out: Path) -> str:
    """Where a record's network is from: the suite, a name, or its own blocks, in a file."""
    if record.model in suite.sources:
        return suite.sources[record.model]
    if record.arch is None or record.model in (*model_names(), *ALIASES):
        return record.model
    path = out / WORK / "networks" / f"{record.model}.json"
    ArchSpec.from_dict(record.arch).save(path)
    return os.fspath(path)


def subjects_of(suite: Suite, candidate: Candidate, record: Record, out: Path) -> list[Subject]:
    """Backbone, detector and end to end of a trained network.

    Raises:
        UserError: The weights of the record are not here, or others are.
    """
    work = work_folder(out, record.key)
    weights = work / WEIGHTS_FILE
    if not weights.is_file():
        raise UserError(
            f"the weights of {record.key} are not here ({weights}), and how long a "
            "detector takes depends on what it finds; train it here, or bring them along."
        )
    if file_digest(weights) != record.weights_hash:
        raise UserError(f"{weights} is not what {record.key} was evaluated with; train it anew.")
    cfg = suite.build(candidate, record.seed, work)
    detector = build_detector(cfg, weights)
    dataset = without_workers(cfg.test_dataloader).dataset
    image = dataset[0]["inputs"]
    picture = torch.zeros(3, candidate.input_size, candidate.input_size, dtype=torch.uint8)
    picture[:, : image.shape[1], : image.shape[2]] = image
    part = NetworkPart(detector, candidate.input_size).eval()
    modules = {
        Scope.BACKBONE: detector.backbone.eval(),
        Scope.DETECTOR: part,
        Scope.E2E: part,
    }
    return [
        Subject(
            name=candidate.model,
            scope=scope,
            module=module,
            input_size=candidate.input_size,
            detector=detector,
            picture=picture,
        )
        for scope, module in modules.items()
    ]


def measure_suite(
    suite: Suite,
    candidates: Mapping[Candidate, Record],
    out: Path,
    seconds: float,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Times every network in every scope, interleaved.

    Args:
        suite: Says device, runtime, precision and threads.
        candidates: With the records whose weights are run.
        out: Folder of the benchmark.
        seconds: To spend on each network and scope.

    Returns:
        Rows of `Measurement.to_dict()`, and what cannot be timed, with the reason.
    """
    subjects, failed = [], dict[str, str]()
    for candidate, record in candidates.items():
        try:
            subjects += subjects_of(suite, candidate, record, out)
        except UserError as e:
            failed[str(candidate)] = str(e)
    runtime, precision = suite.artifact.split()
    conditions = local_conditions(suite.device, runtime, precision, threads=suite.threads)
    torch.set_num_threads(suite.threads)  # of what stands around the network
    found = measure(
        subjects,
        conditions,
        device=suite.device,
        seconds=seconds,
        progress="timing",
    )
    failed.update(
        {f"{f.model}@{f.input_size} {f.scope}": f.reason for f in found if isinstance(f, Failure)}
    )
    return [m.to_dict() for m in found if not isinstance(m, Failure)], failed


def predict_suite(
    suite: Suite, candidates: Iterable[Candidate], out: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """As `measure_suite`: backbones and detectors, predicted for a device that is not here."""
    rows, failed = [], dict[str, str]()
    for candidate in candidates:
        cfg = suite.build(candidate, 0, work_folder(out, "predicted"))
        detector: Any = build_detector(cfg)
        options: dict[str, Any] = dict(device=PREDICTED_FOR, input_size=candidate.input_size)
        try:
            if is_ours(candidate.source):
                backbone = predict(candidate.source, **options)
            else:
                backbone = predict_module(detector.backbone, candidate.model, **options)
            part = NetworkPart(detector, candidate.input_size)
            whole = predict_module(part, candidate.model, **options, scope=Scope.DETECTOR)
        except InputError as e:
            failed[str(candidate)] = str(e)
            continue
        rows += [{**p.latency.to_dict(), "note": " ".join(p.warnings)} for p in (backbone, whole)]
    return rows, failed


def time_suite(
    suite: Suite,
    candidates: Mapping[Candidate, Record],
    out: Path,
    seconds: float,
    command: str,
    repeat: bool = False,
) -> tuple[list[Path], dict[str, str]]:
    """Measures and predicts, and writes one file each.

    Args:
        suite, candidates, out, seconds: As for `measure_suite`.
        command: Command line, for the files.
        repeat: Whether to measure only, into the subfolder REPEAT, for a report to compare.

    Returns:
        The files, and what has no latency, with the reason.
    """
    about = {"command": command, "environment": environment(), "weights": weights_of(candidates)}
    files, every = [], dict[str, str]()

    def save(name: str, rows: list[dict[str, Any]], failed: dict[str, str]) -> None:
        for what, why in failed.items():
            logger.warning("no latency of %s: %s", what, why)
        folder = out / REPEAT if repeat else out
        files.append(save_latencies(folder, name, rows, {**about, "failed": failed}))
        every.update(failed)

    if not repeat:
        save(f"predicted {PREDICTED_FOR}", *predict_suite(suite, candidates, out))
    save(measured_name(suite), *measure_suite(suite, candidates, out, seconds))
    return files, every


def weights_of(candidates: Mapping[Candidate, Record]) -> dict[str, str]:
    """Name of each candidate to the digest of the weights that are timed."""
    return {str(c): r.weights_hash for c, r in candidates.items()}


def measured_name(suite: Suite) -> str:
    """Names the file of what was measured on this machine."""
    return f"{device_title(suite.device)} {suite.artifact}"


def is_timed(suite: Suite, candidates: Mapping[Candidate, Record], out: Path) -> bool:
    """Whether this machine has timed all of these candidates, and no others, with these weights."""
    try:
        text = latency_path(out, measured_name(suite)).read_text(encoding="utf-8")
        found = json.loads(text)
        threads = suite.threads if suite.device == "cpu" else 0
        return (
            found["weights"] == weights_of(candidates)
            and not found.get("failed")
            and all(row["threads"] == threads for row in found["rows"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False

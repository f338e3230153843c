"""What a run of the benchmark leaves: one JSON file a run, and latencies beside them.

DIR/records/KEY.json       one run: a network at an input size, with a seed
DIR/latency/NAME.json      latencies of the suite's networks on one device, measured or predicted
DIR/learning_rate.json     how the suite's learning rate was chosen

A run knows nothing of milliseconds: they are measured later, over all networks at once. Reading a
folder joins the two by network and input size.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from prunet_det.latency.record import Latency
from prunet_det.utils.config import from_mapping
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.io import file_stem, read_json, reading, write_json

RECORDS, LATENCY, RATE_FILE = "records", "latency", "learning_rate.json"
FAMILIES = ("prunet", "gpunet", "efficientnet")
STATUSES = ("done", "failed")
METRICS = ("mAP", "AP50", "AP75", "APs", "APm", "APl")
# What all finished runs of a folder share; otherwise their figures do not belong together.
SHARED = {
    "suite": "suite",
    "artifact": "artifact (runtime and precision of the accuracy)",
    "config_hash": "recipe (config_hash)",
    "data_hash": "data (data_hash)",
    "training_revision": "training revision (training_revision)",
}
# What differs between two runs of the same thing: times, places, and how busy the machine was.
VARYING = (
    "latencies",
    "peak_memory_mb",
    "images_per_second",
    "seconds",
    "environment",
    "commit",
    "command",
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run: a detector trained on one backbone, at one input size, from one seed.

    Attributes:
        model: The backbone's name, here or in timm.
        family: One of FAMILIES.
        input_size: Side of the images in pixels.
        seed: Of initial weights, order of the data and augmentation.
        suite: Which configs/benchmark/*.py.
        metrics: METRICS, 0 to 1, by pycocotools on the test split; None where no object has the
            size. Empty where the run failed.
        artifact: What was evaluated and timed, such as `onnxruntime fp32`.
        latencies: Latencies of this network and input size, joined on reading.
        parameters, macs, kernels: Of the whole detector up to raw outputs, for one image.
        peak_memory_mb: Of the training: PyTorch's on CUDA, the process's on a CPU.
        images_per_second: Throughput of the training.
        arch: The backbone's ArchSpec as a dict; None for timm's networks.
        config_hash: Of the recipe: everything but backbone, input size and seed.
        data_hash: Of training and test data.
        training_revision: `identity.TRAINING_REVISION` of the code that trained; 1 in records
            that were written before it existed.
        commit: Commit of the checkout that trained.
        environment: See `machine.environment`.
        command: That repeats the run.
        seconds: Training, export and evaluation; of the last process where it was interrupted.
        status: `done` or `failed`.
        error: Why it failed.
        weights_hash: Of the trained weights.

    Raises:
        ValueError: An unknown family or status, or a `done` without its metrics.
    """

    model: str
    family: str
    input_size: int
    seed: int
    suite: str
    metrics: dict[str, float | None]
    artifact: str
    latencies: tuple[Latency, ...] = ()
    parameters: int = 0
    macs: int = 0
    kernels: int = 0
    peak_memory_mb: float | None = None
    images_per_second: float | None = None
    arch: dict[str, Any] | None = None
    config_hash: str = ""
    data_hash: str = ""
    training_revision: int = 1
    commit: str = "unknown"
    environment: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    seconds: float = 0.0
    status: str = "done"
    error: str | None = None
    weights_hash: str = ""

    def __post_init__(self) -> None:
        for key, known in (("family", FAMILIES), ("status", STATUSES)):
            if getattr(self, key) not in known:
                raise InputError(
                    f"a record's {key} must be one of {', '.join(known)}, got "
                    f"{getattr(self, key)!r}."
                )
        if self.status == "done" and set(self.metrics) != set(METRICS):
            raise InputError(f"a record needs the metrics {', '.join(METRICS)}.")
        for name, value in self.metrics.items():
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"a record's {name} must lie between 0 and 1, got {value}.")

    @property
    def key(self) -> str:
        """Names the run, and its file."""
        return run_key(self.model, self.input_size, self.seed)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; latencies lie in files of their own."""
        return {**asdict(self), "latencies": []}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """From what `to_dict` gave.

        Raises:
            ValueError: A key is missing or unknown.
        """
        data = {k: v for k, v in data.items() if k != "code_hash"}  # written until November 2026
        return from_mapping(cls, {**data, "latencies": ()}, "a record of a run", InputError)

    def result(self) -> dict[str, Any]:
        """What a repeat of the run on the same machine must give again: all but VARYING."""
        return {k: v for k, v in self.to_dict().items() if k not in VARYING}


def run_key(model: str, input_size: int, seed: int) -> str:
    """Names a run."""
    return f"{model}_{input_size}_seed{seed}"


def record_path(folder: str | os.PathLike[str], key: str) -> Path:
    """Where a run's record lies."""
    return Path(folder) / RECORDS / f"{key}.json"


def save_record(folder: str | os.PathLike[str], record: Record) -> Path:
    """Writes a record, atomically, and returns its path."""
    path = record_path(folder, record.key)
    write_json(path, record.to_dict())
    return path


def read_record(path: str | os.PathLike[str]) -> Record:
    """One record's file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged; the sentence names it.
    """
    data = read_json(path, "readable record")
    with reading(path, "readable record"):
        record = Record.from_dict(data)
    if record.key != Path(path).stem:
        raise InputError(f"{os.fspath(path)} is no readable record: it is {record.key}'s.")
    return record


def load_records(folder: str | os.PathLike[str]) -> list[Record]:
    """All records of a folder, failed ones too, each with its latencies, sorted by key.

    Latencies of weights that no record has are left out: the network was trained anew since.

    Raises:
        UserError: There is no such folder, it has no records, a record is damaged, or the finished
            runs are not of one suite, recipe, data and training revision.
    """
    folder = Path(folder)
    paths = _json_files(folder / RECORDS)
    if not paths:
        raise UserError(
            f"{folder} holds no records; `python tools/benchmark.py --out {folder}` makes them."
        )
    try:
        records = [read_record(path) for path in paths]
        rows = load_latencies(folder)
    except InputError as e:
        raise UserError(f"{e} Move it away, and run the benchmark again.") from e
    check_shared(r for r in records if r.status == "done")
    trained: dict[tuple[str, int], list[str]] = defaultdict(list)
    for record in records:
        trained[record.model, record.input_size].append(record.weights_hash)
    return [
        replace(
            record,
            latencies=tuple(
                latency
                for latency, weights in rows
                if (latency.model, latency.input_size) == (record.model, record.input_size)
                and weights in (None, *trained[record.model, record.input_size])
            ),
        )
        for record in records
    ]


def _json_files(folder: Path) -> list[Path]:
    """Without the unfinished ones of a process that was killed, whose names start with a dot."""
    return sorted(p for p in folder.glob("*.json") if not p.name.startswith("."))


def check_shared(records: Iterable[Record]) -> None:
    """Refuses records that do not belong together.

    Raises:
        UserError: The sentence names two runs and what differs.
    """
    first: Record | None = None
    for record in records:
        first = first or record
        for key, title in SHARED.items():
            if getattr(record, key) != getattr(first, key):
                raise UserError(
                    f"{first.key} and {record.key} differ in {title}: {getattr(first, key)} and "
                    f"{getattr(record, key)}; keep them in folders of their own (--out)."
                )


def latency_path(folder: str | os.PathLike[str], name: str) -> Path:
    """Where the latencies on a device lie; `name` becomes a file name."""
    return Path(folder) / LATENCY / f"{file_stem(name)}.json"


def save_latencies(
    folder: str | os.PathLike[str],
    name: str,
    rows: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> Path:
    """Writes the latencies of one device, atomically.

    Args:
        folder: Of the benchmark.
        name: Of the file.
        rows: Of `Latency.to_dict()`, or of `Measurement.to_dict()`; `model` is a record's.
        about: Command, environment and what else a reader must know.
    """
    path = latency_path(folder, name)
    write_json(path, {**about, "rows": [dict(r) for r in rows]})
    return path


def load_latencies(folder: str | os.PathLike[str]) -> list[tuple[Latency, str | None]]:
    """The latencies of all files of a folder.

    Beside each stands the digest of the weights that were timed, where the file says it.

    Raises:
        ValueError: A file is damaged; the sentence names it.
    """
    rows = []
    for path in _json_files(Path(folder) / LATENCY):
        found = read_json(path, "readable file of latencies")
        with reading(path, "readable file of latencies"):
            weights = found.get("weights", {})
            for row in found["rows"]:
                if row.get("failed"):
                    continue
                timed = weights.get(f"{row['model']}@{row['input_size']}")
                rows.append((Latency.from_row(row), timed))
    return rows

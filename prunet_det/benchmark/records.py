"""What a suite's runs leave: a line of JSON each, and latencies beside them.

DIR/records.jsonl          a line a run: a network at an input size, with a seed; see `RunStore`
DIR/latency/NAME.json      latencies of the suite's networks on one device, measured or predicted
DIR/repeat/latency/        what was measured a second time
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
from prunet_det.utils.io import digest, file_stem, read_json, reading, write_json
from prunet_det.utils.runs import Run, RunStore

LATENCY, REPEAT, RATE_FILE = "latency", "repeat", "learning_rate.json"
# The last are one's own, by tools/search_backbone.py.
FAMILIES = ("prunet", "gpunet", "efficientnet", "searched")
METRICS = ("mAP", "AP50", "AP75", "APs", "APm", "APl")
# What all runs of a folder share; otherwise their figures do not belong together.
SHARED = {
    "suite": "suite",
    "artifact": "artifact (runtime and precision of the accuracy)",
    "config_hash": "recipe (config_hash)",
    "data_hash": "data (data_hash)",
    "training_revision": "training revision (training_revision)",
}
# Figures that differ between two runs of the same thing: the machine's, and how it was called.
_VARYING = {"peak_memory_mb", "images_per_second", "command"}
# Fields that are a Run's own, or lie in other files.
_NOT_FIGURES = {"latencies", "seed", "seconds", "environment", "commit"}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run: a detector trained on one backbone, at one input size, from one seed.

    Attributes:
        model: The backbone's name, here or in timm.
        family: One of FAMILIES.
        input_size: Side of the images in pixels.
        seed: Seed of initial weights, order of the data and augmentation.
        suite: Which configs/benchmark/*.py.
        metrics: METRICS, 0 to 1, by pycocotools on the test split; None where no object has the
            size.
        artifact: What was evaluated and timed, such as `onnxruntime fp32`.
        latencies: Latencies of this network and input size, joined on reading.
        parameters, macs, kernels: Numbers of the whole detector up to raw outputs, for one image.
        peak_memory_mb: MiB in the training at most: PyTorch's on CUDA, the process's on a CPU.
        images_per_second: Throughput of the training.
        arch: The backbone's ArchSpec as a dict; None for timm's networks.
        config_hash: Digest of the recipe: everything but backbone, input size and seed.
        data_hash: Digest of training and test data.
        training_revision: `suite.TRAINING_REVISION` of the code that trained; 1 in records
            that were written before it existed.
        commit: Commit of the checkout that trained.
        environment: See `utils.env.environment`.
        command: That repeats the run.
        seconds: Training, export and evaluation; of the last process where it was interrupted.
        weights_hash: Digest of the trained weights.

    Raises:
        InputError: An unknown family, or metrics that are missing or no accuracies.
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
    weights_hash: str = ""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(
                f"a record's family must be one of {', '.join(FAMILIES)}, got {self.family!r}."
            )
        if set(self.metrics) != set(METRICS):
            raise InputError(f"a record needs the metrics {', '.join(METRICS)}.")
        for name, value in self.metrics.items():
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"a record's {name} must lie between 0 and 1, got {value}.")

    @property
    def key(self) -> str:
        """Names the run."""
        return run_key(self.model, self.input_size, self.seed)

    @property
    def shared(self) -> dict[str, Any]:
        """Its values for the keys of SHARED."""
        return {key: getattr(self, key) for key in SHARED}

    @property
    def subject(self) -> str:
        """Digest of the network at its input size."""
        return subject_of(self.model, self.input_size, self.arch)

    @property
    def run(self) -> Run:
        """The record as a store keeps it; latencies lie in files of their own."""
        found = asdict(replace(self, latencies=()))
        return Run(
            subject=self.subject,
            recipe=digest(self.shared),
            seed=self.seed,
            figures={k: v for k, v in found.items() if k not in _NOT_FIGURES},
            seconds=self.seconds,
            made=self.environment,
        )

    @classmethod
    def of(cls, run: Run) -> Record:
        """Makes the record of a run of a store, without latencies.

        Raises:
            InputError: It is no run of a suite.
        """
        about = {"seed": run.seed, "seconds": run.seconds, "environment": run.made}
        about["commit"] = run.made.get("commit", "unknown")
        return from_mapping(cls, {**run.figures, **about}, "a record of a run", InputError)

    def result(self) -> dict[str, Any]:
        """What a repeat of the run on the same machine must give again."""
        return {k: v for k, v in self.run.figures.items() if k not in _VARYING}


def run_key(model: str, input_size: int, seed: int) -> str:
    """Names a run."""
    return f"{model}_{input_size}_seed{seed}"


def subject_of(model: str, input_size: int, arch: Mapping[str, Any] | None) -> str:
    """Digests a network at an input size; where its spec says that it comes from is left out."""
    return digest([model, input_size, arch and {**arch, "provenance": None}])


def load_records(folder: str | os.PathLike[str]) -> list[Record]:
    """All records of a folder, each with its latencies, sorted by key.

    Latencies of weights that no record has are left out: the network was trained anew since.

    Raises:
        UserError: The folder has no records, one is damaged, or they do not belong together.
    """
    store = RunStore(folder)
    with reading(folder, "folder of a benchmark's records"):
        records = sorted(map(Record.of, store), key=lambda r: r.key)
    try:
        rows = load_latencies(folder)
    except InputError as e:
        raise UserError(f"{e} Move it away, and time the networks again.") from e
    if not records:
        raise UserError(
            f"{folder} holds no records; `python tools/benchmark.py --out {folder}` makes them."
        )
    check_shared(records)
    trained: dict[tuple[str, int], list[str]] = defaultdict(list)
    for record in records:
        trained[record.model, record.input_size].append(record.weights_hash)
    timed = defaultdict(list)
    for latency, weights in rows:
        network = latency.model, latency.input_size
        if weights is None or weights in trained[network]:
            timed[network].append(latency)
    return [replace(r, latencies=tuple(timed[r.model, r.input_size])) for r in records]


def check_shared(
    records: Iterable[Record],
    here: Mapping[str, Any] | None = None,
    networks: Mapping[tuple[str, int], str] | None = None,
) -> None:
    """Refuses records that do not belong together.

    Args:
        records: Records.
        here: Values of some of SHARED that they must have; by default those of the first.
        networks: Model and input size to the `subject` that they must have; that of any other
            network is its first record's.

    Raises:
        UserError: They differ in one of SHARED, or in the blocks of a network; the sentence says
            which.
    """
    name, subjects = "what this suite is here", dict(networks or {})
    for record in records:
        if here is None:
            name, here = record.key, record.shared
        for key, value in here.items():
            if getattr(record, key) != value:
                raise UserError(
                    f"{record.key} and {name} differ in {SHARED[key]}: {getattr(record, key)} and "
                    f"{value}; keep them in folders of their own (--out)."
                )
        network = record.model, record.input_size
        if subjects.setdefault(network, record.subject) != record.subject:
            raise UserError(
                f"{record.key} has other blocks than {record.model} has here or in another record; "
                "keep them in folders of their own (--out)."
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
        folder: Folder of the benchmark.
        name: Name of the file.
        rows: What `Latency.to_dict()` or `Measurement.to_dict()` gave; `model` is a record's.
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
    for path in sorted((Path(folder) / LATENCY).glob("[!.]*.json")):
        found = read_json(path, "readable file of latencies")
        with reading(path, "readable file of latencies"):
            weights = found.get("weights", {})
            for row in found["rows"]:
                if row.get("failed"):
                    continue
                timed = weights.get(f"{row['model']}@{row['input_size']}")
                rows.append((Latency.from_row(row), timed))
    return rows

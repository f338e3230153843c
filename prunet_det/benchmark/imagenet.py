"""Published ImageNet top-1 against latency that is predicted, or measured on this machine.

Nothing is trained: accuracies are those of the networks' publishers, each at the resolution that it
is published for, and only the latency is ours.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.utils import reparameterize_model

from prunet_det.benchmark.published import Classifier, classifiers, timm_classifiers
from prunet_det.latency.device import Device, load_device
from prunet_det.latency.measure import failure, measure, reason_of
from prunet_det.latency.predict import Prediction, predict, predict_module
from prunet_det.latency.record import Conditions, Failure, Latency
from prunet_det.runtime.subject import Scope, Subject, is_ours, load_subject, timm_network
from prunet_det.utils.env import environment
from prunet_det.utils.errors import InputError, UserError
from prunet_det.utils.io import digest, file_stem, make_folder, read_csv, rounded, write_csv

logger = logging.getLogger(__name__)

_AT_ONCE = 8  # networks that are timed interleaved; so many are lost when a run is stopped
_KEYS = ("model", "family", "input_size", "top1", "extra_data", "teacher", "source")
_LATENCY_KEYS = (
    *("kind", "device", "runtime", "precision", "batch", "threads", "scope"),
    *("latency_ms", "low_ms", "high_ms", "note"),
)


class Network(NamedTuple):
    """What has a latency: a network, whatever its training, and the side of its images."""

    name: str
    input_size: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A published accuracy and a latency.

    Attributes:
        classifier: Network and accuracy.
        latency: Latency of the whole classifier at the accuracy's resolution, None where there is
            none.
        failed: Why there is none.
    """

    classifier: Classifier
    latency: Latency | None = None
    failed: str = ""

    @property
    def network(self) -> Network:
        """What the latency is of."""
        return Network(self.classifier.architecture, self.classifier.input_size)


# A network and its latency, or why it has none.
Found = tuple[Network, Latency | str]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where latencies come from.

    Attributes:
        name: Name of the record's file, without its suffix.
        conditions: What the latencies hold for, and how they are known.
        constants: Digest of the constants that they are predicted with; empty where measured.
        latencies: Gives the latencies of networks as they come.
    """

    name: str
    conditions: str
    constants: str = ""
    latencies: Callable[[Sequence[Network]], Iterable[Found]]


def choose(patterns: Sequence[str] = ()) -> list[Classifier]:
    """Chooses among the zoo's and timm's networks with a published accuracy.

    Of several trainings of a network at a resolution, the most accurate counts: one without extra
    data and, where it is more accurate, one with. A training that is named counts in any case.

    Args:
        patterns: Names, with or without the training's tag, or patterns such as `resnet*`, for
            networks at all their resolutions. By default all networks, each at the resolution of
            its best accuracy without extra data, if it has any.

    Raises:
        InputError: If a pattern fits no network.
    """
    published = [*classifiers(), *timm_classifiers()]
    every = _most_accurate(published)
    if not patterns:
        return [_best(list(own)) for _, own in groupby(every, lambda c: c.architecture)]
    chosen = {}
    for pattern in patterns:
        fitting = [c for c in published if c.model == pattern] or [
            c
            for c in every
            if any(fnmatchcase(name, pattern) for name in (c.model, c.architecture))
        ]
        if not fitting:
            raise InputError(
                f"no network with a published top-1 is called {pattern!r}; give names such as "
                "prunet_p0, or patterns such as 'efficientnet*', in quotes."
            )
        chosen.update(dict.fromkeys(fitting))
    return list(chosen)


def _most_accurate(every: Iterable[Classifier]) -> list[Classifier]:
    """The best training of each network and resolution, without extra data and with."""
    kept: list[Classifier] = []
    ordered = sorted(every, key=lambda c: (c.architecture, c.input_size, c.extra_data, -c.top1))
    for _, own in groupby(ordered, lambda c: (c.architecture, c.input_size)):
        best, *others = own
        kept.append(best)
        kept += [c for c in others if c.extra_data and c.top1 > best.top1][:1]
    return kept


def _best(own: Sequence[Classifier]) -> Classifier:
    return max(own, key=lambda c: (not c.extra_data, c.top1))


def predicted(device: str, batch: int = 1) -> Source:
    """Latencies predicted for a device, those of timm's networks by tracing them.

    Networks of families that the device's constants were not fitted to have its wide error band.

    Args:
        device: A device's name, or the path of a device file.
        batch: Images at once.

    Raises:
        InputError: If there is no such device.
    """
    known = load_device(device)
    constants = {k: v for k, v in json.loads(known.to_json()).items() if k != "provenance"}
    return Source(
        name=known.name + f"_batch_{batch}" * (batch > 1),
        conditions=f"predicted, {known.at(batch)}",
        constants=digest(constants),
        latencies=lambda networks: _predict_each(networks, known, batch),
    )


def _predict_each(networks: Sequence[Network], device: Device, batch: int) -> Iterator[Found]:
    for network in networks:
        try:
            found = _predict(network, device, batch)
        except Exception as e:  # whatever a network of timm's raises is its own failure
            yield network, reason_of(e, network.name)
            continue
        unknown = [w for w in found.warnings if w not in found.latency.note]
        yield network, " ".join(unknown) or _with_band(found.latency, device)


def _predict(network: Network, device: Device, batch: int) -> Prediction:
    if is_ours(network.name):
        return predict(network.name, device, batch, network.input_size, Scope.CLASSIFIER)
    with torch.device("meta"):
        module = reparameterize_model(timm_network(network.name, Scope.CLASSIFIER)[0].eval())
    return predict_module(
        module, network.name, device, batch, network.input_size, scope=Scope.CLASSIFIER
    )


def _with_band(latency: Latency, device: Device) -> Latency:
    error = device.provenance.get("band", {}).get("outside")
    if error is None or is_ours(latency.model):
        return latency
    return replace(latency, low=latency.ms / (1 + error), high=latency.ms * (1 + error))


def measured(
    conditions: Conditions, device: str, seconds: float = 0.5, progress: str = ""
) -> Source:
    """Latencies measured on this machine with random weights, a few networks at a time interleaved.

    Branches that only training needed are merged, as their authors do for deployment.

    Args:
        conditions: How networks are run.
        device: Torch device.
        seconds: Time to spend on each network.
        progress: Label of a progress bar; none where empty.
    """
    return Source(
        name=file_stem(str(conditions)),
        conditions=f"measured, {conditions}",
        latencies=lambda networks: _measure_each(networks, conditions, device, seconds, progress),
    )


def _measure_each(
    networks: Sequence[Network],
    conditions: Conditions,
    device: str,
    seconds: float,
    progress: str,
) -> Iterator[Found]:
    for start in range(0, len(networks), _AT_ONCE):
        some = networks[start : start + _AT_ONCE]
        where = f"{start + 1} to {start + len(some)} of {len(networks)}"
        found = measure(
            [_load(network, conditions) for network in some],
            conditions,
            device=device,
            seconds=seconds,
            progress=progress and f"{progress} {where}",
        )
        for network, one in zip(some, found, strict=True):
            yield network, one.reason if isinstance(one, Failure) else one.latency


def _load(network: Network, conditions: Conditions) -> Subject | Failure:
    try:
        subject = load_subject(network.name, Scope.CLASSIFIER, network.input_size)
        return replace(subject, module=reparameterize_model(subject.module))
    except Exception as e:  # as in _predict_each
        return failure(e, network.name, conditions, Scope.CLASSIFIER, network.input_size)


def collect(
    chosen: Sequence[Classifier],
    folder: str | os.PathLike[str],
    source: Source,
    command: str,
) -> tuple[Path, list[Entry]]:
    """Finds the latencies that a record does not hold yet, and writes each as it comes.

    Args:
        chosen: Networks and accuracies.
        folder: Folder of the record; what the record holds already is kept, but for failures.
        source: Where latencies come from.
        command: Command line, for the record.

    Returns:
        The record's CSV file, and all that it then holds, the fastest first.

    Raises:
        UserError: If the folder cannot be written, or the record is of other conditions or of other
            constants of the device.
    """
    path = make_folder(folder) / f"{source.name}.csv"
    comments = {
        "command": command,
        "conditions": source.conditions,
        "constants": source.constants,
        **environment(),
    }
    entries = [e for e in _resume(path, comments) if e.latency is not None]
    done = {(e.classifier.model, e.classifier.input_size) for e in entries}
    left: dict[Network, list[Classifier]] = {}
    for c in chosen:
        if (c.model, c.input_size) not in done:
            left.setdefault(Entry(classifier=c).network, []).append(c)
    for network, found in source.latencies(list(left)):
        for c in left[network]:
            if isinstance(found, str):
                logger.warning("%s at %d px: %s", *network, found)
                entries.append(Entry(classifier=c, failed=found))
            else:
                entries.append(Entry(classifier=c, latency=replace(found, model=c.model)))
        write_csv(path, [_row(e) for e in sorted(entries, key=_order)], comments)
    return path, sorted(entries, key=_order)


def _order(entry: Entry) -> tuple[Any, ...]:
    ms = entry.latency.ms if entry.latency else float("inf")
    return ms, -entry.classifier.top1, entry.classifier.model


def _resume(path: str | os.PathLike[str], comments: Mapping[str, Any]) -> list[Entry]:
    if not Path(path).is_file():
        return []
    held, entries = read_entries(path)
    for key in ("conditions", "constants"):
        if held.get(key, "") != str(comments[key]):
            raise UserError(
                f"{os.fspath(path)} holds latencies of other {key}; give another --out, or delete "
                "it."
            )
    return entries


def _row(entry: Entry) -> dict[str, Any]:
    latency = rounded(entry.latency.to_dict()) if entry.latency else {}
    row = {key: getattr(entry.classifier, key) for key in _KEYS}
    row["extra_data"] = "yes" if entry.classifier.extra_data else "no"
    return {**row, **{k: latency.get(k, "") for k in _LATENCY_KEYS}, "failed": entry.failed}


def read_entries(path: str | os.PathLike[str]) -> tuple[dict[str, str], list[Entry]]:
    """Reads a record of `collect`: its first lines, and its entries.

    Raises:
        InputError: If it is no such record.
    """
    comments, rows = read_csv(path)
    missing = [k for k in (*_KEYS, *_LATENCY_KEYS, "failed") if k not in rows[0]]
    if missing:
        raise InputError(f"{os.fspath(path)} is no record of published accuracies: no {missing}.")
    return comments, [_entry(row) for row in rows]


def _entry(row: Mapping[str, str]) -> Entry:
    classifier = Classifier(
        model=row["model"],
        family=row["family"],
        input_size=int(row["input_size"]),
        top1=float(row["top1"]),
        source=row["source"],
        extra_data=row["extra_data"] == "yes",
        teacher=row["teacher"],
    )
    latency = Latency.from_row(row) if row["latency_ms"] else None
    return Entry(classifier=classifier, latency=latency, failed=row["failed"])

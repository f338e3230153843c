"""Records whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import prunet_det
from prunet_det.benchmark.records import Record, save_latencies
from prunet_det.benchmark.suite import Candidate
from prunet_det.latency.record import Conditions, Latency
from prunet_det.utils.runs import RunStore

CONDITIONS = Conditions(device="AMD EPYC, 2 cores", runtime="onnxruntime", precision="fp32")
PREDICTED = Conditions(device="v100", runtime="tensorrt", precision="fp16")
SHARE = {"backbone": 0.6, "detector": 1.0, "e2e": 1.3}


@dataclass(frozen=True)
class Timed:
    """How latencies are planted: their spread as a share, the scopes measured, and where."""

    spread: float = 0.05
    scopes: Sequence[str] = tuple(SHARE)
    where: Conditions = CONDITIONS


TIMED = Timed()


def runs(
    candidate: Candidate, values: Sequence[float], ms: float, timed: Timed = TIMED, **more
) -> list[Record]:
    """The runs of one candidate, a seed a value; `ms` is the detector's, on this machine.

    Every scope of `timed` is measured, and the backbone is predicted for a V100.
    """
    model, size = candidate.model, candidate.input_size

    def row(conditions, kind, scope, value):
        return Latency(
            model=model,
            input_size=size,
            scope=scope,
            conditions=conditions,
            ms=value,
            low=value * (1 - timed.spread),
            high=value * (1 + timed.spread),
            kind=kind,
        )

    latencies = [
        row(timed.where, "measured", s, ms * share)
        for s, share in SHARE.items()
        if s in timed.scopes
    ]
    latencies.append(row(PREDICTED, "predicted", "backbone", ms / 20))
    spec = prunet_det.load_spec(model).to_dict() if model in prunet_det.model_names() else None
    fixed = dict(suite="planted", artifact="onnxruntime fp32", data_hash="d")
    fixed |= dict(parameters=1_000_000, macs=int(ms * 1e7), kernels=100, config_hash="h")
    fixed |= dict(
        images_per_second=30.0, peak_memory_mb=900.0, arch=spec, latencies=tuple(latencies)
    )
    found = []
    for i, v in enumerate(values):
        metrics = {"mAP": v, "AP50": v**0.6, "AP75": v**0.8, "APs": v**1.2, "APm": v**0.9}
        metrics["APl"] = None
        run = dict(model=model, family=candidate.family, input_size=size, seed=i, metrics=metrics)
        found.append(Record(**{**run, **fixed, **more}))
    return found


def suite(seeds: int = 3, **more) -> list[Record]:
    """Three points a family, as a small suite on a CPU might give them."""
    shifts = (0.004, -0.004, 0.0, 0.002, -0.002)[:seeds]
    table = [
        ("prunet_demo", "prunet", 128, 0.300, 9.0),
        ("prunet_demo", "prunet", 192, 0.420, 19.0),
        ("prunet_demo", "prunet", 256, 0.490, 34.0),
        ("gpunet_0", "gpunet", 128, 0.330, 17.0),
        ("gpunet_0", "gpunet", 192, 0.430, 36.0),
        ("gpunet_0", "gpunet", 256, 0.485, 63.0),
        ("efficientnet_b0", "efficientnet", 128, 0.310, 14.0),
        ("efficientnet_b0", "efficientnet", 192, 0.425, 31.0),
        ("efficientnet_b0", "efficientnet", 256, 0.480, 55.0),
    ]
    return [
        r for *p, v, ms in table for r in runs(Candidate(*p), [v + s for s in shifts], ms, **more)
    ]


def save(folder, records: Sequence[Record]) -> None:
    """As the benchmark leaves them: runs, and latencies apart."""
    rows = {}
    store = RunStore(folder)
    for r in records:
        for row in r.latencies:
            rows[row] = row.to_dict()
        store.add(r.run)
    for kind in ("measured", "predicted"):
        own = [row for row in rows.values() if row["kind"] == kind]
        if own:
            save_latencies(folder, kind, own, {"command": "planted"})

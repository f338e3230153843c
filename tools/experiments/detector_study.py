"""Detectors that were searched on their own loss, beside others of the same latency.

    python tools/experiments/detector_study.py prepare --out DIR
    python tools/experiments/detector_study.py networks --out DIR

`prepare` writes the detector of the digits' suite and a config for searches on crops in the same
space, and prints the commands of the searches. `networks` writes what these found, random networks,
the one with the most multiply-accumulates, uniform widths, and prunet_n scaled in width and depth,
all filled to the same predicted milliseconds, and prints the command that trains them by the
suite's recipe. tools/report.py makes a table of docs/results/search/detectors/records.jsonl.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from prunet_det.arch.spec import ArchSpec, Provenance
from prunet_det.benchmark.search_baselines import scaled_published
from prunet_det.benchmark.suite import load_suite
from prunet_det.detection.build import build_detector
from prunet_det.detection.letterbox import set_input_size
from prunet_det.latency.predict import predict_module
from prunet_det.runtime.subject import Scope
from prunet_det.search.config import SearchConfig
from prunet_det.search.costs import Pricing
from prunet_det.search.detectors import detector_subject, found_config
from prunet_det.search.evolution import Region, most_macs
from prunet_det.search.pricing import priced
from prunet_det.search.result import SearchResult
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import Shape
from prunet_det.utils.config import read_config
from prunet_det.utils.errors import UserError, run_tool
from prunet_det.utils.io import make_folder, write_text

SUITE, SPACE, CROPS = "digits", "configs/search/effdet.py", "configs/search/quick.py"
DEVICE = "docs/results/latency/cpu_device.json"
SEEDS, RANDOM = (0, 1), 5
# 192 px are cheap: four times the steps of SPACE, and longer trainings in the last tier.
OPTIONS = "search.paths=1000 search.tiers=120 finalists.iterations=300,1000 finalists.kept=[2]"
LOSS, ON_CROPS, CHANCE = "on the detector's loss", "on crops", "random"
UNIFORM, MACS, SCALED = "uniform widths", "highest MACs", "scaled prunet_n"


class Study:
    """The detectors of a folder.

    Args:
        out: The folder.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.detector, self.crops = out, out / "detector.py", out / "crops.py"
        suite = load_suite(SUITE)
        make_folder(out / "networks")
        self.cfg = suite.recipe()
        set_input_size(self.cfg, suite.candidates[0].input_size, suite.crop)
        write_text(self.detector, self.cfg.pretty_text)
        crops = read_config(CROPS)
        crops.space = read_config(SPACE).space
        write_text(self.crops, crops.pretty_text)
        self.whole, self.backbone = (self._priced(scope) for scope in ("detector", "backbone"))

    def _priced(self, scope: str) -> Shapes:
        ask = dict(detector=self.detector, scope=scope, device=DEVICE, out=self.out / "prices")
        (shapes,) = priced(SearchConfig.from_file(SPACE, budget_ms=1, **ask))  # type: ignore[arg-type]
        return shapes

    @property
    def beyond(self) -> float:
        """Milliseconds of neck and head."""
        return float(self.whole.costs.fixed_ms - self.backbone.costs.fixed_ms)

    def searches(self, budgets: list[float]) -> Iterator[str]:
        """Commands of the searches."""
        search, given = "python tools/search_backbone.py", f"--device {DEVICE}"
        whole = " ".join(f"{ms:g}" for ms in budgets)
        backbone = " ".join(f"{ms - self.beyond:.4g}" for ms in budgets)
        for seed in SEEDS:
            own = f"{given} --seed {seed} --quiet --resume --out {self.out}"
            yield (
                f"{search} {SPACE} --budget-ms {whole} --detector {self.detector} --scope detector "
                f"{own}/loss_{seed} --cfg-options {OPTIONS}"
            )
            yield (
                f"{search} {self.crops} --budget-ms {backbone} --input-size "
                f"{self.whole.costs.input_size} {own}/crops_{seed}"
            )

    def networks(self, ms: float) -> Iterator[ArchSpec]:
        """What is compared at a budget."""
        for seed in SEEDS:
            found = SearchResult.load(self.out / f"loss_{seed}").networks[ms].spec
            yield _called(found, LOSS, ms, seed)
            crops = SearchResult.load(self.out / f"crops_{seed}").networks
            nearest = min(crops, key=lambda budget: abs(budget + self.beyond - ms))
            yield _called(crops[nearest].spec, ON_CROPS, ms, seed)
            uniform = self.whole.uniform(self.whole.space.shape_of(found), ms)
            if uniform is not None:
                yield _called(self._spec(self.whole, uniform), UNIFORM, ms, seed)
        for i in range(RANDOM):
            shape = self.whole.random(np.random.default_rng((i, 0)), ms)
            yield _called(self._spec(self.whole, shape), CHANCE, ms, i)
        most = most_macs(Region(shapes=self.whole, ms=ms), 0)
        yield _called(self._spec(self.whole, most), MACS, ms, 0)
        yield _called(self._scaled(ms), SCALED, ms, 0)

    def _scaled(self, ms: float) -> ArchSpec:
        """prunet_n, scaled; its maps have other channels, so neck and head take other time."""
        pricing, limit = Pricing(device=DEVICE), ms - self.beyond
        found: list[tuple[float, ArchSpec]] = []
        for _ in range(8):
            budget = self.backbone.costs.budget(limit)
            spec = self._spec(*scaled_published(pricing, budget, "prunet_n"))
            found.append((self.predicted(spec), spec))
            limit += 0.7 * (0.995 * ms - found[-1][0])
        return max((f for f in found if f[0] <= ms), key=lambda f: f[0])[1]

    def _spec(self, shapes: Shapes, shape: Shape) -> ArchSpec:
        made = Provenance("hand-written", {"reason": "beside searched detectors"})
        return shapes.space.to_spec(shape, "network", made, self.whole.costs.input_size)

    def predicted(self, spec: ArchSpec) -> float:
        """Milliseconds of a network's detector."""
        size = self.whole.costs.input_size
        detector = build_detector(found_config(self.cfg, spec))
        subject = detector_subject(detector, Scope.DETECTOR, size)
        return predict_module(subject.module, "x", DEVICE, 1, size, Scope.DETECTOR).latency.ms


def _called(spec: ArchSpec, group: str, ms: float, number: int) -> ArchSpec:
    """The network with a name, which also says what it stands for."""
    name = f"prunet_{group.replace(' ', '_').replace(chr(39), '')}_{ms:g}ms_{number}"
    details = {**spec.provenance.details, "stands_for": group, "at_ms": ms}
    return replace(spec, name=name, provenance=replace(spec.provenance, details=details))


def main() -> None:
    """Does what the first argument says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("do", choices=("prepare", "networks"))
    parser.add_argument("--budget-ms", type=float, nargs="+", default=[2.5, 4.0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    study = Study(args.out)
    if args.do == "prepare":
        print(*study.searches(args.budget_ms), sep="\n")
        return
    files = []
    for ms in args.budget_ms:
        for spec in study.networks(ms):
            predicted = study.predicted(spec)
            if not 0.97 * ms <= predicted <= 1.001 * ms:
                raise UserError(f"{spec.name} takes {predicted:.4f} ms, not {ms:g}.")
            files.append(args.out / "networks" / f"{spec.name}.json")
            spec.save(files[-1])
            print(f"# {spec.name}: {predicted:.4f} ms, {len(spec.blocks)} blocks")
    print(
        f"python tools/benchmark.py --suite {SUITE} --seeds 1 --jobs 2 --no-timing --out", end=" "
    )
    print(f"{args.out}/records --models", *files)


if __name__ == "__main__":
    run_tool(main)

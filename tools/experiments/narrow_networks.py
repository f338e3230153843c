"""Networks at a part of their width, for a CPU that could not train them in full.

    python tools/experiments/narrow_networks.py    # writes configs/benchmark/networks/*.json again

EfficientNet-B0 becomes a spec first. Its very first block has no expansion, which specs of inverted
residuals always have: here it gets one of the same width, a hundredth of the network's work.

prunet_n is that of commit 98f747d: the suite's records are of it, whatever the zoo has since.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prunet_det.arch.scaling import scale_width
from prunet_det.arch.spec import ArchSpec, BlockSpec, Provenance, StageSpec, StemSpec, TailSpec
from prunet_det.zoo.models import load_spec

FOLDER = Path("configs/benchmark/networks")
EARLIER = "docs/results/latency/networks/prunet_n_98f747d.json"
COMMAND = "python tools/experiments/narrow_networks.py"
# Of about equal latency here: 2 ms for the backbone at 128 px, ONNX Runtime on one thread.
SHARES = {"prunet_n": 0.625, "gpunet_0": 0.3, "efficientnet_b0": 0.25}
# arXiv 1905.11946, table 1: kernel, stride, expansion, channels, blocks.
_B0 = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def efficientnet_b0() -> ArchSpec:
    """EfficientNet-B0 as a spec, but for the first block's expansion."""
    stages, chs = [], 32
    for kernel, stride, expansion, out_chs, count in _B0:
        blocks = []
        for i in range(count):
            blocks.append(
                BlockSpec(
                    "irb",
                    chs,
                    out_chs,
                    kernel=kernel,
                    stride=stride if i == 0 else 1,
                    hidden=chs * expansion,
                    act="silu",
                    se=chs // 4,
                )
            )
            chs = out_chs
        stages.append(StageSpec(tuple(blocks)))
    return ArchSpec(
        name="efficientnet_b0",
        stem=StemSpec((32,), "silu"),
        stages=tuple(stages),
        tail=TailSpec(1280),
        provenance=Provenance("published", {"source": "arXiv 1905.11946, table 1"}),
    )


def narrow_networks() -> list[ArchSpec]:
    """All that the suite of a CPU compares."""
    networks = []
    earlier = ArchSpec.load(Path(__file__).resolve().parents[2] / EARLIER)
    made = {"prunet_n": earlier, "efficientnet_b0": efficientnet_b0()}
    for name, share in SHARES.items():
        whole = made.get(name) or load_spec(name)
        scaled = scale_width(whole, share)
        reason = f"{scaled.provenance.details['reason']}, to be trained on a CPU; {COMMAND}"
        provenance = Provenance("hand-written", {"reason": reason})
        short = scaled.name.replace(whole.name, name)
        networks.append(dataclasses.replace(scaled, name=short, provenance=provenance))
    return networks


if __name__ == "__main__":
    for network in narrow_networks():
        network.save(FOLDER / f"{network.name}.json")
        print(FOLDER / f"{network.name}.json")

"""Small relatives of the zoo's networks, for a CPU that could not train them in full.

    python tools/experiments/narrow_networks.py    # writes configs/benchmark/networks/*.json again

EfficientNet-B0 becomes a spec first. Its very first block has no expansion, which specs of inverted
residuals always have: here it gets one of the same width, a hundredth of the network's work. As
EfficientNets are, it is scaled in depth too: with half its blocks it learns in less time.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prunet_det.arch.scaling import scale_compound, scale_width
from prunet_det.arch.spec import ArchSpec, BlockSpec, Provenance, StageSpec, StemSpec, TailSpec
from prunet_det.zoo.models import load_spec

FOLDER = Path("configs/benchmark/networks")
COMMAND = "python tools/experiments/narrow_networks.py"
# The smallest network of each family at three widths: at 192 px their backbones are predicted to
# take 1.56 to 1.58, 3.01 to 3.11 and 4.87 to 4.97 ms by docs/results/latency/cpu_device.json.
SHARES = {
    "prunet_n": (0.25, 0.375, 0.525),
    "gpunet_0": (0.2, 0.325, 0.375),
    "efficientnet_b0": (0.35, 0.63, 0.86),
}
DEPTH = 0.5  # of EfficientNet
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
    return [_narrow(name, share) for name, shares in SHARES.items() for share in shares]


def _narrow(name: str, share: float) -> ArchSpec:
    if name == "efficientnet_b0":
        scaled = scale_compound(efficientnet_b0(), share, DEPTH, hidden_step=8)
    else:
        scaled = scale_width(load_spec(name), share)
    reason = f"{scaled.provenance.details['reason']}, to be trained on a CPU; {COMMAND}"
    return dataclasses.replace(scaled, provenance=Provenance("hand-written", {"reason": reason}))


if __name__ == "__main__":
    for network in narrow_networks():
        network.save(FOLDER / f"{network.name}.json")
        print(FOLDER / f"{network.name}.json")

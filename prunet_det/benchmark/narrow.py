"""Networks of the zoo at a part of their width, for a CPU that could not train them in full.

    python -m prunet_det.benchmark.narrow    # writes configs/benchmark/networks/*.json again

EfficientNet-B0 becomes a spec first. Its very first block has no expansion, which specs of inverted
residuals always have: here it gets one of the same width, a hundredth of the network's work.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prunet_det.arch.spec import (
    ArchSpec,
    BlockSpec,
    Provenance,
    StageSpec,
    StemSpec,
    TailSpec,
)
from prunet_det.search.space import scaled_width
from prunet_det.zoo.models import load_spec

FOLDER = Path("configs/benchmark/networks")
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
    for kernel, stride, expansion, out, count in _B0:
        blocks = []
        for i in range(count):
            blocks.append(
                BlockSpec(
                    "irb",
                    chs,
                    out,
                    kernel,
                    stride if i == 0 else 1,
                    chs * expansion,
                    "silu",
                    chs // 4,
                )
            )
            chs = out
        stages.append(StageSpec(tuple(blocks)))
    source = Provenance("published", {"source": "arXiv 1905.11946, table 1"})
    return ArchSpec(
        "efficientnet_b0", StemSpec((32,), "silu"), tuple(stages), TailSpec(1280), source
    )


def narrowed(spec: ArchSpec, share: float) -> ArchSpec:
    """A network with the same blocks and a share of the channels, in steps of 8.

    Args:
        spec: The network.
        share: Of its channels, in (0, 1].

    Raises:
        ValueError: An impossible share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of a network's width must lie in (0, 1], got {share}.")

    def width(channels: int) -> int:
        return scaled_width(channels, share)

    def block(b: BlockSpec) -> BlockSpec:
        return dataclasses.replace(
            b,
            in_chs=width(b.in_chs),
            out_chs=width(b.out_chs),
            hidden=width(b.hidden) if b.hidden else 0,
            se=max(4, round(b.se * share)) if b.se else 0,
        )

    percent = round(1000 * share) / 10
    return dataclasses.replace(
        spec,
        name=f"{spec.name}_w{round(1000 * share):03d}",
        stem=dataclasses.replace(spec.stem, widths=tuple(map(width, spec.stem.widths))),
        stages=tuple(StageSpec(tuple(map(block, s.blocks))) for s in spec.stages),
        tail=dataclasses.replace(spec.tail, width=width(spec.tail.width)),
        provenance=Provenance(
            "hand-written",
            {
                "reason": f"{spec.name} at {percent:g} % of its width, to be trained on a CPU; "
                "python -m prunet_det.benchmark.narrow"
            },
        ),
    )


def narrow_networks() -> list[ArchSpec]:
    """All that the suite of a CPU compares."""
    made = {"efficientnet_b0": efficientnet_b0}
    return [
        narrowed(made[name]() if name in made else load_spec(name), share)
        for name, share in SHARES.items()
    ]


if __name__ == "__main__":
    for network in narrow_networks():
        network.save(FOLDER / f"{network.name}.json")
        print(FOLDER / f"{network.name}.json")

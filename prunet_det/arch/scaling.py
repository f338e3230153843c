"""Specs scaled in width and depth."""

from __future__ import annotations

import dataclasses

from prunet_det.arch.spec import ArchSpec, BlockSpec, Provenance, StageSpec
from prunet_det.utils.errors import InputError

_DIVISOR = 8  # outer widths are multiples of this: tensor cores and vector units like it
_MIN_SQUEEZE = 4


def round_channels(channels: int, factor: float) -> int:
    """Scales a number of channels and rounds it to a multiple of 8, at least 8.

    Args:
        channels: Number of channels.
        factor: Scale, above 0; at 1 the channels stay as they are, multiple or not.
    """
    if factor == 1:
        return channels
    return max(_DIVISOR, round(channels * factor / _DIVISOR) * _DIVISOR)


def scale_width(spec: ArchSpec, factor: float) -> ArchSpec:
    """Scales all channels of a network, inner widths included, and keeps its blocks.

    Args:
        spec: Network to scale; the hidden layer of its tail keeps its width.
        factor: Scale, above 0.

    Raises:
        InputError: If the factor is not above 0.
    """
    _check_factor("width", factor)

    def block(b: BlockSpec) -> BlockSpec:
        return dataclasses.replace(
            b,
            in_chs=round_channels(b.in_chs, factor),
            out_chs=round_channels(b.out_chs, factor),
            hidden=round_channels(b.hidden, factor) if b.hidden else 0,
            se=_scaled_squeeze(b, factor),
        )

    stages = tuple(StageSpec(tuple(map(block, stage.blocks))) for stage in spec.stages)
    reason = f"{spec.name} at {round(1000 * factor) / 10:g} % of its width"
    return _scaled(spec, f"w{round(1000 * factor):03d}", stages, factor, reason)


def scale_compound(
    spec: ArchSpec, width: float, depth: float, hidden_step: int = 32, max_expansion: int = 8
) -> ArchSpec:
    """Scales a network in width and depth, as EfficientNets are.

    Args:
        spec: Network to scale.
        width: Scale of the channels between blocks, above 0; inner widths keep their expansion.
        depth: Scale of the number of blocks of each stage, above 0; a stage's last block is
            repeated, or its last blocks are left out.
        hidden_step: Step of inner widths in channels; 32 as in search spaces.
        max_expansion: Greatest ratio of a block's inner width to its input; 8 as in search spaces.

    Raises:
        InputError: If a factor is not above 0.
    """
    _check_factor("width", width)
    _check_factor("depth", depth)
    stages, chs = [], round_channels(spec.stem.widths[-1], width)
    for stage in spec.stages:
        out_chs, blocks = round_channels(stage.blocks[-1].out_chs, width), []
        for j in range(max(1, round(len(stage.blocks) * depth))):
            block = stage.blocks[min(j, len(stage.blocks) - 1)]
            steps = max(1, round(block.hidden / block.in_chs * chs / hidden_step))
            hidden = hidden_step * min(steps, max(1, max_expansion * chs // hidden_step))
            blocks.append(
                dataclasses.replace(
                    block.padded(),
                    in_chs=chs,
                    out_chs=out_chs,
                    stride=stage.stride if j == 0 else 1,
                    hidden=hidden if block.hidden else 0,
                    se=_scaled_squeeze(block, width),
                )
            )
            chs = out_chs
        stages.append(StageSpec(tuple(blocks)))
    suffix = f"w{round(1000 * width):03d}_d{round(1000 * depth):03d}"
    reason = f"{spec.name} with {width:.3g} times its width and {depth:.3g} times its depth"
    return _scaled(spec, suffix, tuple(stages), width, reason)


def _check_factor(name: str, factor: float) -> None:
    if not factor > 0:
        raise InputError(f"a network's {name} can be scaled by a factor above 0, got {factor}.")


def _scaled_squeeze(block: BlockSpec, factor: float) -> int:
    return max(_MIN_SQUEEZE, round(block.se * factor)) if block.se else 0


def _scaled(
    spec: ArchSpec, suffix: str, stages: tuple[StageSpec, ...], width: float, reason: str
) -> ArchSpec:
    """Returns the spec with these stages, and with a stem and a tail that fit them."""
    widths = tuple(round_channels(w, width) for w in spec.stem.widths)
    return dataclasses.replace(
        spec,
        name=f"{spec.name}_{suffix}",
        stem=dataclasses.replace(spec.stem, widths=widths),
        stages=stages,
        tail=dataclasses.replace(spec.tail, width=round_channels(spec.tail.width, width)),
        provenance=Provenance("hand-written", {"reason": reason}),
    )

"""A network as a row of blocks, small enough for a line of a page."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prunet_det.arch.spec import BLOCK_KINDS, ArchSpec, BlockSpec, SpecError

KEY = [
    *((kind.name, kind.colour, kind.title) for kind in BLOCK_KINDS.values()),
    ("inner", "#444444", "inner width (filled: output channels; a gap: stride 2)"),
]
_HEIGHT = 78.0
_STEP, _BAR, _GAP, _LEAST_WIDTH = 20.0, 16.0, 10.0, 760.0


def blocks_of(model: str, arch: Mapping[str, Any] | None) -> list[BlockSpec] | None:
    """Stem and blocks of a record's backbone; of timm's inverted residuals without its spec.

    Args:
        model: Its name.
        arch: Its spec; None for timm's networks.

    Returns:
        None for a network that is not of such blocks.
    """
    if arch is not None:
        spec = ArchSpec.from_dict(arch)
        return [*spec.stem.blocks(), *spec.blocks]
    import timm

    try:
        with torch.device("meta"):
            network: Any = timm.create_model(model)
        stem = network.conv_stem
        found = [_conv(stem)]
        for block in (b for stage in network.blocks for b in stage):
            depthwise = block.conv_dw
            inverted = hasattr(block, "conv_pwl")  # else depthwise, and conv_pw projects
            last = block.conv_pwl if inverted else block.conv_pw
            found.append(
                BlockSpec(
                    "irb",
                    (block.conv_pw if inverted else depthwise).in_channels,
                    last.out_channels,
                    kernel=depthwise.kernel_size[0],
                    stride=depthwise.stride[0],
                    hidden=depthwise.out_channels,
                    act="silu",
                )
            )
    except (AttributeError, RuntimeError, SpecError):
        return None
    return found


def _conv(conv: torch.nn.Conv2d) -> BlockSpec:
    return BlockSpec(
        "conv",
        conv.in_channels,
        conv.out_channels,
        kernel=conv.kernel_size[0],
        stride=conv.stride[0],
    )


def blocks_svg(blocks: Sequence[BlockSpec], top: int, most: int) -> str:
    """An SVG element, to one scale with the page's other networks.

    A bar is a block: filled to its output channels, outlined to its inner width, its height growing
    with the square root of either; hovering names it.

    Args:
        blocks: From image to features.
        top: Channels of the highest bar of the page.
        most: Blocks of the longest network of the page.
    """
    parts, x = [], 0.0
    for b in blocks:
        x += _GAP if b.stride == 2 and x else 0
        inner = f", inner {b.hidden}" if b.hidden else ""
        stride = ", stride 2" if b.stride == 2 else ""
        kind = b.kind_info
        title = f"{kind.title} {b.kernel}x{b.kernel}, {b.in_chs} to {b.out_chs}{inner}{stride}"
        parts.append(f"<g><title>{html.escape(title)}</title>")
        parts.append(_rect(x, b.out_chs, top, f'fill="{kind.colour}"'))
        if b.hidden:
            parts.append(_rect(x, b.hidden, top, 'fill="none" stroke="#444444"'))
        parts.append("</g>")
        x += _STEP
    width = max(most * _STEP + 7 * _GAP, _LEAST_WIDTH)
    return (
        f'<svg viewBox="0 0 {width:g} {_HEIGHT + 2:g}" preserveAspectRatio="xMinYMax meet" '
        f'role="img" aria-label="{len(blocks)} blocks">{"".join(parts)}</svg>'
    )


def _rect(x: float, channels: int, top: int, style: str) -> str:
    height = _HEIGHT * math.sqrt(
        channels / top
    )  # so that narrow blocks can be seen beside wide ones
    y = _HEIGHT + 1 - height
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{_BAR}" height="{height:.1f}" {style}/>'

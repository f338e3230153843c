"""Model cards: a network's blocks, costs and provenance as a Markdown page with a drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunet_det.arch.spec import BLOCK_KINDS, ArchSpec, BlockSpec
from prunet_det.utils import plots
from prunet_det.utils.extras import require
from prunet_det.utils.io import markdown_table
from prunet_det.utils.plots import DARK, GREY, LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def model_card(spec: ArchSpec, costs: str, drawing: str) -> str:
    """Writes a network's page in Markdown.

    Args:
        spec: Spec of the network.
        costs: Table of its parameters and multiply-accumulates, in Markdown.
        drawing: File name of the drawing, beside the page.
    """
    features = list(spec.feature_stages())
    details = dict(spec.provenance.details)
    top1 = details.pop("published_imagenet_top1", None)
    origin = "".join(f"* {key.replace('_', ' ')}: {value}\n" for key, value in details.items())
    published = (
        f"\nPublished, not measured here: ImageNet top-1 **{top1} %** at {spec.input_size} px "
        f"(crop fraction {spec.crop_pct:g}). No weights are shipped or can be downloaded.\n"
        if top1 is not None
        else ""
    )
    searched = ""
    if spec.provenance.kind == "searched":
        budget, data = details.pop("budget"), details.pop("data")
        hashes = ", ".join(f"{k} {v}" for k, v in details.pop("hashes", {}).items())
        origin = (
            f"* command: `{details['command']} --out DIR`\n"
            f"* budget: {budget['latency_ms']:g} ms of a {budget['scope']} at "
            f"{budget['input_size']} px on a {budget['device'].upper()}, {budget['kind']}: "
            f"{budget['runtime']}, {budget['precision']}, batch {budget['batch']}\n"
            f"* searched on: crops of {data['name']}, {data['classes']} classes\n"
            f"* seed: {details['seed']}\n* digests: {hashes}\n"
        )
        searched = (
            "\nFound by the search named above and by nothing else: it has not been trained on "
            "ImageNet or COCO, and no weights are shipped.\n"
        )
    return f"""# {spec.name}

<!-- Written by `python tools/report.py`; do not edit. -->

![Blocks of {spec.name}]({drawing})

*Filled: output channels of a block. Outlined: its inner width. Above it: its kernel size, with an
arrow where the stride is 2.*

{costs}
Counted from the blocks, as torch's FlopCounterMode counts; one MAC is a multiplication and an
addition. The classifier has 1,000 classes and is padded as published; the backbone is what a
detector uses, without the tail and with `padding="same"`.

## Features

{
        markdown_table(
            ["index", "stride", "channels", "module"],
            [[str(k), str(s), str(c), f"`stages.{i}`"] for k, (i, c, s) in enumerate(features)],
        )
    }
## Blocks

{_blocks(spec)}
Batch norm's epsilon is {spec.bn_eps:g}; the last convolution has {spec.tail.width} channels{
        f", and another one of {spec.tail.hidden} follows the pooling" if spec.tail.hidden else ""
    }.

## Provenance

{spec.provenance.kind}

{origin}{published}{searched}
## Use

```python
import timm, prunet_det

model = timm.create_model("{spec.name}", num_classes=10)
```

In a detector: `backbone=dict(type="PruNet", arch="{spec.name}")`.
"""


def _blocks(spec: ArchSpec) -> str:
    """Tabulates the blocks; equal blocks in a row are one line."""
    rows: list[list[str]] = []
    for i, stage in enumerate(spec.stages):
        for b in stage.blocks:
            cells = [str(i), b.kind, str(b.kernel), str(b.stride), str(b.in_chs), str(b.out_chs)]
            cells += [str(b.hidden or "-"), str(b.se or "-"), b.act]
            cells += ["unpadded" if b.stride == 2 and b.padding == "valid" else "same"]
            if rows and rows[-1][1:] == cells:
                rows[-1][0] = str(int(rows[-1][0]) + 1)
            else:
                rows.append(["1", *cells])
    header = ["blocks", "stage", "kind", "kernel", "stride", "in", "out", "inner", "SE", "act"]
    return markdown_table([*header, "padding as published"], rows)


def draw_network(spec: ArchSpec) -> Figure:
    """Draws a network with a bar for each block.

    A bar is filled to the block's output channels, outlined to its inner width, and has the kernel
    size above; `SE` marks squeeze-and-excitation, an arrow a stride of 2.

    Raises:
        MissingPackageError: If matplotlib is missing.
    """
    patch = require("matplotlib.patches", "det").Patch
    blocks = len(spec.blocks) + len(spec.stem.widths) + 1
    figure, (axes,) = plots.figure(min(8.0, max(6.5, 0.32 * blocks + 1.2)), 3.2)
    top = _draw_bars(axes, spec)
    axes.set_ylim(0, 1.14 * top)
    axes.set_ylabel("channels", fontsize=8)
    axes.set_xlabel("stage, its stride, its channels", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.tick_params(axis="x", length=0)
    axes.set_title(f"{spec.name}: blocks from image to classifier", fontsize=10, loc="left")
    used = {b.kind for b in spec.blocks}
    kinds = [kind for name, kind in BLOCK_KINDS.items() if name in used]
    patches = [patch(color=kind.colour, label=kind.title) for kind in kinds]
    patches.append(patch(color=GREY, label="stem and tail"))
    patches.append(patch(facecolor="none", edgecolor=DARK, label="inner width"))
    axes.legend(handles=patches, loc="upper left", frameon=False, fontsize=8)
    return figure


def _draw_bars(axes: Axes, spec: ArchSpec) -> float:
    """Draws every block and labels the stages; returns the maximum height."""
    top = float(max(max(b.hidden, b.out_chs) for b in spec.blocks))
    top = max(top, spec.tail.width)
    x, stride = 0.0, 1
    ticks, labels = [], []

    def bar(width: int, hidden: int, colour: str, text: str) -> None:
        nonlocal x
        axes.bar(x, width, 0.8, color=colour)
        if hidden:
            axes.bar(x, hidden, 0.8, facecolor="none", edgecolor=DARK, linewidth=0.8)
        axes.text(x, max(width, hidden) + 0.01 * top, text, ha="center", va="bottom", fontsize=7)
        x += 1

    def close(first: float, label: str) -> None:
        nonlocal x
        ticks.append((first + x - 1) / 2)
        labels.append(label)
        axes.axvline(x - 0.25, color=LIGHT, linewidth=0.8, zorder=0)
        x += 0.5

    for i, width in enumerate(spec.stem.widths):
        stride *= 2 if i == 0 else 1
        bar(width, 0, GREY, "3" if i else "3\u2193")
    close(0, f"stem\n/{stride}\n{spec.stem.widths[-1]}")
    for i, stage in enumerate(spec.stages):
        first = x
        for block in stage.blocks:
            stride *= block.stride
            bar(block.out_chs, block.hidden, block.kind_info.colour, _mark(block))
        close(first, f"{i}\n/{stride}\n{stage.blocks[-1].out_chs}")
    first = x
    bar(spec.tail.width, 0, GREY, "1")
    close(first, f"tail\n/{stride}\n{spec.tail.width}")
    axes.set_xticks(ticks, labels)
    axes.set_xlim(-0.7, x - 0.6)
    return top


def _mark(block: BlockSpec) -> str:
    kernel = f"{block.kernel}\u2193" if block.stride == 2 else str(block.kernel)
    return f"SE\n{kernel}" if block.se else kernel

"""A network's page: what it is, what it costs, where it comes from."""

from __future__ import annotations

from prunet_det.arch.spec import ArchSpec


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def model_card(spec: ArchSpec, costs: str, drawing: str) -> str:
    """The page in Markdown.

    Args:
        spec: The network.
        costs: A table of its parameters and multiply-accumulates.
        drawing: The picture's file name, beside the page.
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
    found = ""
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
        found = (
            "\nFound by the search named above and by nothing else: it has not been trained on "
            "ImageNet or COCO, and no weights are shipped.\n"
        )
    return f"""# {spec.name}

<!-- Written by `python tools/report.py`; do not edit. -->

![Blocks of {spec.name}]({drawing})

*Filled: output channels of a block. Outlined: its inner width. Above it: its kernel size, with an
arrow where the stride is 2. Below each stage: stride and channels.*

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

{origin}{published}{found}
## Use

```python
import timm, prunet_det

model = timm.create_model("{spec.name}", num_classes=10)
```

In a detector: `backbone=dict(type="PruNet", arch="{spec.name}")`.
"""


def _blocks(spec: ArchSpec) -> str:
    """Runs of equal blocks of a stage are one row."""
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

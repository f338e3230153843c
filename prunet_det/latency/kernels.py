"""What a device runs: fused inference kernels, and the list of them that an ArchSpec stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prunet_det.arch.spec import ArchSpec, BlockSpec
from prunet_det.runtime.subject import Scope
from prunet_det.utils.errors import InputError

KINDS = (
    "layout",
    "dense",
    "pointwise",
    "grouped",
    "depthwise",
    "fc",
    "matmul",
    "pool",
    "resize",
    "elementwise",
    "copy",
)
# Activations that a convolution's kernel applies on the way out; others are kernels of their own.
FREE_ACTIVATIONS = ("relu",)


@dataclass(frozen=True)
class Kernel:
    """One launch: a convolution with its batch norm, activation and residual, or something else.

    All counts are for one image; elements, not bytes.

    Attributes:
        kind: One of KINDS.
        name: Where in the network.
        in_chs, out_chs, groups: Of a convolution or fully connected layer.
        taps: Positions of its kernel, such as 9 for 3x3.
        positions: Height times width of the output.
        reads, writes: Activations.
        weights: Parameters as inference reads them, batch norm folded.
        params: Parameters of the modules that were fused.
        macs: Multiply-accumulates.
    """

    kind: str
    name: str
    in_chs: int = 0
    out_chs: int = 0
    groups: int = 1
    taps: int = 1
    positions: int = 1
    reads: int = 0
    writes: int = 0
    weights: int = 0
    params: int = 0
    macs: int = 0


def convolution(
    name: str,
    in_chs: int,
    out_chs: int,
    taps: int,
    groups: int,
    in_positions: int,
    positions: int,
    params: int,
    extra_reads: int = 0,
) -> Kernel:
    """A convolution's kernel.

    Args:
        name: Where in the network.
        in_chs, out_chs, taps, groups: Of the convolution.
        in_positions, positions: Height times width, in and out.
        params: Parameters of what was fused, beside the convolution's own weights.
        extra_reads: Elements of a residual that is added.
    """
    weight = out_chs * (in_chs // groups) * taps
    if groups == in_chs and groups == out_chs and groups > 1:
        kind = "depthwise"
    elif groups > 1:
        kind = "grouped"
    elif positions == 1 and taps == 1:
        kind = "fc"
    else:
        kind = "pointwise" if taps == 1 else "dense"
    return Kernel(
        kind,
        name,
        in_chs,
        out_chs,
        groups,
        taps,
        positions,
        reads=in_chs * in_positions + extra_reads,
        writes=out_chs * positions,
        weights=weight + out_chs,
        params=weight + params,
        macs=weight * positions,
    )


def totals(kernels: Sequence[Kernel], element_bytes: int = 2) -> dict[str, int]:
    """What a list of kernels comes to, for one image.

    Args:
        kernels: Of a network.
        element_bytes: Of an activation or weight.

    Returns:
        `kernels`, `macs`, `params` and `bytes`: of all activations and weights that are moved.
    """
    moved = sum(k.reads + k.writes + k.weights for k in kernels)
    return {
        "kernels": len(kernels),
        "macs": sum(k.macs for k in kernels),
        "params": sum(k.params for k in kernels),
        "bytes": element_bytes * moved,
    }


def layout_change(in_chs: int, positions: int) -> Kernel:
    """The image from planes to channels-last, padded to eight channels."""
    padded = 8 * math.ceil(in_chs / 8)
    return Kernel(
        "layout", "input", in_chs, in_chs, 1, 1, positions, in_chs * positions, padded * positions
    )


def spec_kernels(
    spec: ArchSpec,
    size: int | tuple[int, int],
    scope: Scope | str = Scope.BACKBONE,
    padding: str | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
) -> list[Kernel]:
    """The kernels of a network by formula, without building it.

    Args:
        spec: The network.
        size: Of the image: a side, or (height, width).
        scope: `classifier` is the whole network, `backbone` everything up to the deepest stride in
            the spec, without the tail.
        padding: As of ArchNet; by default `published` for a classifier, `same` for a backbone.
        num_classes: Of the classifier.
        in_chans: Channels of the image.

    Raises:
        ValueError: Another scope, or an image too small for the network.
    """
    scope = Scope(scope)
    if scope not in (Scope.CLASSIFIER, Scope.BACKBONE):
        raise InputError(f"scope must be classifier or backbone here, got {scope}.")
    padding = padding or ("published" if scope is Scope.CLASSIFIER else "same")
    at = (size, size) if isinstance(size, int) else size
    kernels = [layout_change(in_chans, at[0] * at[1])]
    named = [(f"stem.{i}", block) for i, block in enumerate(spec.stem.blocks(in_chans))]
    named += [
        (f"stages.{i}.{j}", block)
        for i, stage in enumerate(spec.stages)
        for j, block in enumerate(stage.blocks)
    ]
    for name, block in named:
        block = block if padding == "published" else block.padded()
        out = output_size(block, at)
        if min(out) < 1:
            raise InputError(
                f"an image of {size} px is too small for {spec.name}: nothing is left of it at "
                f"{name}."
            )
        kernels += block_kernels(block, at, name)
        at = out
    if scope is Scope.CLASSIFIER:
        kernels += _tail(spec, at, num_classes)
    return kernels


def output_size(block: BlockSpec, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what a block makes of a map of this size."""
    if block.stride > 1 and block.padding == "valid":
        height, width = ((s - block.kernel) // block.stride + 1 for s in size)
    else:
        height, width = (-(-s // block.stride) for s in size)
    return height, width


def _conv(
    name: str,
    in_chs: int,
    out_chs: int,
    taps: int,
    groups: int,
    at: tuple[int, ...],
    out: tuple[int, ...],
    act: str | None,
    residual: bool = False,
) -> list[Kernel]:
    """A convolution without bias, with batch norm, and its activation where that is a kernel."""
    positions = out[0] * out[1]
    made = out_chs * positions
    conv = convolution(
        name,
        in_chs,
        out_chs,
        taps,
        groups,
        at[0] * at[1],
        positions,
        params=2 * out_chs,
        extra_reads=made if residual else 0,
    )
    if act is None or act in FREE_ACTIVATIONS:
        return [conv]
    return [conv, _elementwise(f"{name}.act", made, made, positions)]


def _elementwise(name: str, reads: int, writes: int, positions: int) -> Kernel:
    return Kernel("elementwise", name, positions=positions, reads=reads, writes=writes)


def block_kernels(block: BlockSpec, at: tuple[int, int], name: str = "block") -> list[Kernel]:
    """The kernels of one block on a map of height and width `at`."""
    b, kind, taps, out = block, block.kind_info, block.kernel**2, output_size(block, at)
    chs, mid_chs = b.spatial_chs
    kernels = []
    if kind.has_expand:
        kernels += _conv(f"{name}.expand", b.in_chs, chs, 1, 1, at, at, b.act)
    groups = chs if kind.is_depthwise else 1
    kernels += _conv(f"{name}.spatial", chs, mid_chs, taps, groups, at, out, b.act)
    kernels += _squeeze_excite(f"{name}.se", b, mid_chs, out)
    if kind.has_project:
        kernels += _conv(
            f"{name}.project", mid_chs, b.out_chs, 1, 1, out, out, None, b.has_residual
        )
    return kernels


def _squeeze_excite(name: str, b: BlockSpec, chs: int, at: tuple[int, ...]) -> list[Kernel]:
    """Pool, two fully connected layers with biases, and the scaling with its sigmoid."""
    if not b.se:
        return []
    positions = at[0] * at[1]
    fc = [
        convolution(f"{name}.fc{i}", m, n, 1, 1, 1, 1, params=n)
        for i, (m, n) in enumerate(((chs, b.se), (b.se, chs)), 1)
    ]
    if b.act not in FREE_ACTIVATIONS:
        fc.insert(1, _elementwise(f"{name}.act", b.se, b.se, 1))
    pool = Kernel("pool", f"{name}.pool", chs, chs, reads=chs * positions, writes=chs)
    scale = _elementwise(f"{name}.scale", chs * positions + chs, chs * positions, positions)
    return [pool, *fc, scale]


def _tail(spec: ArchSpec, at: tuple[int, ...], num_classes: int) -> list[Kernel]:
    width, positions = spec.tail.width, at[0] * at[1]
    kernels = _conv("conv_head", spec.blocks[-1].out_chs, width, 1, 1, at, at, "relu")
    kernels.append(
        Kernel("pool", "global_pool", width, width, reads=width * positions, writes=width)
    )
    last = width
    if spec.tail.hidden:
        last = spec.tail.hidden
        kernels.append(convolution("pre_logits", width, last, 1, 1, 1, 1, params=0))
    if num_classes:
        kernels.append(convolution("classifier", last, num_classes, 1, 1, 1, 1, params=num_classes))
    return kernels

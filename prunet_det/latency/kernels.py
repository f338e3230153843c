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


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One launch: a convolution with its batch norm, activation and residual, or something else.

    All counts are for one image, in elements rather than bytes.

    Attributes:
        kind: One of KINDS.
        name: Path of the module in the network.
        in_chs: Input channels of a convolution or fully connected layer.
        out_chs: Output channels.
        groups: Groups of the convolution.
        taps: Positions of its kernel, such as 9 for 3x3.
        positions: Height times width of the output.
        reads: Activations that are read.
        writes: Activations that are written.
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


@dataclass(frozen=True, kw_only=True)
class ConvShape:
    """Shape of a convolution, or of a fully connected layer with its defaults.

    Attributes:
        in_chs: Input channels.
        out_chs: Output channels.
        taps: Positions of its kernel, such as 9 for 3x3.
        groups: Groups of channels.
        in_positions: Height times width of the input.
        positions: Height times width of the output.
    """

    in_chs: int
    out_chs: int
    taps: int = 1
    groups: int = 1
    in_positions: int = 1
    positions: int = 1

    @property
    def kind(self) -> str:
        """What kind of kernel it is, one of KINDS."""
        if self.groups > 1:
            depthwise = self.groups == self.in_chs == self.out_chs
            return "depthwise" if depthwise else "grouped"
        if self.taps > 1:
            return "dense"
        return "fc" if self.positions == 1 else "pointwise"


def convolution(name: str, shape: ConvShape, params: int, extra_reads: int = 0) -> Kernel:
    """Returns the kernel of a convolution or a fully connected layer.

    Args:
        name: Path of the module in the network.
        shape: Its channels, taps and positions.
        params: Parameters of what was fused, beside the convolution's own weights.
        extra_reads: Elements of a residual that is added.
    """
    weight = shape.out_chs * (shape.in_chs // shape.groups) * shape.taps
    return Kernel(
        kind=shape.kind,
        name=name,
        in_chs=shape.in_chs,
        out_chs=shape.out_chs,
        groups=shape.groups,
        taps=shape.taps,
        positions=shape.positions,
        reads=shape.in_chs * shape.in_positions + extra_reads,
        writes=shape.out_chs * shape.positions,
        weights=weight + shape.out_chs,
        params=weight + params,
        macs=weight * shape.positions,
    )


def totals(kernels: Sequence[Kernel], element_bytes: int = 2) -> dict[str, int]:
    """Adds up the kernels of a network, for one image.

    Args:
        kernels: All kernels of the network.
        element_bytes: Bytes of an activation or weight.

    Returns:
        `kernels`, `macs`, `params`, and `bytes` of all activations and weights that are moved.
    """
    moved = sum(k.reads + k.writes + k.weights for k in kernels)
    return {
        "kernels": len(kernels),
        "macs": sum(k.macs for k in kernels),
        "params": sum(k.params for k in kernels),
        "bytes": element_bytes * moved,
    }


def layout_change(in_chs: int, positions: int) -> Kernel:
    """Returns the kernel that brings an image to channels-last, padded to eight channels."""
    padded = 8 * math.ceil(in_chs / 8)
    return Kernel(
        kind="layout",
        name="input",
        in_chs=in_chs,
        out_chs=in_chs,
        positions=positions,
        reads=in_chs * positions,
        writes=padded * positions,
    )


def spec_kernels(
    spec: ArchSpec,
    size: int | tuple[int, int],
    scope: Scope | str = Scope.BACKBONE,
    padding: str | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
) -> list[Kernel]:
    """Returns the kernels of a network by formula, without building it.

    Args:
        spec: The network.
        size: Size of the image in pixels: a side, or (height, width).
        scope: `classifier` is the whole network, `backbone` everything up to the deepest stride in
            the spec, without the tail.
        padding: Padding as ArchNet takes it; `published` by default for a classifier, `same` for a
            backbone.
        num_classes: Number of classes; 0 for no classifier.
        in_chans: Channels of the image.

    Raises:
        InputError: If the scope is another one, or the image too small for the network.
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
        kernels += _tail(spec, math.prod(at), num_classes)
    return kernels


def output_size(block: BlockSpec, size: tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) of a block's output for the (height, width) of its input."""
    return block.output_size(size)


def _conv(name: str, shape: ConvShape, act: str | None, residual: bool = False) -> list[Kernel]:
    """A convolution without bias, with batch norm, and its activation where that is a kernel."""
    made = shape.out_chs * shape.positions
    conv = convolution(name, shape, 2 * shape.out_chs, made if residual else 0)
    if act is None or act in FREE_ACTIVATIONS:
        return [conv]
    return [conv, _elementwise(f"{name}.act", made, made, shape.positions)]


def _elementwise(name: str, reads: int, writes: int, positions: int) -> Kernel:
    return Kernel(kind="elementwise", name=name, positions=positions, reads=reads, writes=writes)


def _pool(name: str, chs: int, positions: int) -> Kernel:
    return Kernel(
        kind="pool", name=name, in_chs=chs, out_chs=chs, reads=chs * positions, writes=chs
    )


def _pointwise(in_chs: int, out_chs: int, positions: int) -> ConvShape:
    return ConvShape(in_chs=in_chs, out_chs=out_chs, in_positions=positions, positions=positions)


def block_kernels(block: BlockSpec, at: tuple[int, int], name: str = "block") -> list[Kernel]:
    """Returns the kernels of one block.

    Args:
        block: The block.
        at: Height and width of its input.
        name: Path of the block in the network.
    """
    kind, out = block.kind_info, output_size(block, at)
    chs, mid_chs = block.spatial_chs
    before, after = math.prod(at), math.prod(out)
    kernels = []
    if kind.has_expand:
        kernels += _conv(f"{name}.expand", _pointwise(block.in_chs, chs, before), block.act)
    spatial = ConvShape(
        in_chs=chs,
        out_chs=mid_chs,
        taps=block.kernel**2,
        groups=chs if kind.is_depthwise else 1,
        in_positions=before,
        positions=after,
    )
    kernels += _conv(f"{name}.spatial", spatial, block.act)
    kernels += _squeeze_excite(f"{name}.se", block, mid_chs, after)
    if kind.has_project:
        shape = _pointwise(mid_chs, block.out_chs, after)
        kernels += _conv(f"{name}.project", shape, None, block.has_residual)
    return kernels


def _squeeze_excite(name: str, block: BlockSpec, chs: int, positions: int) -> list[Kernel]:
    """Pool, two fully connected layers with biases, and the scaling with its sigmoid."""
    if not block.se:
        return []
    fc = [
        convolution(f"{name}.fc{i}", ConvShape(in_chs=m, out_chs=n), params=n)
        for i, (m, n) in enumerate(((chs, block.se), (block.se, chs)), 1)
    ]
    if block.act not in FREE_ACTIVATIONS:
        fc.insert(1, _elementwise(f"{name}.act", block.se, block.se, 1))
    scale = _elementwise(f"{name}.scale", chs * positions + chs, chs * positions, positions)
    return [_pool(f"{name}.pool", chs, positions), *fc, scale]


def _tail(spec: ArchSpec, positions: int, num_classes: int) -> list[Kernel]:
    width = spec.tail.width
    kernels = _conv("conv_head", _pointwise(spec.blocks[-1].out_chs, width, positions), "relu")
    kernels.append(_pool("global_pool", width, positions))
    if spec.tail.hidden:
        hidden = ConvShape(in_chs=width, out_chs=spec.tail.hidden)
        kernels.append(convolution("pre_logits", hidden, params=0))
        width = spec.tail.hidden
    if num_classes:
        classifier = ConvShape(in_chs=width, out_chs=num_classes)
        kernels.append(convolution("classifier", classifier, params=num_classes))
    return kernels

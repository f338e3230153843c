"""What a device runs: fused inference kernels, and the list of them that an ArchSpec stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prunet_det.arch.spec import ArchSpec, BlockSpec
from prunet_det.latency.fusion import ENGINE, Fusion, Step
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


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One launch: a convolution with what a runtime fuses into it, or something else.

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
        params: Parameters of the modules; a convolution has those of its batch norm.
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


_IMAGE_CHS = 4  # Convolutions of so few channels have kernels of their own.


def padded_convolution(
    name: str, shape: ConvShape, params: int, extra_reads: int, fusion: Fusion
) -> list[Kernel]:
    """Returns the kernel of a convolution after those that pad its input and weights, if any.

    Args:
        name: As for `convolution`.
        shape: As for `convolution`.
        params: As for `convolution`.
        extra_reads: As for `convolution`.
        fusion: Which channels the runtime pads.
    """
    kernel = convolution(name, shape, params, extra_reads)
    chs = shape.in_chs
    padded = fusion.multiple * math.ceil(chs / fusion.multiple)
    if padded == chs or chs <= _IMAGE_CHS or shape.groups > 1:
        return [kernel]
    before = [
        _copy(f"{name}.pad_input", chs * shape.in_positions, padded * shape.in_positions),
        _copy(f"{name}.pad_weight", kernel.weights, kernel.weights // chs * padded),
    ]
    return [*before, kernel]


def _copy(name: str, reads: int, writes: int) -> Kernel:
    return Kernel(kind="copy", name=name, reads=reads, writes=writes)


def with_steps(
    name: str, shape: ConvShape, params: int, steps: Sequence[Step], fusion: Fusion
) -> list[Kernel]:
    """Returns the kernels of a convolution and of the element-wise steps after it.

    Args:
        name: As for `convolution`.
        shape: As for `convolution`.
        params: As for `convolution`.
        steps: What follows the convolution.
        fusion: Which of it is in the convolution's kernel.
    """
    inside, after = fusion.split(steps)
    extra = sum(step.extra for step in inside)
    kernels = padded_convolution(name, shape, params, extra, fusion)
    made = shape.out_chs * shape.positions
    for group in after:
        reads, last = made + sum(step.extra for step in group), group[-1]
        made = last.chs * last.positions
        kernels.append(elementwise(f"{name}.{last.op}", reads, made, last.positions))
    return kernels


def elementwise(name: str, reads: int, writes: int, positions: int) -> Kernel:
    """Returns a kernel that computes each output from one element of each input.

    Args:
        name: Path of the module in the network.
        reads: Elements that are read.
        writes: Elements that are written.
        positions: Height times width of the output.
    """
    return Kernel(kind="elementwise", name=name, positions=positions, reads=reads, writes=writes)


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


def input_kernels(in_chs: int, positions: int, fusion: Fusion = ENGINE) -> list[Kernel]:
    """Returns the kernel that brings an image to channels-last, padded to eight channels, if any.

    Args:
        in_chs: Channels of the image.
        positions: Height times width of the image.
        fusion: What the runtime fuses, and whether it has this kernel.
    """
    if not fusion.layout:
        return []
    padded = 8 * math.ceil(in_chs / 8)
    layout = Kernel(
        kind="layout",
        name="input",
        in_chs=in_chs,
        out_chs=in_chs,
        positions=positions,
        reads=in_chs * positions,
        writes=padded * positions,
    )
    return [layout]


def spec_kernels(
    spec: ArchSpec,
    size: int | tuple[int, int],
    scope: Scope | str = Scope.BACKBONE,
    padding: str | None = None,
    num_classes: int = 1000,
    fusion: Fusion = ENGINE,
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
        fusion: What the runtime fuses; by default what TensorRT does.

    Raises:
        InputError: If the scope is another one, or the image too small for the network.
    """
    scope = Scope(scope)
    if scope not in (Scope.CLASSIFIER, Scope.BACKBONE):
        raise InputError(f"scope must be classifier or backbone here, got {scope}.")
    padding = padding or ("published" if scope is Scope.CLASSIFIER else "same")
    at = (size, size) if isinstance(size, int) else size
    kernels = input_kernels(3, at[0] * at[1], fusion)
    named = [(f"stem.{i}", block) for i, block in enumerate(spec.stem.blocks())]
    named += [
        (f"stages.{i}.{j}", block)
        for i, stage in enumerate(spec.stages)
        for j, block in enumerate(stage.blocks)
    ]
    for name, block in named:
        block = block if padding == "published" else block.padded()
        out = block.output_size(at)
        if min(out) < 1:
            raise InputError(
                f"an image of {size} px is too small for {spec.name}: nothing is left of it at "
                f"{name}."
            )
        kernels += block_kernels(block, at, name, fusion)
        at = out
    if scope is Scope.CLASSIFIER:
        kernels += _tail(spec, math.prod(at), num_classes, fusion)
    return kernels


def _conv(
    name: str, shape: ConvShape, act: str | None, fusion: Fusion, residual: bool = False
) -> list[Kernel]:
    """A convolution without a bias of its own, with batch norm, activation and residual."""
    out = (shape.out_chs, shape.positions)
    steps = [Step("bias", *out)]
    if act:
        steps.append(Step(act, *out))
    if residual:
        steps.append(Step("add", *out, math.prod(out)))
    return with_steps(name, shape, 2 * shape.out_chs, steps, fusion)


def pool(name: str, chs: int, positions: int) -> Kernel:
    """Returns the kernel of a mean over all positions.

    Args:
        name: Path of the module in the network.
        chs: Channels.
        positions: Height times width of the input.
    """
    return Kernel(
        kind="pool", name=name, in_chs=chs, out_chs=chs, reads=chs * positions, writes=chs
    )


def _pointwise(in_chs: int, out_chs: int, positions: int) -> ConvShape:
    return ConvShape(in_chs=in_chs, out_chs=out_chs, in_positions=positions, positions=positions)


def block_kernels(
    block: BlockSpec, at: tuple[int, int], name: str = "block", fusion: Fusion = ENGINE
) -> list[Kernel]:
    """Returns the kernels of one block.

    Args:
        block: The block.
        at: Height and width of its input.
        name: Path of the block in the network.
        fusion: What the runtime fuses; by default what TensorRT does.
    """
    kind, out = block.kind_info, block.output_size(at)
    chs, mid_chs = block.spatial_chs
    before, after = math.prod(at), math.prod(out)
    kernels = []
    if kind.has_expand:
        shape = _pointwise(block.in_chs, chs, before)
        kernels += _conv(f"{name}.expand", shape, block.act, fusion)
    spatial = ConvShape(
        in_chs=chs,
        out_chs=mid_chs,
        taps=block.kernel**2,
        groups=chs if kind.is_depthwise else 1,
        in_positions=before,
        positions=after,
    )
    kernels += _conv(f"{name}.spatial", spatial, block.act, fusion)
    kernels += _squeeze_excite(f"{name}.se", block, mid_chs, after, fusion)
    if kind.has_project:
        shape = _pointwise(mid_chs, block.out_chs, after)
        kernels += _conv(f"{name}.project", shape, None, fusion, block.has_residual)
    return kernels


def _squeeze_excite(
    name: str, block: BlockSpec, chs: int, positions: int, fusion: Fusion
) -> list[Kernel]:
    """Pool, two fully connected layers with biases, and the scaling with its sigmoid."""
    if not block.se:
        return []
    reduce = [Step("bias", block.se, 1), Step(block.act, block.se, 1)]
    scale = [
        Step("bias", chs, 1),
        Step("sigmoid", chs, 1),
        Step("scale", chs, positions, chs * positions),
    ]
    fc1, fc2 = ConvShape(in_chs=chs, out_chs=block.se), ConvShape(in_chs=block.se, out_chs=chs)
    return [
        pool(f"{name}.pool", chs, positions),
        *with_steps(f"{name}.fc1", fc1, block.se, reduce, fusion),
        *with_steps(f"{name}.fc2", fc2, chs, scale, fusion),
    ]


def _tail(spec: ArchSpec, positions: int, num_classes: int, fusion: Fusion) -> list[Kernel]:
    width = spec.tail.width
    head = _pointwise(spec.blocks[-1].out_chs, width, positions)
    kernels = _conv("conv_head", head, "relu", fusion)
    kernels.append(pool("global_pool", width, positions))
    if spec.tail.hidden:
        hidden = ConvShape(in_chs=width, out_chs=spec.tail.hidden)
        relu = [Step("relu", spec.tail.hidden, 1)]
        kernels += with_steps("pre_logits", hidden, 0, relu, fusion)
        width = spec.tail.hidden
    if num_classes:
        classifier = ConvShape(in_chs=width, out_chs=num_classes)
        kernels.append(convolution("classifier", classifier, params=num_classes))
    return kernels

"""What may be chosen: a frame of stages and, for every layer, its operators and inner widths.

A network of a space is a `Shape`: for every layer an operator and an inner width, as integers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunet_det.arch.scaling import round_channels
from prunet_det.arch.spec import (
    ACTIVATIONS,
    BLOCK_KINDS,
    ArchSpec,
    BlockSpec,
    Provenance,
    StageSpec,
    StemSpec,
    TailSpec,
    kinds_with_hidden,
)
from prunet_det.utils.config import check_keys
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import digest

_SPACE_DEFAULTS: dict[str, Any] = {
    "kinds": kinds_with_hidden(),
    "kernels": (3, 5),
    "acts": ("relu",),
    "se": (False,),
    "hidden_step": 32,
    "most_expansion": 8,
    "least_expansion": 0,
    "width_factor": 1.0,
}


class SpaceError(InputError):
    """A space that makes no sense, or a network that is no point of it; the sentence says why."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """What a layer may do, its inner width left open.

    Attributes:
        kind, kernel, act: As of BlockSpec.
        se: Whether it has squeeze-and-excitation, of a quarter of the layer's input (EfficientNet).
        fixed: The one inner width that it may have; 0 leaves it to a Prunode.
    """

    kind: str
    kernel: int
    act: str = "relu"
    se: bool = False
    fixed: int = 0

    @property
    def has_hidden(self) -> bool:
        """Whether there is an inner width to choose."""
        return BLOCK_KINDS[self.kind].has_hidden

    def __str__(self) -> str:
        extra = f" {self.act}" * (self.act != "relu") + " se" * self.se
        return f"{self.kind} k{self.kernel}{extra}" + (f" x{self.fixed}" if self.fixed else "")


@dataclass(frozen=True, kw_only=True)
class LayerSpace:
    """One layer's choices.

    Attributes:
        stage, index: Its place.
        in_chs, out_chs, stride: Fixed by the frame.
        operators: At least one.
        widths: Inner widths, increasing, for all operators that have one.
        skippable: Whether the layer may be left out.
    """

    stage: int
    index: int
    in_chs: int
    out_chs: int
    stride: int
    operators: tuple[Operator, ...]
    widths: tuple[int, ...]
    skippable: bool

    @property
    def name(self) -> str:
        """Such as 2.1: stage and place in it."""
        return f"{self.stage}.{self.index}"

    def widths_of(self, operator: Operator) -> tuple[int, ...]:
        """The inner widths that an operator may have; (0,) where it has none."""
        if not operator.has_hidden:
            return (0,)
        return (operator.fixed,) if operator.fixed else self.widths

    def block(self, operator: Operator, hidden: int) -> BlockSpec:
        """The layer with an operator and an inner width."""
        return BlockSpec(
            operator.kind,
            self.in_chs,
            self.out_chs,
            kernel=operator.kernel,
            stride=self.stride,
            hidden=hidden,
            act=operator.act,
            se=_squeezed(self.in_chs) if operator.se else 0,
        )

    def indices_of(self, block: BlockSpec) -> tuple[int, int]:
        """Indices of the operator and of the inner width that a block has.

        Raises:
            SpaceError: The layer cannot be this block.
        """
        for i, operator in enumerate(self.operators):
            widths = self.widths_of(operator)
            if block.hidden in widths and self.block(operator, block.hidden) == block.padded():
                return i, widths.index(block.hidden)
        raise SpaceError(
            f"layer {self.name} of the space ({self.in_chs}->{self.out_chs}, stride {self.stride}) "
            f"cannot be {block.kind} k{block.kernel} {block.in_chs}->{block.out_chs} with inner "
            f"width {block.hidden}."
        )


def _squeezed(in_chs: int) -> int:
    return max(1, in_chs // 4)


@dataclass(frozen=True, eq=False)
class Shape:
    """A network of a space as integers; equal to any other one of the same integers.

    Attributes:
        operators: Index of each layer's operator in `LayerSpace.operators`, (layers,); -1 where the
            layer is left out.
        widths: Index of each layer's inner width in `LayerSpace.widths_of`, (layers,); 0 where it
            has none.
    """

    operators: np.ndarray
    widths: np.ndarray

    def __post_init__(self) -> None:
        for name in ("operators", "widths"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64))

    @property
    def key(self) -> tuple[int, ...]:
        """The integers, operators first: what tells shapes of one space apart."""
        return (*self.operators.tolist(), *self.widths.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def to_dict(self) -> dict[str, list[int]]:
        """The shape as JSON values; `Shape(**values)` is the same shape."""
        return {"operators": self.operators.tolist(), "widths": self.widths.tolist()}


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A frame and its layers.

    Attributes:
        stem, tail: Widths of the stem's convolution and of the 1x1 convolution before the pooling.
        act: Activation of the stem.
        depths: Greatest number of layers of each stage.
        layers: In order.
    """

    stem: int
    tail: int
    depths: tuple[int, ...]
    layers: tuple[LayerSpace, ...]
    act: str = "relu"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SearchSpace:
        """Builds a space from a config's `space`.

        Args:
            config: `stem`, `tail`, `stages` (dicts of width, depth, stride and, where they differ
                from the space's own, kinds, first_kinds of its first layer, kernels), `kinds`,
                `kernels`, `acts`, `se` (any of False and True), `hidden_step`, and
                `least_expansion` and `most_expansion` of the inner widths, `width_factor` on all
                outer widths.

        Raises:
            SpaceError: An unknown or missing key, or an impossible value.
        """
        known = [*_SPACE_DEFAULTS, "stem", "tail", "stages"]
        check_keys(config, known, ("stem", "tail", "stages"), "the space", SpaceError)
        options = {**_SPACE_DEFAULTS, **config}
        stages, factor = options["stages"], options["width_factor"]
        for key, least in (("hidden_step", 1), ("most_expansion", 1), ("least_expansion", 0)):
            if not isinstance(options[key], int) or options[key] < least:
                raise SpaceError(f"the space's {key} must be an integer >= {least}.")
        if options["least_expansion"] > options["most_expansion"]:
            raise SpaceError("the space's least_expansion must not be above its most_expansion.")
        if not 0 < factor <= 16 or not stages:
            raise SpaceError("a space needs stages and a width_factor in (0, 16].")
        chs = stem = round_channels(options["stem"], factor)
        layers: list[LayerSpace] = []
        for i, stage in enumerate(stages):
            layers += _stage_layers(i, stage, chs, options)
            chs = layers[-1].out_chs
        return cls(
            stem=stem,
            tail=round_channels(options["tail"], factor),
            depths=tuple(stage["depth"] for stage in stages),
            layers=tuple(layers),
            act=options["acts"][0],
        )

    @property
    def hash(self) -> str:
        """A digest of everything that defines the space."""
        return digest(dataclasses.asdict(self))

    @property
    def log10_size(self) -> float:
        """How many networks there are, as a power of ten."""
        counts = (
            layer.skippable + sum(len(layer.widths_of(operator)) for operator in layer.operators)
            for layer in self.layers
        )
        return sum(map(math.log10, counts))

    def layer_sizes(self, input_size: int) -> list[tuple[int, int]]:
        """Height and width of every layer's input."""
        at, sizes = self.stem_block().output_size((input_size, input_size)), []
        for layer in self.layers:
            sizes.append(at)
            operator = layer.operators[0]
            at = layer.block(operator, layer.widths_of(operator)[0]).output_size(at)
        return sizes

    @property
    def stem_spec(self) -> StemSpec:
        """The stem of all networks."""
        return StemSpec((self.stem,), self.act)

    def stem_block(self) -> BlockSpec:
        """The stem's convolution as a block."""
        return self.stem_spec.blocks()[0]

    def to_spec(self, shape: Shape, name: str, provenance: Provenance, size: int) -> ArchSpec:
        """A network as an ArchSpec.

        Args:
            shape: The network.
            name, provenance: Name and provenance of the spec.
            size: Side of the images that it is for.
        """
        stages: list[list[BlockSpec]] = [[] for _ in self.depths]
        for layer, i, width in zip(self.layers, shape.operators, shape.widths, strict=True):
            if i >= 0:
                operator = layer.operators[i]
                block = layer.block(operator, layer.widths_of(operator)[width])
                stages[layer.stage].append(block)
        return ArchSpec(
            name=name,
            stem=self.stem_spec,
            stages=tuple(StageSpec(tuple(blocks)) for blocks in stages),
            tail=TailSpec(self.tail),
            provenance=provenance,
            input_size=size,
        )

    def shape_of(self, spec: ArchSpec) -> Shape:
        """The point of the space that a spec is; layers are left out at the ends of stages.

        Raises:
            SpaceError: It is none.
        """
        if (spec.stem, spec.tail) != (self.stem_spec, TailSpec(self.tail)):
            raise SpaceError(f"{spec.name} has another stem or tail than the space.")
        depths = tuple(len(stage.blocks) for stage in spec.stages)
        fits = len(depths) == len(self.depths)
        if not fits or any(own > most for own, most in zip(depths, self.depths, strict=True)):
            raise SpaceError(
                f"the stages of {spec.name} have {depths} layers, those of the space "
                f"{self.depths} at most."
            )
        shape = Shape(np.full(len(self.layers), -1), np.zeros(len(self.layers)))
        for i, layer in enumerate(self.layers):
            if layer.index < depths[layer.stage]:
                block = spec.stages[layer.stage].blocks[layer.index]
                shape.operators[i], shape.widths[i] = layer.indices_of(block)
        return shape


def _stage_layers(
    index: int, stage: Mapping[str, Any], chs: int, options: Mapping[str, Any]
) -> Iterator[LayerSpace]:
    known = ("width", "depth", "stride", "kinds", "first_kinds", "kernels")
    check_keys(stage, known, ("width", "depth"), f"stage {index} of the space", SpaceError)
    if stage["depth"] < 1 or stage["width"] < 1 or stage.get("stride", 1) not in (1, 2):
        raise SpaceError(f"stage {index} of the space needs depth >= 1, width >= 1, stride 1 or 2.")
    kinds = tuple(stage.get("kinds", options["kinds"]))
    out_chs = round_channels(stage["width"], options["width_factor"])
    for j in range(stage["depth"]):
        own = tuple(stage.get("first_kinds", kinds)) if j == 0 else kinds
        operators = tuple(_operators(index, own, stage, options))
        step, squeezed = options["hidden_step"], any(operator.se for operator in operators)
        least = max(1, squeezed * _squeezed(chs), options["least_expansion"] * chs)
        first = -(-least // step) * step
        yield LayerSpace(
            stage=index,
            index=j,
            in_chs=chs,
            out_chs=out_chs,
            stride=stage.get("stride", 1) if j == 0 else 1,
            operators=operators,
            widths=tuple(range(first, max(options["most_expansion"] * chs, first) + 1, step)),
            skippable=j > 0,
        )
        chs = out_chs


def _operators(
    index: int, kinds: Sequence[str], stage: Mapping[str, Any], options: Mapping[str, Any]
) -> Iterator[Operator]:
    for what, values, known in (
        ("kinds", kinds, tuple(BLOCK_KINDS)),
        ("acts", options["acts"], ACTIVATIONS),
        ("se", options["se"], (False, True)),
    ):
        if not values or any(value not in known for value in values):
            raise SpaceError(
                f"stage {index} of the space: {what} must be of {', '.join(map(str, known))}, got "
                f"{list(values)}."
            )
    kernels = tuple(stage.get("kernels", options["kernels"]))
    if not kernels or any(not isinstance(k, int) or k < 1 or k % 2 == 0 for k in kernels):
        raise SpaceError(f"stage {index} of the space: kernels must be odd, got {list(kernels)}.")
    for kind in kinds:
        for kernel in kernels:
            for act in options["acts"]:
                for se in options["se"] if BLOCK_KINDS[kind].has_hidden else (False,):
                    yield Operator(kind=kind, kernel=kernel, act=act, se=se)

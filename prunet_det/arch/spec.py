"""Specs of networks: frozen dataclasses of integers, read from and written to JSON, and checked.

An ArchSpec is a stem, stages of blocks and a tail. The zoo, the search or a user with an editor
make one; the network and the latency model use it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from prunet_det.utils.config import field_values, from_mapping
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import digest, read_json, write_text
from prunet_det.utils.plots import PALETTE

if TYPE_CHECKING:
    from prunet_det.arch.network import ArchNet

SCHEMA_VERSION = 1
ACTIVATIONS = ("relu", "silu")
PADDINGS = ("same", "valid")
PROVENANCE_KINDS = {
    "published": ("source",),
    "searched": ("command", "budget", "seed", "data"),
    "hand-written": ("reason",),
}


@dataclass(frozen=True, kw_only=True)
class BlockKind:
    """Kind of block: which steps it has, and how figures show it.

    The steps are a 1x1 convolution that expands, a kxk convolution, and a 1x1 convolution that
    projects. Each has a batch norm, and all but the last an activation.

    Attributes:
        name: Value of `kind` in specs, latency tables and search configs.
        title: Name in figures.
        colour: Colour in figures, #RRGGBB; one of `prunet_det.utils.plots.PALETTE`.
        has_expand: Whether the block begins with a 1x1 convolution to its inner width.
        is_depthwise: Whether the kxk convolution has one group per channel.
        has_project: Whether the block ends with a 1x1 convolution. Such a block has a residual
            where its input and its output have the same shape.
    """

    name: str
    title: str
    colour: str
    has_expand: bool = False
    is_depthwise: bool = False
    has_project: bool = False

    @property
    def has_hidden(self) -> bool:
        """Whether the block has an inner width besides those of its input and output."""
        return self.has_expand or (self.has_project and not self.is_depthwise)


BLOCK_KINDS: dict[str, BlockKind] = {
    kind.name: kind
    for kind in (
        BlockKind(name="conv", title="conv", colour=PALETTE["sky"]),
        BlockKind(
            name="irb",
            title="inverted residual",
            colour=PALETTE["green"],
            has_expand=True,
            is_depthwise=True,
            has_project=True,
        ),
        BlockKind(
            name="fused_irb",
            title="fused inverted residual",
            colour=PALETTE["orange"],
            has_project=True,
        ),
    )
}


def kinds_with_hidden() -> tuple[str, ...]:
    """Lists the names of the kinds that have an inner width."""
    return tuple(name for name, kind in BLOCK_KINDS.items() if kind.has_hidden)


class SpecError(InputError):
    """A spec that describes no network; the message says what is wrong and where."""


def _check_int(where: str, key: str, value: Any, minimum: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise SpecError(f"{where}: {key} must be an integer of at least {minimum}, got {value!r}.")


def _check_choice(where: str, key: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SpecError(f"{where}: {key} must be one of {', '.join(choices)}, got {value!r}.")


@dataclass(frozen=True)
class BlockSpec:
    """Block of a network.

    Attributes:
        kind: Key of BLOCK_KINDS: `conv` (one convolution), `irb` (inverted residual: 1x1 expand,
            kxk depthwise, 1x1 project) or `fused_irb` (dense kxk expand, 1x1 project).
        in_chs: Number of input channels.
        out_chs: Number of output channels.
        kernel: Side of the kxk convolution, odd.
        stride: Stride of the kxk convolution, 1 or 2.
        hidden: Inner width in channels; 0 for a kind that has none.
        act: Activation, `relu` or `silu`.
        se: Width of the squeeze in squeeze-and-excitation, in channels, at most `hidden`; 0 for no
            squeeze-and-excitation.
        padding: Padding of the kxk convolution, `same` (kernel // 2 on each side) or `valid` (none;
            in the published GPUNets where a fused_irb has stride 2).

    Raises:
        SpecError: If a value is impossible, or does not fit the others.
    """

    kind: str
    in_chs: int
    out_chs: int
    _: KW_ONLY
    kernel: int = 3
    stride: int = 1
    hidden: int = 0
    act: str = "relu"
    se: int = 0
    padding: str = "same"

    def __post_init__(self) -> None:
        where = f"block {self.kind} {self.in_chs}->{self.out_chs}"
        _check_choice(where, "kind", self.kind, tuple(BLOCK_KINDS))
        _check_choice(where, "act", self.act, ACTIVATIONS)
        _check_choice(where, "padding", self.padding, PADDINGS)
        for key in ("in_chs", "out_chs", "kernel"):
            _check_int(where, key, getattr(self, key))
        if self.kernel % 2 == 0:
            raise SpecError(f"{where}: kernel must be odd, got {self.kernel}.")
        if self.stride not in (1, 2) or isinstance(self.stride, bool):
            raise SpecError(f"{where}: stride must be 1 or 2, got {self.stride!r}.")
        _check_int(where, "se", self.se, minimum=0)
        _check_int(where, "hidden", self.hidden, minimum=int(self.has_hidden))
        if not self.has_hidden and (self.hidden or self.se):
            raise SpecError(
                f"{where}: a {self.kind} block has no hidden width and no se; leave them out."
            )
        if self.se > self.hidden:
            raise SpecError(f"{where}: se ({self.se}) is wider than hidden ({self.hidden}).")
        if self.padding == "valid" and self.stride == 1:
            raise SpecError(f"{where}: padding 'valid' is for strided blocks only.")

    @property
    def kind_info(self) -> BlockKind:
        """What all blocks of this kind have in common."""
        return BLOCK_KINDS[self.kind]

    @property
    def has_hidden(self) -> bool:
        """Whether the block has an inner width besides those of its input and output."""
        return self.kind_info.has_hidden

    @property
    def spatial_chs(self) -> tuple[int, int]:
        """Numbers of input and output channels of the kxk convolution."""
        kind = self.kind_info
        chs = self.hidden if kind.has_expand else self.in_chs
        if kind.is_depthwise:
            return chs, chs
        return chs, self.hidden if kind.has_hidden else self.out_chs

    @property
    def has_residual(self) -> bool:
        """Whether the block adds its input to its output."""
        return self.kind_info.has_project and self.stride == 1 and self.in_chs == self.out_chs

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns (height, width) of the output for the (height, width) of the input."""
        if self.stride > 1 and self.padding == "valid":
            height, width = ((s - self.kernel) // self.stride + 1 for s in size)
        else:
            height, width = (-(-s // self.stride) for s in size)
        return height, width

    def padded(self) -> BlockSpec:
        """Returns the block as networks that are built with `padding="same"` have it."""
        return self if self.padding == "same" else dataclasses.replace(self, padding="same")

    def to_dict(self) -> dict[str, Any]:
        """Returns the block as JSON values, without the fields that are at their defaults."""
        values = ((f, getattr(self, f.name)) for f in dataclasses.fields(self))
        return {f.name: value for f, value in values if value != f.default}


@dataclass(frozen=True)
class StemSpec:
    """First convolutions of a network, all 3x3: one of stride 2, any further ones of stride 1.

    Attributes:
        widths: Number of output channels of each convolution; at least one.
        act: Activation, `relu` or `silu`.

    Raises:
        SpecError: If there is no width, or an impossible value.
    """

    widths: tuple[int, ...]
    act: str = "relu"

    def __post_init__(self) -> None:
        if not self.widths:
            raise SpecError("stem: widths is empty; give at least one width.")
        for width in self.widths:
            _check_int("stem", "width", width)
        _check_choice("stem", "act", self.act, ACTIVATIONS)

    def blocks(self, in_chans: int = 3) -> tuple[BlockSpec, ...]:
        """Returns the stem's convolutions as blocks, for images of `in_chans` channels."""
        pairs = enumerate(pairwise((in_chans, *self.widths)))
        return tuple(
            BlockSpec("conv", a, b, stride=2 if i == 0 else 1, act=self.act) for i, (a, b) in pairs
        )


@dataclass(frozen=True)
class StageSpec:
    """Stage: consecutive blocks.

    Attributes:
        blocks: Blocks in order, at least one; each has the input channels that the one before it
            gives.

    Raises:
        SpecError: If there is no block, or channels do not fit.
    """

    blocks: tuple[BlockSpec, ...]

    def __post_init__(self) -> None:
        if not self.blocks:
            raise SpecError("a stage without blocks; remove the stage or give it a block.")
        for a, b in pairwise(self.blocks):
            if a.out_chs != b.in_chs:
                raise SpecError(
                    f"a block that gives {a.out_chs} channels is followed by one that takes "
                    f"{b.in_chs}; the two must be equal."
                )

    @property
    def stride(self) -> int:
        """Stride of the stage: the product of its blocks' strides."""
        product = 1
        for block in self.blocks:
            product *= block.stride
        return product


@dataclass(frozen=True)
class TailSpec:
    """Layers of a classifier after its stages.

    They are a 1x1 convolution with batch norm and ReLU, pooling, optionally another 1x1 convolution
    with ReLU (no bias, no batch norm), and a linear layer.

    Attributes:
        width: Number of output channels of the convolution before the pooling.
        hidden: Number of output channels of the convolution after the pooling; 0 for none.

    Raises:
        SpecError: If a width is impossible.
    """

    width: int
    hidden: int = 0

    def __post_init__(self) -> None:
        _check_int("tail", "width", self.width)
        _check_int("tail", "hidden", self.hidden, minimum=0)


@dataclass(frozen=True)
class Provenance:
    """Origin of a network.

    Attributes:
        kind: `published`, `searched` or `hand-written`.
        details: JSON values; a published network has at least `source`, a searched one `command`,
            `budget`, `seed` and `data`, a hand-written one `reason`.

    Raises:
        SpecError: If the kind is unknown or a detail is missing.
    """

    kind: str
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check_choice("provenance", "kind", self.kind, tuple(PROVENANCE_KINDS))
        if not isinstance(self.details, Mapping):
            raise SpecError(f"provenance: details must be an object, got {self.details!r}.")
        missing = [key for key in PROVENANCE_KINDS[self.kind] if key not in self.details]
        if missing:
            raise SpecError(
                f"provenance: a {self.kind} network must say its {', '.join(missing)} in details."
            )


@dataclass(frozen=True, kw_only=True)
class ArchSpec:
    """Architecture of a network as data.

    Attributes:
        name: Name of the network.
        stem: First convolutions.
        stages: Stages in order, at least one.
        tail: Layers of the classifier.
        provenance: Origin of the network.
        input_size: Side of the square images that the network was designed for, in pixels.
        crop_pct: Fraction of the resized image that evaluation crops to, 0..1.
        bn_eps: Epsilon of every batch norm.

    Raises:
        SpecError: If a value is impossible, or channels do not fit.
    """

    name: str
    stem: StemSpec
    stages: tuple[StageSpec, ...]
    tail: TailSpec
    provenance: Provenance
    input_size: int = 224
    crop_pct: float = 0.875
    bn_eps: float = 1e-3

    def __post_init__(self) -> None:
        where = f"network {self.name!r}"
        if not isinstance(self.name, str) or not self.name:
            raise SpecError("a network needs a name.")
        if "/" in self.name or "\\" in self.name:
            raise SpecError(f"{where}: its name becomes that of files, without / and \\.")
        _check_int(where, "input_size", self.input_size)
        for key, low, high in (("crop_pct", 0.0, 1.0), ("bn_eps", 0.0, 1.0)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise SpecError(f"{where}: {key} must be a number, got {value!r}.")
            if not low < value <= high:
                raise SpecError(f"{where}: {key} must lie in ({low}, {high}], got {value}.")
        if not self.stages:
            raise SpecError(f"{where}: it has no stages.")
        chs = self.stem.widths[-1]
        for i, stage in enumerate(self.stages):
            if stage.blocks[0].in_chs != chs:
                raise SpecError(
                    f"{where}: stage {i} takes {stage.blocks[0].in_chs} channels but what comes "
                    f"before it gives {chs}."
                )
            chs = stage.blocks[-1].out_chs

    @property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """Blocks of all stages, in order."""
        return tuple(block for stage in self.stages for block in stage.blocks)

    @property
    def digest(self) -> str:
        """Digest of stem, stages and tail, whatever the name: 16 hexadecimal digits."""
        data = self.to_dict()
        return digest({key: data[key] for key in ("stem", "stages", "tail")})

    def strides(self) -> tuple[int, ...]:
        """Returns the stride of each stage's output, relative to the image."""
        total, out = 2, []
        for stage in self.stages:
            total *= stage.stride
            out.append(total)
        return tuple(out)

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns (height, width) of the last map for the (height, width) of the image."""
        for block in (*self.stem.blocks(), *self.blocks):
            size = block.output_size(size)
        return size

    def feature_stages(self) -> Iterator[tuple[int, int, int]]:
        """Yields (index, number of channels, stride) of the last stage at each stride."""
        strides = self.strides()
        for i, (stage, stride) in enumerate(zip(self.stages, strides, strict=True)):
            if i + 1 == len(strides) or strides[i + 1] != stride:
                yield i, stage.blocks[-1].out_chs, stride

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as JSON values, without fields of blocks that are at their defaults."""
        return {
            "schema": SCHEMA_VERSION,
            "name": self.name,
            "input_size": self.input_size,
            "crop_pct": self.crop_pct,
            "bn_eps": self.bn_eps,
            "stem": {"widths": list(self.stem.widths), "act": self.stem.act},
            "stages": [{"blocks": [b.to_dict() for b in stage.blocks]} for stage in self.stages],
            "tail": dataclasses.asdict(self.tail),
            "provenance": {
                "kind": self.provenance.kind,
                "details": dict(self.provenance.details),
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ArchSpec:
        """Builds a spec from the JSON values that `to_dict` gives.

        Raises:
            SpecError: If a key is unknown or missing, the schema is another, or no network is
                described.
        """
        if not isinstance(data, Mapping):
            raise SpecError(f"a spec is an object with keys, got {type(data).__name__}.")
        data = dict(data)
        version = data.pop("schema", None)
        if version != SCHEMA_VERSION:
            raise SpecError(
                f"schema {version!r} is not known; this prunet_det reads schema {SCHEMA_VERSION}."
            )
        kwargs = field_values(cls, data, "spec", SpecError)
        stem = field_values(StemSpec, kwargs["stem"], "stem", SpecError)
        kwargs["stem"] = StemSpec(**{**stem, "widths": _as_tuple("stem.widths", stem["widths"])})
        stages = []
        for i, stage in enumerate(_as_tuple("stages", kwargs["stages"])):
            blocks = field_values(StageSpec, stage, f"stage {i}", SpecError)["blocks"]
            stages.append(_read_stage(i, _as_tuple(f"stage {i}: blocks", blocks)))
        kwargs["stages"] = tuple(stages)
        kwargs["tail"] = from_mapping(TailSpec, kwargs["tail"], "tail", SpecError)
        kwargs["provenance"] = from_mapping(
            Provenance, kwargs["provenance"], "provenance", SpecError
        )
        return cls(**kwargs)

    def to_json(self) -> str:
        """Returns the spec as JSON text with one line per block, easy to read and to diff."""
        data = self.to_dict()
        stages = data.pop("stages")
        head = json.dumps(data, indent=1)[:-2]  # without the closing brace
        lines = [
            '  {"blocks": [\n'
            + ",\n".join("   " + json.dumps(b) for b in stage["blocks"])
            + "\n  ]}"
            for stage in stages
        ]
        return head + ',\n "stages": [\n' + ",\n".join(lines) + "\n ]\n}\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the spec to a JSON file, atomically."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ArchSpec:
        """Reads a spec from a JSON file.

        Raises:
            FileNotFoundError: If there is no such file.
            SpecError: If the file is not JSON or not a spec; the message names the file.
        """
        data = read_json(path, "spec file", SpecError)
        try:
            return cls.from_dict(data)
        except SpecError as e:
            raise SpecError(f"{os.fspath(path)}: {e}") from e

    def build(self, **kwargs: Any) -> ArchNet:
        """Builds the network, an ArchNet with these keyword arguments."""
        from prunet_det.arch.network import ArchNet

        return ArchNet(self, **kwargs)


def _as_tuple(where: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise SpecError(f"{where}: expected a list, got {type(value).__name__}.")
    return tuple(value)


def _read_stage(index: int, blocks: tuple[Any, ...]) -> StageSpec:
    try:
        read = (
            from_mapping(BlockSpec, block, f"block {j}", SpecError)
            for j, block in enumerate(blocks)
        )
        return StageSpec(tuple(read))
    except SpecError as e:
        raise SpecError(f"stage {index}: {e}") from e

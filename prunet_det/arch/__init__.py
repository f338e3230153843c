"""Architectures: specs as data, and the blocks and the network that they describe."""

from prunet_det.arch.network import ArchNet
from prunet_det.arch.spec import (
    ArchSpec,
    BlockSpec,
    Provenance,
    SpecError,
    StageSpec,
    StemSpec,
    TailSpec,
)

__all__ = [
    "ArchNet",
    "ArchSpec",
    "BlockSpec",
    "Provenance",
    "SpecError",
    "StageSpec",
    "StemSpec",
    "TailSpec",
]

"""What a network is: its spec as data, its blocks, and the module that the spec builds."""

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

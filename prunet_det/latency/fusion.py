"""What a runtime does within a convolution's kernel, and what it launches on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prunet_det.latency.record import Conditions
from prunet_det.utils.errors import InputError


@dataclass(frozen=True)
class Step:
    """An element-wise operation after a convolution.

    Attributes:
        op: Its name: `bias` (a batch norm's or the convolution's own), `relu`, `silu`, `add` (a
            residual), ...
        chs: Channels of its output.
        positions: Height times width of its output.
        extra: Elements that it reads beside the previous step's output.
    """

    op: str
    chs: int
    positions: int
    extra: int = 0


@dataclass(frozen=True)
class Fusion:
    """Which operations a runtime puts into one kernel.

    Attributes:
        into_conv: Names of the steps that a convolution's kernel takes along.
        chains: Whether element-wise operations, each of which feeds the next alone, are one kernel.
        layout: Whether a kernel of the network brings the image into the convolutions' layout.
        multiple: Number that a convolution's input channels are a multiple of; where they are not,
            one kernel pads the input and another the weights. 1 where nothing needs padding.
    """

    into_conv: frozenset[str]
    chains: bool
    layout: bool = False
    multiple: int = 1

    def split(self, steps: Sequence[Step]) -> tuple[list[Step], list[list[Step]]]:
        """Divides the steps after a convolution into those of its kernel and those of each other.

        Args:
            steps: The steps in order.
        """
        inside = 0
        while inside < len(steps) and steps[inside].op in self.into_conv:
            inside += 1
        after = list(steps[inside:])
        kernels = [after] if self.chains and after else [[step] for step in after]
        return list(steps[:inside]), kernels


# TensorRT and ONNX Runtime.
ENGINE = Fusion(frozenset({"bias", "relu", "add"}), chains=True, layout=True)
# PyTorch launches every operation, and images are in the right layout before the clock starts. In
# eager mode the batch norm is in the bias's place.
_LAUNCHED = Fusion(frozenset(), chains=False)
_RUNTIMES = {
    "eager": _LAUNCHED,
    "channels_last": _LAUNCHED,
    "cuda_graph": _LAUNCHED,
    "compiled": Fusion(frozenset(), chains=True),
    "onnxruntime": ENGINE,
    "tensorrt": ENGINE,
}


def fusion_of(conditions: Conditions) -> Fusion:
    """Returns what the runtime of the conditions fuses.

    Raises:
        InputError: If the runtime is unknown.
    """
    fusion = _RUNTIMES.get(conditions.runtime)
    if fusion is None:
        raise InputError(
            f"there is no runtime {conditions.runtime!r}; the known ones are "
            f"{', '.join(_RUNTIMES)}."
        )
    if fusion is ENGINE:
        return fusion
    if conditions.threads:  # a CPU: oneDNN's convolution adds the bias, if it is one
        takes = frozenset() if conditions.runtime == "eager" else frozenset({"bias"})
        return replace(fusion, into_conv=takes)
    # cuDNN's tensor cores want 16 bytes of channels.
    return replace(fusion, multiple=8 if conditions.precision == "fp16" else 1)

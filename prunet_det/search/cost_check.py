"""What a supernet costs by the number of widths: Prunodes beside one candidate a width."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prunet_det.arch.blocks import Block
from prunet_det.latency.stopwatch import Task, time_interleaved
from prunet_det.search.layer import LayerMixture, Part, SearchLayer
from prunet_det.search.space import LayerSpace, Operator
from prunet_det.utils import plots
from prunet_det.utils.plots import MARKERS, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST, MOST = 10, 640  # inner widths; what lies between is divided by 3, 15 and 63
_CHS, _SIZE, _BATCH, _LAYERS = 48, 16, 16, 3
COUNTS = (4, 16, 64)
EXPLICIT_COUNTS = (4, 16, 64, 256)


class _DoesNotFit(Exception):
    """What backward keeps is larger than the memory that was allowed."""


@dataclass(frozen=True, kw_only=True)
class SupernetCost:
    """A supernet's step.

    Attributes:
        kind: `prunode` or `explicit`.
        widths: To choose from in each of its layers.
        parameters, flops: Of the supernet; of forward and backward.
        saved_mb: What the forward keeps for the backward.
        step_ms, low_ms, high_ms: Median, 10th and 90th percentile; 0 where it does not fit.
        fits: Whether it stayed within the memory allowed.
    """

    kind: str
    widths: int
    parameters: int
    flops: int = 0
    saved_mb: float
    step_ms: float = 0.0
    low_ms: float = 0.0
    high_ms: float = 0.0
    fits: bool = True


def layer_space(count: int, fixed: bool = False) -> LayerSpace:
    """A layer with `count` evenly spaced inner widths from LEAST to MOST.

    Args:
        count: 4, 16, 64, or any number; widths are rounded.
        fixed: One candidate a width, in the place of a Prunode.
    """
    step = (MOST - LEAST) / (count - 1)
    widths = tuple(dict.fromkeys(round(LEAST + step * i) for i in range(count)))
    operator = Operator(kind="irb", kernel=3)
    operators: tuple[Operator, ...] = (operator,)
    if fixed:
        operators = tuple(dataclasses.replace(operator, fixed=w) for w in widths)
    return LayerSpace(
        stage=0,
        index=1,
        in_chs=_CHS,
        out_chs=_CHS,
        stride=1,
        operators=operators,
        widths=widths,
        skippable=True,
    )


class _Net(nn.Module):
    """A few layers of one space, all in the same mixture."""

    def __init__(self, space: LayerSpace) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SearchLayer(space) for _ in range(_LAYERS))
        self.logits = nn.Parameter(torch.zeros(len(space.operators) + 1))
        self.space = space

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.space.operators) == 1:  # the pair that costs most: the two ends
            parts = [Part("0", None, (LEAST, MOST), torch.sigmoid(self.logits[-1]))]
        else:
            weights = torch.softmax(self.logits[:-1], 0).unbind()
            parts = [
                Part(str(i), weight, (o.fixed, o.fixed))
                for i, (o, weight) in enumerate(zip(self.space.operators, weights, strict=True))
            ]
        for layer in self.layers:
            x = layer(x, LayerMixture(parts))
        return x


def _images() -> torch.Tensor:
    return torch.randn(_BATCH, _CHS, _SIZE, _SIZE, generator=torch.Generator().manual_seed(0))


def step_of(net: nn.Module, images: torch.Tensor) -> Callable[[], None]:
    """Forward and backward once."""

    def run() -> None:
        net.zero_grad(set_to_none=True)
        net(images).square().mean().backward()

    return run


def saved_bytes(net: nn.Module, images: torch.Tensor, limit: float = math.inf) -> int:
    """Bytes that a forward keeps for the backward beside the parameters, each storage once.

    Raises:
        _DoesNotFit: More than `limit`.
    """
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
            if sum(seen.values()) > limit:
                raise _DoesNotFit
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        net(images).square().mean()
    return sum(seen.values())


def measure_costs(
    memory_gb: float = 4.0, seconds: float = 3.0, progress: str = "timing"
) -> list[SupernetCost]:
    """Supernets of Prunodes and explicit ones, interleaved.

    Args:
        memory_gb: What the forward of a supernet may keep.
        seconds: To spend on each.
        progress: Label of a progress bar.
    """
    images, limit = _images(), memory_gb * 2**30
    jobs = [("prunode", n) for n in COUNTS] + [("explicit", n) for n in EXPLICIT_COUNTS]
    found: list[SupernetCost] = []
    tasks: dict[int, Task] = {}
    for kind, count in jobs:
        torch.manual_seed(0)
        net = _Net(layer_space(count, kind == "explicit"))
        parameters = sum(p.numel() for p in net.layers.parameters())
        try:
            saved = saved_bytes(net, images, limit)
        except _DoesNotFit:
            found.append(
                SupernetCost(
                    kind=kind,
                    widths=count,
                    parameters=parameters,
                    saved_mb=limit / 2**20,
                    fits=False,
                )
            )
            continue
        with FlopCounterMode(display=False) as counter:
            step_of(net, images)()
        flops = counter.get_total_flops()
        tasks[len(found)] = Task(step_of(net, images))
        found.append(
            SupernetCost(
                kind=kind,
                widths=count,
                parameters=parameters,
                saved_mb=saved / 2**20,
                flops=flops,
            )
        )
    timings = time_interleaved(list(tasks.values()), seconds, progress=progress)
    for place, timing in zip(tasks, timings, strict=True):
        found[place] = dataclasses.replace(
            found[place],
            step_ms=timing.median_ms,
            low_ms=timing.percentile(10),
            high_ms=timing.percentile(90),
        )
    return found


def prunode_ratio(seconds: float = 3.0) -> float:
    """Step time of a Prunode between its two widths, of a plain block of the larger one."""
    images = _images()
    space = layer_space(64)
    plain = nn.Sequential(*(Block(space.block(space.operators[0], MOST)) for _ in range(_LAYERS)))
    tasks = [Task(step_of(net, images)) for net in (_Net(space), plain)]
    timings = time_interleaved(tasks, seconds)
    return timings[0].median_ms / timings[1].median_ms


def to_records(costs: Sequence[SupernetCost]) -> list[dict[str, Any]]:
    """One dict a row."""
    return [asdict(cost) for cost in costs]


def draw_costs(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Memory and time over the number of widths, both axes logarithmic.

    Args:
        rows: See `to_records`.
    """
    figure, panels = plots.figure(7.5, 3.2, columns=2)
    styles = {"prunode": ("Prunodes", "blue"), "explicit": ("a candidate a width", "vermilion")}
    for axis, key, label in zip(
        panels, ("saved_mb", "step_ms"), ("kept for the backward, MiB", "ms a step"), strict=True
    ):
        top = 4 * max((r[key] for r in rows if r["fits"]), default=1.0)
        for marker, (kind, (name, colour)) in zip(MARKERS, styles.items(), strict=False):
            own = [r for r in rows if r["kind"] == kind]
            fitting = [(r["widths"], r[key]) for r in own if r["fits"]] or [(math.nan, math.nan)]
            x, y = zip(*fitting, strict=True)
            axis.plot(x, y, color=PALETTE[colour], marker=marker, label=name)
            for r in own:
                if not r["fits"]:
                    axis.plot(r["widths"], top, "x", color=PALETTE[colour])
                    axis.annotate(
                        "does not fit",
                        (r["widths"], top),
                        (-5, 0),
                        textcoords="offset points",
                        ha="right",
                        va="center",
                        size=8,
                    )
        axis.set_xscale("log", base=2)
        axis.set_xticks(EXPLICIT_COUNTS, labels=map(str, EXPLICIT_COUNTS))
        plots.log_scale(axis, "y")
        axis.set(xlabel="inner widths to choose from", ylabel=label)
        axis.grid(alpha=0.25)
    panels[0].legend(frameon=False, loc="center right")
    return figure

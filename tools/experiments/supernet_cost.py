"""What a supernet's step costs by the number of widths: Prunodes beside one candidate a width.

    python tools/experiments/supernet_cost.py --out docs/results/search/supernet_cost.csv

One layer three times. A Prunode runs one of its two widths, here the widest there is; a supernet
with a candidate for each width runs the mixture of them all.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prunet_det.arch.blocks import Block
from prunet_det.latency.stopwatch import Task, time_interleaved
from prunet_det.search.space import LayerSpace, Operator
from prunet_det.search.supernet import Mixture, SearchLayer
from prunet_det.utils.env import environment
from prunet_det.utils.errors import run_tool
from prunet_det.utils.io import text_table, write_csv

NARROWEST, WIDEST = 10, 640  # inner widths; what lies between is divided by 3, 15 and 63
COUNTS = (4, 16, 64)
EXPLICIT_COUNTS = (4, 16, 64, 256)
_CHS, _SIZE, _BATCH, _LAYERS = 48, 16, 16, 3


class _DoesNotFit(Exception):
    """What backward keeps is larger than the memory that was allowed."""


@dataclass(frozen=True, kw_only=True)
class SupernetCost:
    """A supernet's step.

    Attributes:
        kind: `prunode` or `explicit`.
        widths: To choose from in each of its layers.
        parameters: Number of weights.
        flops: Floating-point operations of forward and backward.
        saved_mb: MiB that the forward keeps for the backward.
        step_ms: Median milliseconds of a step; 0 where it does not fit.
        low_ms: Their 10th percentile.
        high_ms: Their 90th percentile.
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

    @property
    def cells(self) -> list[str]:
        """A row of the printed table."""
        row = [self.kind, str(self.widths), f"{self.parameters:,}"]
        if not self.fits:
            return [*row, "-", f"over {self.saved_mb:.0f}", "does not fit"]
        spread = f"{self.step_ms:.1f} ({self.low_ms:.1f} to {self.high_ms:.1f})"
        return [*row, f"{self.flops / 1e9:.3f}", f"{self.saved_mb:.1f}", spread]


def layer_space(count: int, fixed: bool = False) -> LayerSpace:
    """A layer with `count` evenly spaced inner widths.

    Args:
        count: 4, 16, 64, or any number; widths are rounded.
        fixed: One candidate a width, in the place of a Prunode.
    """
    step = (WIDEST - NARROWEST) / (count - 1)
    widths = tuple(dict.fromkeys(round(NARROWEST + step * i) for i in range(count)))
    operators: tuple[Operator, ...] = (Operator(kind="irb", kernel=3),)
    if fixed:
        operators = tuple(dataclasses.replace(operators[0], fixed=w) for w in widths)
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


class CostNet(nn.Module):
    """A few layers of one space: a path of Prunodes, or the mixture of explicit candidates."""

    def __init__(self, space: LayerSpace) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SearchLayer(space) for _ in range(_LAYERS))
        self.space = space
        self.explicit = len(space.operators) > 1
        if self.explicit:
            self.logits = nn.Parameter(torch.zeros(_LAYERS, len(space.operators)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.explicit:
            for layer in self.layers:
                x = layer.path(x, 0, WIDEST)
            return x
        widths = np.array([[o.fixed for o in self.space.operators]] * _LAYERS)
        weights = torch.softmax(self.logits, 1)
        mixture = Mixture(weights=weights, shares=weights, small=widths, large=widths)
        for i, layer in enumerate(self.layers):
            x = layer(x, mixture, i)
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


def measure_costs(memory_gb: float, seconds: float) -> list[SupernetCost]:
    """Supernets of Prunodes and explicit ones, interleaved.

    Args:
        memory_gb: What the forward of a supernet may keep.
        seconds: To spend on each.
    """
    images, limit = _images(), memory_gb * 2**30
    jobs = [("prunode", n) for n in COUNTS] + [("explicit", n) for n in EXPLICIT_COUNTS]
    found: list[SupernetCost] = []
    tasks: dict[int, Task] = {}
    for kind, count in jobs:
        torch.manual_seed(0)
        net = CostNet(layer_space(count, kind == "explicit"))
        parameters = sum(p.numel() for p in net.layers.parameters())
        cost = SupernetCost(kind=kind, widths=count, parameters=parameters, saved_mb=limit / 2**20)
        try:
            saved = saved_bytes(net, images, limit)
        except _DoesNotFit:
            found.append(dataclasses.replace(cost, fits=False))
            continue
        with FlopCounterMode(display=False) as counter:
            step_of(net, images)()
        tasks[len(found)] = Task(step_of(net, images))
        flops = counter.get_total_flops()
        found.append(dataclasses.replace(cost, saved_mb=saved / 2**20, flops=flops))
    timings = time_interleaved(list(tasks.values()), seconds, progress="timing")
    for place, timing in zip(tasks, timings, strict=True):
        found[place] = dataclasses.replace(
            found[place],
            step_ms=timing.median_ms,
            low_ms=timing.percentile(10),
            high_ms=timing.percentile(90),
        )
    return found


def prunode_ratio(seconds: float) -> float:
    """Step time of a Prunode at its wider width, of a plain block of the same width."""
    images, space = _images(), layer_space(64)
    block = space.block(space.operators[0], WIDEST)
    plain = nn.Sequential(*(Block(block) for _ in range(_LAYERS)))
    tasks = [Task(step_of(net, images)) for net in (CostNet(space), plain)]
    timings = time_interleaved(tasks, seconds)
    return timings[0].median_ms / timings[1].median_ms


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", metavar="FILE.csv", help="also write the figures here")
    add("--memory-gb", type=float, default=4.0, help="a supernet may keep [4]")
    add("--seconds", type=float, default=3.0, help="to spend on each [3]")
    args = parser.parse_args()
    costs = measure_costs(args.memory_gb, args.seconds)
    ratio = prunode_ratio(args.seconds)
    header = ["supernet", "widths", "parameters", "GFLOPs a step", "kept MiB", "ms a step"]
    title = f"cost of a supernet's step ({environment()['machine']})"
    print(text_table(title, header, [cost.cells for cost in costs]))
    print(f"a Prunode's step costs {ratio:.2f} times a plain block's of its larger width")
    if args.out:
        records = [{**asdict(cost), "prunode_of_plain": ratio} for cost in costs]
        write_csv(args.out, records, shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    run_tool(main)

"""What one training iteration dispatches, part by part: on a GPU the host's work, held by bars.

The recipe is that of the glyphs, on prunet_s, with 16 images. Their size does not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from prunet_det.detection.transforms import padded_collate
from prunet_det.training.ema import ForeachEMA
from tests.conftest import ROOT
from tests.dispatched import Dispatched

BATCH, SIZE = 16, 128
# The most operators that a part may have.
BARS = {
    "preprocess": 12,
    "network": 600,
    "backward": 760,
    "targets and losses": 120,
    "backward of losses": 60,
    "optimizer": 300,
    "EMA": 6,
    "rest of train_step": 20,
}


def random_batch(images: int = BATCH) -> dict[str, Any]:
    """What the glyphs' data loader gives: uint8 images of two sizes, each with 0 to 4 boxes."""
    items = []
    for i in range(images):
        count, side = i % 5, (SIZE, SIZE - 28)[i % 2]
        corner = torch.rand(count, 2) * side / 2
        boxes = torch.cat([corner, corner + 4 + torch.rand(count, 2) * side / 3], dim=1)
        sample = DetDataSample(metainfo=dict(img_shape=(side, side), scale_factor=(1.0, 1.0)))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.randint(90, (count,)))
        sample.ignored_instances = sample.gt_instances[:0]
        pixels = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
        items.append(dict(inputs=pixels, data_samples=sample))
    return padded_collate(items)


class Parts:
    """Operators of each part of an iteration, by name; parts do not overlap."""

    def __init__(self) -> None:
        self.operators: dict[str, Counter[str]] = {}

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Counts what a method dispatches, as a part."""
        setattr(owner, method, self.counted(getattr(owner, method), part))

    def counted(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """Returns a function whose operators are counted as a part."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with Dispatched() as mode:
                result = function(*args, **kwargs)
            self.operators.setdefault(part, Counter()).update(mode.operators)
            return result

        return run

    def total(self, part: str) -> int:
        """Returns the number of a part's operators."""
        return self.operators[part].total()


@pytest.fixture(scope="module")
def parts() -> Parts:
    """The second iteration's operators: the first one also makes anchors and optimizer's states."""
    torch.manual_seed(0)
    cfg = Config.fromfile(ROOT / "configs" / "prunet_effdet_glyphs.py")
    cfg.model.backbone.arch = "prunet_s"
    init_default_scope("mmdet")
    model = MODELS.build(cfg.model).train()
    optim = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train_step(random_batch(), optim)

    average = ForeachEMA(model, gamma=2000)
    average.update_parameters(model)

    parts = Parts()
    parts.counted(losses_of_made_up_outputs(model), "backward of losses")()
    parts.watch(model.data_preprocessor, "forward", "preprocess")
    parts.watch(model, "extract_feat", "network")
    parts.watch(model.bbox_head, "forward", "network")
    parts.watch(model.bbox_head, "loss_by_feat", "targets and losses")
    parts.watch(optim, "backward", "backward")
    parts.watch(optim, "step", "optimizer")
    parts.watch(optim, "zero_grad", "optimizer")
    step = parts.counted(model.train_step, "train_step")
    step(random_batch(), optim)
    parts.counted(average.update_parameters, "EMA")(model)
    rest = parts.operators["train_step"].copy()
    for name in ("preprocess", "network", "targets and losses", "backward", "optimizer"):
        rest.subtract(parts.operators[name])
    parts.operators["rest of train_step"] = rest
    return parts


def losses_of_made_up_outputs(model: Any) -> Callable[[], None]:
    """Returns the backward pass of the losses alone, down to the head's outputs."""
    sizes = [(SIZE // stride, SIZE // stride) for stride in model.bbox_head.grid.strides]
    anchors = model.bbox_head.grid.per_location
    outputs = [
        [torch.randn(BATCH, anchors * n, *size, requires_grad=True) for size in sizes]
        for n in (model.bbox_head.num_classes, 4)
    ]
    gts = [sample.gt_instances for sample in random_batch()["data_samples"].samples()]
    losses = model.bbox_head.loss_by_feat(*outputs, gts, [{}] * BATCH)
    return sum(losses.values()).backward


@pytest.mark.parametrize("part", BARS)
def test_a_part_stays_below_its_bar(parts: Parts, part: str) -> None:
    assert parts.total(part) <= BARS[part], parts.operators[part].most_common(9)


def test_little_is_outside_the_network(parts: Parts) -> None:
    assert sum(parts.total(part) for part in set(BARS) - {"network", "backward"}) <= 450

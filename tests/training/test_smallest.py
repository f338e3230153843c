"""A batch of one image: trained where its norms have values to average, else refused at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmdet.datasets import AspectRatioBatchSampler
from mmdet.registry import MODELS
from mmengine.dataset import DefaultSampler
from mmengine.registry import DefaultScope
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

import prunet_det.detection  # noqa: F401  (registers OneStageDetector)
from prunet_det.detection.transforms import RandomScaleCrop
from prunet_det.training.smallest import check_smallest_batch, norm_errors
from prunet_det.utils.errors import UserError
from tests.detection.test_detector import detector_cfg


@pytest.fixture(autouse=True)
def mmdetections_scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


class Images(list):
    """A data set of a wrapper's kind, whose images are of one size."""

    def __init__(self, count, side, **options):
        super().__init__(range(count))
        step = RandomScaleCrop((side, side), (0.1, 2.0), (side, side), **options)
        inner = SimpleNamespace(pipeline=SimpleNamespace(transforms=[object(), step]))
        self.dataset = inner


def runner(images, batch=1, loop=EpochBasedTrainLoop, **options):
    preprocessor = dict(type="DetDataPreprocessor", pad_size_divisor=32)
    model = MODELS.build(dict(detector_cfg(), data_preprocessor=preprocessor))
    train_loop = object.__new__(loop)
    train_loop.dataloader = DataLoader(images, batch, **options)
    return SimpleNamespace(train_loop=train_loop, model=model)


@pytest.mark.parametrize(
    ("count", "batch", "side", "options"),
    [
        (5, 4, 256, dict(pad_val=0)),  # P7 has 2 x 2 cells
        (5, 1, 129, dict(pad_val=0)),  # 160 px
        (6, 4, 64, dict(pad_val=0)),
        (5, 4, 64, {}),  # of any size
    ],
)
def test_what_can_be_trained_is(count, batch, side, options):
    check_smallest_batch(runner(Images(count, side, **options), batch))


def test_a_last_batch_that_is_left_out_does_not_count():
    images = Images(5, 64, pad_val=0)
    check_smallest_batch(runner(images, 4, drop_last=True))
    check_smallest_batch(runner(images, 4, IterBasedTrainLoop))  # its batches are full


@pytest.mark.parametrize(("count", "batch"), [(5, 4), (5, 1), (1, 8)])
def test_one_image_of_one_cell_is_refused(count, batch):
    built = runner(Images(count, 100, pad_val=0), batch)
    before = {k: v.clone() for k, v in built.model.state_dict().items()}
    with pytest.raises(UserError, match="one image of 128 x 128 px leaves a batch norm one value"):
        check_smallest_batch(built)
    assert all(torch.equal(v, before[k]) for k, v in built.model.state_dict().items())
    built.model.norm_eval = built.model.backbone.norm_eval = True
    check_smallest_batch(built)


def test_batches_of_a_sampler_of_their_own_are_counted():
    """MMDetection's default sorts images by their shape into batches."""
    images = Images(5, 64, pad_val=0)
    images.get_data_info = lambda i: dict(width=64, height=48 + 32 * (i % 2))
    sampler = DefaultSampler(images, shuffle=False)
    for options in (dict(drop_last=True), dict(batch_size=3), dict(batch_size=5)):
        batches = AspectRatioBatchSampler(sampler, **(dict(batch_size=4) | options))
        check_smallest_batch(runner(images, batch_sampler=batches))
    batches = AspectRatioBatchSampler(sampler, batch_size=4)
    assert [len(batch) for batch in batches] == [4, 1]
    with pytest.raises(UserError, match="one image of 64 x 64 px"):
        check_smallest_batch(runner(images, batch_sampler=batches))
    check_smallest_batch(runner(images, batch_sampler=[[0], [1, 2]]))  # which says no size


def test_what_comes_later_is_said_too():
    norm = torch.nn.BatchNorm2d(3)
    with pytest.raises(UserError, match="a batch of one image leaves"), norm_errors():
        norm(torch.zeros(1, 3, 1, 1))
    with pytest.raises(ValueError, match="^other$"), norm_errors():
        raise ValueError("other")

"""MMDetection's data preprocessor, with few operators for a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from mmengine.model import ImgDataPreprocessor
from torch.nn import functional as F

from prunet_det.detection.transforms import PackedSamples
from prunet_det.runtime.subject import normalise


class _BatchImages(ImgDataPreprocessor):
    """Images to a normalised batch, for which DetDataPreprocessor calls its base class."""

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Normalises and pads images as ImgDataPreprocessor does, all at once.

        Args:
            data: As BatchPreprocessor takes it.
            training: Not used.

        Returns:
            `inputs`, (N, C, H, W) float32, and `data_samples`, on the device.
        """
        images, samples = data["inputs"], data.get("data_samples")
        if not isinstance(images, torch.Tensor):
            if len({image.shape for image in images}) > 1:
                return super().forward(data, training)
            images = torch.stack(list(images))
        images, shapes = normalise(self, images), _shapes(samples)
        if isinstance(samples, PackedSamples):
            samples = samples.to(self.device, non_blocking=True)
        else:
            samples = self.cast_data(samples)
        height, width = images.shape[2:]
        if any(shape != (height, width) for shape in shapes):
            images = torch.where(_beyond(samples.sizes, height, width), self.pad_value, images)
        right, below = (-side % self.pad_size_divisor for side in (width, height))
        if right or below:
            images = F.pad(images, (0, right, 0, below), value=self.pad_value)
        if isinstance(samples, PackedSamples):
            samples = samples.samples()
        return {**data, "inputs": images, "data_samples": samples}


@MODELS.register_module()
class BatchPreprocessor(DetDataPreprocessor, _BatchImages):
    """MMDetection's DetDataPreprocessor, whose images are moved, normalised and padded as a batch.

    Its results are the same. Images are moved to the device as they come, uint8 as a rule, and
    without waiting for it. They are best stacked by the loader's processes (`padded_collate`);
    images of one shape are stacked here; those of several shapes, one by one, are left to
    DetDataPreprocessor.

    Args:
        **kwargs: Arguments of DetDataPreprocessor.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"non_blocking": True, **kwargs})

    def _get_pad_shape(self, data: dict[str, Any]) -> list[tuple[int, int]]:
        shapes = _shapes(data.get("data_samples"))
        if not shapes:
            return super()._get_pad_shape(data)
        divisor = self.pad_size_divisor
        return [(h + -h % divisor, w + -w % divisor) for h, w in shapes]


def _shapes(samples: Any) -> list[tuple[int, int]]:
    """Lists (height, width) of the images that are stacked with padding; none if there is none."""
    if not isinstance(samples, PackedSamples):
        return []
    return [(height, width) for height, width in samples.sizes.tolist()]


def _beyond(sizes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Returns which pixels are padding, (N, 1, height, width).

    Args:
        sizes: Height and width of each image, (N, 2).
        height: Height of the batch, in pixels.
        width: Width of the batch, in pixels.
    """
    rows = torch.arange(height, device=sizes.device) >= sizes[:, :1]
    columns = torch.arange(width, device=sizes.device) >= sizes[:, 1:]
    return rows[:, None, :, None] | columns[:, None, None, :]

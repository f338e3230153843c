"""Transforms of training images in few passes, and batches that take the training little time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import TRANSFORMS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import BaseBoxes, get_box_tensor
from mmengine.registry import FUNCTIONS
from mmengine.structures import InstanceData
from torch.nn import functional as F
from torch.utils.data import default_collate

from prunet_det.detection.letterbox import as_fill
from prunet_det.utils.errors import InputError
from prunet_det.utils.letterbox import fill_up

_CROPPED = {"gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags"}


@TRANSFORMS.register_module()
class RandomScaleCrop(BaseTransform):
    """MMDetection's RandomResize (keep_ratio), RandomCrop and RandomFlip in one step.

    It draws the same random numbers in the same order and gives the same pixels and boxes, bit by
    bit, but drops a crop without objects before the image is resized, and has boxes as an array. A
    side that would be scaled to less than a pixel is one, where MMDetection's step raises.
    They are best loaded as one: `dict(type="LoadAnnotations", with_bbox=True, box_type=None)`.

    Args:
        scale: Width and height that the image is fitted into, in pixels.
        ratio_range: Smallest and largest factor of `scale`; one is drawn for each image.
        crop_size: Width and height that are cut out of the resized image, as far as it goes.
        flip_prob: Probability of a horizontal flip, 0..1.
        pad_val: Filling of what a smaller image lacks to `crop_size`, in the order of its channels,
            0..255, so that all images have one shape; by default it stays smaller.
    """

    def __init__(
        self,
        scale: tuple[int, int],
        ratio_range: tuple[float, float],
        crop_size: tuple[int, int],
        flip_prob: float = 0.0,
        *,
        pad_val: int | Sequence[int] | None = None,
    ) -> None:
        self.scale, self.ratio_range = tuple(scale), tuple(ratio_range)
        self.crop_size, self.flip_prob = tuple(crop_size), flip_prob
        self.fill = () if pad_val is None else as_fill(pad_val)

    @property
    def output_size(self) -> tuple[int, int] | None:
        """Height and width of all images, if they are filled up."""
        width, height = self.crop_size
        return (height, width) if self.fill else None

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Transforms an image and its boxes.

        Args:
            results: `img`, (H, W, 3); `gt_bboxes`, (n, 4) float32 or MMDetection's boxes; and n
                `gt_bboxes_labels` and `gt_ignore_flags`.

        Returns:
            The same, with `img_shape`, `scale_factor`, `flip` and `flip_direction`; None if no box
            lies in the crop, so that the data set takes another image.

        Raises:
            InputError: If there are other annotations, such as masks, which would stay as they are.
        """
        others = {k for k in results if k.startswith(("gt_", "proposals"))} - _CROPPED
        if others:
            raise InputError(
                f"RandomScaleCrop crops boxes alone, not {', '.join(sorted(others))}; load no "
                "others or use MMDetection's RandomResize, RandomCrop and RandomFlip."
            )
        height, width = results["img"].shape[:2]
        low, high = self.ratio_range
        ratio = np.random.random_sample() * (high - low) + low
        scale = (int(self.scale[0] * ratio), int(self.scale[1] * ratio))
        new_width, new_height = (max(s, 1) for s in mmcv.rescale_size((width, height), scale))
        crop_width, crop_height = self.crop_size
        top = np.random.randint(0, max(new_height - crop_height, 0) + 1)
        left = np.random.randint(0, max(new_width - crop_width, 0) + 1)
        crop_height, crop_width = min(crop_height, new_height), min(crop_width, new_width)

        factor = (new_width / width, new_height / height)
        boxes = results["gt_bboxes"]
        if isinstance(boxes, BaseBoxes):
            boxes = boxes.convert_to("hbox").numpy()
        boxes = boxes * np.array(factor * 2, np.float32)
        boxes = _clip(boxes, new_width, new_height) - np.array((left, top) * 2, np.float32)
        boxes = _clip(boxes, crop_width, crop_height)
        kept = (boxes[:, :2] < (crop_width, crop_height)).all(1) & (boxes[:, 2:] > 0).all(1)
        if not kept.any():
            return None
        boxes = boxes[kept]
        flip = self.flip_prob > 0 and np.random.random_sample() < self.flip_prob
        if flip:
            boxes[:, [0, 2]] = crop_width - boxes[:, [2, 0]]

        image = cv2.resize(results["img"], (new_width, new_height))
        image = image[top : top + crop_height, left : left + crop_width]
        image = cv2.flip(image, 1) if flip else image
        if self.output_size is not None:
            image = fill_up(image, *self.output_size, self.fill)
        results.update(
            img=image,
            img_shape=(crop_height, crop_width),
            scale_factor=factor,
            flip=flip,
            flip_direction="horizontal" if flip else None,
            gt_bboxes=boxes,
            gt_bboxes_labels=results["gt_bboxes_labels"][kept],
            gt_ignore_flags=results["gt_ignore_flags"][kept],
        )
        return results


def _clip(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Clips boxes, (n, 4), to an image."""
    return np.clip(boxes, 0, np.array((width, height) * 2, np.float32))


@TRANSFORMS.register_module()
class PackChannelsLast(PackDetInputs):
    """MMDetection's PackDetInputs, whose `inputs` are a view of the image, not a copy.

    They have the same shape, (3, H, W), and the strides of channels-last memory. Only an image that
    MMDetection has flipped, a view that runs backwards, is copied.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Packs an image and its annotations.

        Args:
            results: What the pipeline has loaded; changed in place.

        Returns:
            `inputs` and `data_samples`.
        """
        image = results.pop("img")
        if min(image.strides) < 0:
            image = np.ascontiguousarray(image)
        packed = super().transform(results)
        return {"inputs": torch.from_numpy(image).permute(2, 0, 1), **packed}


class PackedSamples:
    """What is known of a batch's images: MMDetection's samples, as they come from the loader.

    Each tensor that comes from a loader's process costs the training one file descriptor and about
    0.1 ms, and each one that goes to a GPU a copy. A batch of 16 samples has 64; here it has two,
    which come as bytes. BatchPreprocessor makes samples of views of them, on the device.

    Args:
        objects: x1, y1, x2, y2 and label of all objects, (T, 5) float32: those of the first image,
            of the second, and so on; then those to ignore, in the same order.
        sizes: Height and width of each image, (N, 2) int64, with what its own transforms have
            filled; what a batch has beyond is padding.
        counts: Number of objects of each image, then of those to ignore, 2 N integers.
        metainfo: MMDetection's meta information of each image.
    """

    def __init__(
        self,
        objects: torch.Tensor,
        sizes: torch.Tensor,
        counts: list[int],
        metainfo: list[dict[str, Any]],
    ) -> None:
        self.objects, self.sizes, self.counts, self.metainfo = objects, sizes, counts, metainfo

    @classmethod
    def pack(
        cls, samples: Sequence[DetDataSample], sizes: Sequence[tuple[int, int]]
    ) -> PackedSamples:
        """Packs samples as MMDetection's pipelines give them.

        Args:
            samples: One for each image.
            sizes: Height and width of each image.

        Raises:
            InputError: If they have more than boxes and labels.
        """
        parts = [s.gt_instances for s in samples] + [s.ignored_instances for s in samples]
        others = set().union(*(s.keys() for s in samples)) - {"gt_instances", "ignored_instances"}
        others |= set().union(*(part.keys() for part in parts)) - {"bboxes", "labels"}
        if others:
            raise InputError(
                f"padded_collate packs boxes and labels alone, not {', '.join(sorted(others))}; "
                "load no others or leave train_dataloader.collate_fn out."
            )
        boxes = torch.cat([get_box_tensor(part.bboxes) for part in parts])
        labels = torch.cat([part.labels for part in parts])
        return cls(
            torch.cat([boxes, labels[:, None]], dim=1),
            torch.tensor(sizes),
            [len(part) for part in parts],
            [s.metainfo for s in samples],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = self.objects.numpy(), self.sizes.numpy()  # pickled as bytes
        return _unpickle, (*arrays, self.counts, self.metainfo)

    def pin_memory(self) -> PackedSamples:
        """Returns a copy in memory from which a GPU can read; the loader calls it."""
        tensors = self.objects.pin_memory(), self.sizes.pin_memory()
        return PackedSamples(*tensors, self.counts, self.metainfo)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedSamples:
        """Returns a copy on a device."""
        objects, sizes = (
            t.to(device, non_blocking=non_blocking) for t in (self.objects, self.sizes)
        )
        return PackedSamples(objects, sizes, self.counts, self.metainfo)

    def samples(self) -> list[DetDataSample]:
        """Returns a sample of each image, where the tensors are."""
        boxes = self.objects[:, :4].split(self.counts)
        labels = self.objects[:, 4].long().split(self.counts)
        instances = [InstanceData(bboxes=b, labels=k) for b, k in zip(boxes, labels, strict=True)]
        count = len(self.metainfo)
        return [
            DetDataSample(metainfo=meta, gt_instances=kept, ignored_instances=ignored)
            for meta, kept, ignored in zip(
                self.metainfo, instances[:count], instances[count:], strict=True
            )
        ]

    def __iter__(self) -> Iterator[DetDataSample]:
        raise InputError(
            "images that padded_collate has stacked are for the data preprocessor "
            "BatchPreprocessor; set model.data_preprocessor.type to it."
        )


def _unpickle(
    objects: np.ndarray, sizes: np.ndarray, counts: list[int], metainfo: list[dict[str, Any]]
) -> PackedSamples:
    return PackedSamples(torch.from_numpy(objects), torch.from_numpy(sizes), counts, metainfo)


@FUNCTIONS.register_module()
def padded_collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stacks the images of a batch in the loader's process, and packs what is known of them.

    Args:
        items: `inputs`, (3, H_i, W_i) uint8, and `data_samples`, a DetDataSample, of each image.

    Returns:
        `inputs`, (N, 3, H, W) uint8 in channels-last memory, as large as the largest height and
        width and filled up with zeros; and `data_samples`, PackedSamples.
    """
    images = [item["inputs"].permute(1, 2, 0) for item in items]
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    full = [
        image if (h, w) == (height, width) else F.pad(image, (0, 0, 0, width - w, 0, height - h))
        for image, (h, w) in zip(images, sizes, strict=True)
    ]
    return {
        "inputs": default_collate(full).permute(0, 3, 1, 2),  # in memory that processes share
        "data_samples": PackedSamples.pack([item["data_samples"] for item in items], sizes),
    }

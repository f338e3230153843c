"""Letterboxing: images of any shape in one square, the same pixels for all who detect in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
from mmdet.datasets.transforms import Resize
from mmdet.registry import TRANSFORMS
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config

from prunet_det.training.loading import inner_dataset
from prunet_det.utils.errors import InputError
from prunet_det.utils.letterbox import fit_square

Rounding = Literal["round", "floor"]


def as_fill(pad_val: int | Sequence[int]) -> tuple[int, ...]:
    """Returns a filling with a value for each of three channels.

    Raises:
        InputError: If it is not one integer or three, 0..255.
    """
    fill = (pad_val,) * 3 if isinstance(pad_val, int) else tuple(pad_val)
    if len(fill) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in fill):
        raise InputError(f"a pad_val is one integer or three, 0 to 255, got {pad_val}.")
    return fill


@TRANSFORMS.register_module()
class Letterbox(Resize):
    """Fits an image into a square: aspect ratio kept, at the top left, the rest filled.

    It takes the place of `Resize(scale=..., keep_ratio=True)`. As all images have one shape then, a
    batch needs no padding, and a detection does not depend on the other images of its batch. An
    exported network gets the same pixels. `img_shape` stays that of the image without the filling,
    so that boxes are clipped to it.

    Args:
        scale: Longer and shorter side, in any order, that the image is fitted into, in pixels; or
            one number for both.
        size: Side of the square in pixels, by default the longer of `scale`.
        antialias: Shrink as Pillow does, every pixel counted; by default as OpenCV does, between
            the nearest pixels, which training does too.
        rounding: How the image's sides are brought to whole pixels: to the nearest, as MMDetection
            does, or downwards, as effdet does. A side is at least 1.
        pad_val: Filling in the order of the image's channels, 0..255; one number for all, or one
            each. MMDetection's images are BGR.

    Raises:
        InputError: If a number is out of its range.
    """

    def __init__(
        self,
        scale: int | Sequence[int],
        *,
        size: int | None = None,
        antialias: bool = False,
        rounding: Rounding = "round",
        pad_val: int | Sequence[int] = 0,
    ) -> None:
        sides = (scale, scale) if isinstance(scale, int) else tuple(scale)
        self.size = max(sides) if size is None else size
        if len(sides) != 2 or not 0 < min(sides) <= max(sides) <= self.size:
            raise InputError(
                "Letterbox fits images into two positive sides within its square, got "
                f"scale={scale} and size={size}."
            )
        if rounding not in ("round", "floor"):
            raise InputError(f"Letterbox's rounding is 'round' or 'floor', got {rounding!r}.")
        super().__init__(scale=sides, keep_ratio=True)
        self.antialias, self.rounding, self.pad_val = antialias, rounding, as_fill(pad_val)

    @classmethod
    def from_config(cls, config: Config, size: int | None = None) -> Letterbox:
        """Makes the letterbox of a config's test pipeline.

        In the place of a Letterbox the pipeline may have MMDetection's Resize with keep_ratio. Its
        images are then filled as a step Pad says, or else with the mean, up to a multiple of the
        preprocessor's `pad_size_divisor`.

        Args:
            config: Config of a detector.
            size: Side of another square, in pixels; None for the config's own.

        Raises:
            InputError: If the pipeline does not fit images into a square in a way that can be
                repeated.
        """
        steps = {step_name(step): dict(step) for step in test_pipeline(config)}
        if own := steps.get("Letterbox"):
            options = {k: v for k, v in own.items() if k != "type"}
        else:
            preprocessor = config.model.get("data_preprocessor") or {}
            options = _as_resize(steps.get("Resize"))
            fill = steps["Pad"].get("pad_val", 0) if "Pad" in steps else _mean(preprocessor)
            options["pad_val"] = fill.get("img", 0) if isinstance(fill, dict) else fill
            longest = int(np.max([*np.atleast_1d(options["scale"]), *_pad_size(steps)]))
            options["size"] = longest + -longest % preprocessor.get("pad_size_divisor", 1)
        if size is not None:
            options |= dict(scale=size, size=size)
        return cls(**options)

    def fit(self, image: np.ndarray) -> tuple[np.ndarray, tuple[float, float], tuple[int, int]]:
        """Fits an image into the square.

        Args:
            image: (H, W, 3) uint8.

        Returns:
            The square, (size, size, 3) uint8; the factors by which width and height were scaled;
            and height and width of the scaled image, which lies at the top left.
        """
        return fit_square(image, **self.metadata())

    def metadata(self) -> dict[str, Any]:
        """Describes what `fit` does, in JSON's types, for whoever feeds an exported network."""
        return {
            "size": self.size,
            "longer_side": max(self.scale),
            "shorter_side": min(self.scale),
            "interpolation": "bilinear",
            "antialias": self.antialias,
            "rounding": self.rounding,
            "pad_value": list(self.pad_val),
            "position": "top left",
        }

    def _resize_img(self, results: dict[str, Any]) -> None:
        results["img"], results["scale_factor"], results["img_shape"] = self.fit(results["img"])
        results["pad_shape"] = (self.size, self.size)
        results["keep_ratio"] = True

    def _resize_masks(self, results: dict[str, Any]) -> None:
        if results.get("gt_masks") is not None:
            masks = results["gt_masks"].resize(results["img_shape"])
            results["gt_masks"] = masks.pad((self.size, self.size))

    def _resize_seg(self, results: dict[str, Any]) -> None:
        if results.get("gt_seg_map") is not None:
            raise InputError("Letterbox takes boxes and masks along, no gt_seg_map; load it after.")

    def __repr__(self) -> str:
        return f"Letterbox({', '.join(f'{k}={v}' for k, v in self.metadata().items())})"


def test_pipeline(config: Config) -> Sequence[dict[str, Any]]:
    """Finds the steps that images of the test set go through."""
    if "test_dataloader" in config:
        return cast("Sequence[dict[str, Any]]", get_test_pipeline_cfg(config))
    return config.get("test_pipeline") or []


def step_name(step: dict[str, Any]) -> str:
    """Returns the name of a step's class, which may be given with a scope or as a class."""
    return str(getattr(step["type"], "__name__", step["type"])).rpartition(".")[2]


def _as_resize(step: dict[str, Any] | None) -> dict[str, Any]:
    """Finds the arguments of the Letterbox that scales as MMDetection's Resize does.

    Raises:
        InputError: If there is none.
    """
    advice = "put dict(type='Letterbox', scale=(PIXELS, PIXELS)) in its place"
    if step is None:
        raise InputError(f"the test pipeline has no Letterbox and no Resize; {advice}.")
    kept = step.get("keep_ratio", False) and step.get("scale")
    way = (step.get("backend") or "cv2", step.get("interpolation", "bilinear"))
    if not kept or way not in {("cv2", "bilinear"), ("pillow", "bilinear")}:
        raise InputError(
            "the test pipeline's Resize does not fit images into a square with their aspect ratio "
            f"and bilinear interpolation ({step}); {advice}."
        )
    return dict(scale=step["scale"], antialias=way[0] == "pillow")


def _pad_size(steps: dict[str, dict[str, Any]]) -> Sequence[int]:
    """Returns the sides that a step Pad fills images up to, if there is one that says so."""
    return np.atleast_1d(steps.get("Pad", {}).get("size") or 0).tolist()


def _mean(preprocessor: dict[str, Any]) -> list[int]:
    """Returns the mean that a preprocessor takes off, rounded, in the order of its images."""
    mean = [round(v) for v in preprocessor.get("mean") or (0, 0, 0)]
    flipped = preprocessor.get("bgr_to_rgb") or preprocessor.get("rgb_to_bgr")
    return mean[::-1] if flipped else mean


def set_input_size(cfg: Config, size: int, crop: float = 1.0) -> None:
    """Tests on images of another size, and trains on squares that are cut out of such images.

    Args:
        cfg: Config of a detector; changed in place.
        size: In pixels.
        crop: Side of the squares, of the size.

    Raises:
        InputError: The config's pipelines resize nothing.
    """
    found = False
    for key in ("train", "test"):
        for step in inner_dataset(cfg[f"{key}_dataloader"].dataset).pipeline:
            for option, side in {"scale": size, "crop_size": round(crop * size)}.items():
                if option in step:
                    step[option] = (side, side)
                    found = True
    if not found:
        raise InputError("the config's pipelines have no step with a scale or crop_size to set.")
    cfg.model.data_preprocessor.pad_size_divisor = round(crop * size)

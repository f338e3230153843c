"""A part of the training data that is kept from training: what a learning rate is chosen on."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from mmengine.config import Config

from prunet_det.utils.io import atomic_path

EVERY = 10  # images, of which one is kept: our choice


def make_data(cfg: Config) -> None:
    """Makes the embedded set of a config where it is missing.

    Raises:
        ValueError, OSError: See `datasets.ensure`.
    """
    from prunet_det.datasets import ensure

    for key in ("train_dataloader", "test_dataloader"):
        dataset = cfg[key].dataset
        if dataset.type == "EmbeddedDataset":
            ensure(dataset.name, dataset.data_root)


def hold_out(cfg: Config, folder: Path) -> None:
    """Splits the training data of a config in two and tests on the smaller part.

    Args:
        cfg: Its test split is not looked at.
        folder: For the two files of annotations.
    """
    make_data(cfg)
    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    coco = json.loads((Path(train.data_root) / train.ann_file).read_text(encoding="utf-8"))
    ids = sorted(image["id"] for image in coco["images"])
    kept = set(ids[::EVERY])
    parts = {"train": set(ids) - kept, "held_out": kept}
    for name, images in parts.items():
        with atomic_path(folder / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(_part(coco, images)), encoding="utf-8")
    test.data_root = train.data_root
    test.data_prefix = copy.deepcopy(train.data_prefix)
    train.ann_file = str((folder / "train.json").resolve())
    test.ann_file = cfg.test_evaluator.ann_file = str((folder / "held_out.json").resolve())


def _part(coco: dict[str, Any], images: set[int]) -> dict[str, Any]:
    return {
        **coco,
        "images": [i for i in coco["images"] if i["id"] in images],
        "annotations": [a for a in coco["annotations"] if a["image_id"] in images],
    }

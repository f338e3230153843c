"""The data of a suite: their digest, and a part that is kept from training."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from mmengine.config import Config

from prunet_det.datasets.split import write_part
from prunet_det.utils.io import file_digest

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


def data_hash(cfg: Config) -> str:
    """A digest of the training and test data: of embedded sets all files, else the annotations.

    Raises:
        FileNotFoundError: They are not here; the sentence says where they belong.
    """
    from prunet_det.datasets import data_hash as embedded_hash
    from prunet_det.datasets.coco import read_coco

    digests = []
    for key in ("train_dataloader", "test_dataloader"):
        dataset = cfg[key].dataset
        if dataset.type == "EmbeddedDataset":
            digests.append(embedded_hash(dataset.data_root))
        else:
            path = Path(dataset.data_root) / dataset.ann_file
            read_coco(path)
            digests.append(file_digest(path))
    return digests[0] if digests[0] == digests[1] else "+".join(d[:8] for d in digests)


def hold_out(cfg: Config, folder: Path) -> None:
    """Splits the training data of a config in two and tests on the smaller part.

    Args:
        cfg: Changed; its test split is not looked at.
        folder: Folder for the annotations of the two parts.
    """
    make_data(cfg)
    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    coco = json.loads((Path(train.data_root) / train.ann_file).read_text(encoding="utf-8"))
    ids = sorted(image["id"] for image in coco["images"])
    kept, files = set(ids[::EVERY]), {}
    for name, images in {"train": set(ids) - kept, "held_out": kept}.items():
        files[name] = str((folder / f"{name}.json").resolve())
        write_part(coco, images, files[name])
    test.data_root = train.data_root
    test.data_prefix = copy.deepcopy(train.data_prefix)
    train.ann_file = files["train"]
    test.ann_file = cfg.test_evaluator.ann_file = files["held_out"]

"""What a result depends on: records that differ in recipe, data or artifact are never mixed."""

from __future__ import annotations

from pathlib import Path

from prunet_det.benchmark.held_out import make_data
from prunet_det.benchmark.suite import Suite
from prunet_det.utils.io import file_digest

# Raise it by hand in the commit that changes what a training, an export or an evaluation gives:
# records of different revisions are never compared. A refactoring leaves it alone.
TRAINING_REVISION = 1


def identity(suite: Suite) -> dict[str, str | int]:
    """What a record of this suite, made here and now, has for the keys of `records.SHARED`.

    Makes the embedded data where they are missing.
    """
    cfg = suite.recipe()
    make_data(cfg)
    return {
        "suite": suite.name,
        "artifact": suite.artifact,
        "config_hash": suite.config_hash(),
        "data_hash": data_hash(suite),
        "training_revision": TRAINING_REVISION,
    }


def data_hash(suite: Suite) -> str:
    """A digest of the training and test data: of embedded sets all files, else the annotations.

    Raises:
        FileNotFoundError: They are not here; the sentence says where they belong.
    """
    from prunet_det.datasets import data_hash as embedded_hash
    from prunet_det.datasets.coco import read_coco

    cfg = suite.recipe()
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

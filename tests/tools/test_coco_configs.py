"""Every COCO config builds, trains and evaluates on a small folder in COCO's layout."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.conftest import NO_WORKERS, ROOT

CONFIGS = sorted(p.name for p in (ROOT / "configs" / "detection").glob("*_coco.py"))


@pytest.fixture(scope="module")
def coco(tmp_path_factory, digits):
    """Twelve images with 80 categories, as COCO 2017 lies on disk."""
    root = tmp_path_factory.mktemp("coco")
    source = json.loads((digits / "annotations" / "val.json").read_text())
    images = source["images"][:12]
    kept = {i["id"] for i in images}
    content = {
        "images": images,
        "annotations": [a for a in source["annotations"] if a["image_id"] in kept],
        "categories": [{"id": i + 1, "name": f"thing {i}"} for i in range(80)],
    }
    (root / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        for image in images:
            shutil.copy(digits / "val" / image["file_name"], root / split)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_trains_and_evaluates(config, coco, tmp_path, here):
    options = [
        "train_dataloader.batch_size=2",
        *NO_WORKERS,
        "train_cfg._delete_=True",
        "train_cfg.type=IterBasedTrainLoop",
        "train_cfg.max_iters=2",
        "train_cfg.val_interval=2",
        "train_dataloader.sampler.type=InfiniteSampler",
        "param_scheduler=None",
        "default_hooks.checkpoint.by_epoch=False",
        "log_processor.by_epoch=False",
        "default_hooks.logger.interval=1",
        "model.test_cfg.score_thr=0.005",  # MMDetection reports nothing where nothing was found
        "train_dataloader.dataset.pipeline.2.scale=(128,128)",
        "train_dataloader.dataset.pipeline.3.crop_size=(128,128)",
        "val_dataloader.dataset.pipeline.1.scale=(128,128)",
    ]
    if "effdet" not in config:  # MMDetection's heads suppress class by class, slowly on a CPU
        options.append("model.test_cfg.nms_pre=100")
    args = [f"configs/detection/{config}", "--data-root", coco, "--work-dir", tmp_path]
    done = here("train", *args, "--cfg-options", *options)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Iter(train) [2/2]" in output and "coco/bbox_mAP" in output


@pytest.mark.parametrize("config", CONFIGS)
def test_a_missing_folder_says_what_is_expected(config, tmp_path, refused):
    args = [
        f"configs/detection/{config}",
        "--data-root",
        tmp_path / "none",
        "--work-dir",
        tmp_path / "w",
    ]
    error = refused("train", *args)
    assert "there is no data folder" in error
    assert "expected are the images in" in error and "train2017" in error

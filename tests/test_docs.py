"""What README.md and docs/ show works as it stands there."""

from __future__ import annotations

import json
import re
import shutil

import torch

from prunet_det import ArchSpec
from tests.conftest import NO_WORKERS, ROOT


def blocks(page, language):
    """The fenced code blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_timm():
    code = next(b for b in blocks("docs/networks.md", "python") if "import timm" in b)
    names: dict = {}
    with torch.device("meta"):
        exec(code, names)
    assert names["features"].feature_info.reduction() == [8, 16, 32, 64]


def test_mmdet():
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope
    from mmengine.utils import import_modules_from_strings

    init_default_scope("mmdet")
    code = next(b for b in blocks("docs/networks.md", "python") if "custom_imports" in b)
    names: dict = {}
    exec(code, names)
    import_modules_from_strings(**names["custom_imports"])
    with torch.device("meta"):
        model = MODELS.build(names["model"])
    assert model.bbox_head.grid.strides == (8, 16, 32, 64, 128)


def test_the_example_of_a_spec_file():
    (example,) = blocks("docs/networks.md", "json")
    assert ArchSpec.from_dict(json.loads(example)).build()(torch.zeros(2, 3, 32, 32)).shape[0] == 2


def own_folder(root, digits):
    """Six images a split of three classes, in COCO format."""
    coco = json.loads((digits / "annotations" / "val.json").read_text())
    coco["categories"] = coco["categories"][:3]
    coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] <= 3]
    shown = {a["image_id"] for a in coco["annotations"]}
    coco["images"] = [i for i in coco["images"] if i["id"] in shown][:6]
    kept = {i["id"] for i in coco["images"]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in kept]
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).mkdir()
        (root / "annotations" / f"{split}.json").write_text(json.dumps(coco))
        for image in coco["images"]:
            shutil.copy(digits / "val" / image["file_name"], root / split)


def test_own_data(digits, tmp_path, here):
    example = next(b for b in blocks("docs/own_data.md", "python") if "my_detector.py" in b)
    own_folder(tmp_path / "my_data", digits)
    (tmp_path / "my_detector.py").write_text(example)
    options = [
        "model.backbone.arch=prunet_demo",
        "train_dataloader.batch_size=2",
        "train_cfg._delete_=True",
        "train_cfg.type=IterBasedTrainLoop",
        "train_cfg.max_iters=1",
        "train_cfg.val_interval=1",
        "param_scheduler=None",
        "log_processor.by_epoch=False",
        "default_hooks.checkpoint.by_epoch=False",
        *NO_WORKERS,
    ]
    args = ["my_detector.py", "--work-dir", "work", "--cfg-options", *options]
    done = here("train", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "coco/bbox_mAP" in done.stdout + done.stderr
    args.append("model.bbox_head.num_classes=4")
    wrong = here("train", *args, cwd=tmp_path)
    assert "has 3 classes and the model 4; set model.bbox_head.num_classes=3" in wrong.stderr


def test_every_linked_file_exists():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links {link}"

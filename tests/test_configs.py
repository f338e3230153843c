"""Configs: they build, they train, and they are the recipes of the committed records."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

pytest.importorskip("mmengine")

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, FUNCTIONS, MODELS

import prunet_det.detection  # noqa: F401  (registers)
from prunet_det.benchmark.records import load_records
from prunet_det.benchmark.suite import load_suite
from prunet_det.detection.letterbox import Letterbox
from tests.conftest import NO_WORKERS, ROOT

RESULTS = ROOT / "docs" / "results"
CONFIGS = ROOT / "configs"
# One of each detector; other backbones differ in the name of theirs alone.
DETECTORS = ("effdet", "retinanet", "rtmdet", "faster_rcnn")
COCO = [f"prunet_{detector}_coco.py" for detector in DETECTORS]
MODEL_CONFIGS = sorted([*CONFIGS.glob("*.py"), *CONFIGS.glob("classification/*.py")])


@pytest.mark.parametrize("path", MODEL_CONFIGS, ids=lambda path: path.stem)
def test_every_model_builds_and_fits_its_data(path):
    cfg = Config.fromfile(path)
    if "searched" in path.name:  # on a backbone that `make demo` makes
        cfg.model.backbone.arch = "prunet_demo"
        cfg.model.backbone.checkpoint = None
    if "backbone" in cfg.model and cfg.model.backbone.get("checkpoint") == "imagenet":
        cfg.model.backbone.checkpoint = None  # of a package that need not be here
    with MODELS.switch_scope_and_registry(cfg.default_scope) as models, torch.device("meta"):
        model = models.build(cfg.model)
    head = getattr(model, "roi_head", model)
    outputs = getattr(head, "bbox_head", model).num_classes
    dataset = cfg.train_dataloader.dataset
    other = 1000 if "imagenet" in path.name else 10 if "finetune" in path.name else 80
    assert outputs == {"digits": 10, "glyphs": 90}.get(dataset.get("name"), other)


@pytest.mark.parametrize("arch", ["prunet_p0", "prunet_p1"])
@pytest.mark.parametrize("config", COCO)
def test_strides_fit_p0_and_p1(config, arch):
    """Both reach stride 64; a detector whose anchors were elsewhere would be refused."""
    cfg = Config.fromfile(CONFIGS / config)
    cfg.model.backbone.arch = arch
    with MODELS.switch_scope_and_registry("mmdet") as models, torch.device("meta"):
        model = models.build(cfg.model)
        maps = model.extract_feat(torch.empty(1, 3, 512, 512))
    head = model.rpn_head if hasattr(model, "rpn_head") else model.bbox_head
    strides = head.grid.strides if hasattr(head, "grid") else head.prior_generator.strides
    sides = [512 // (s if isinstance(s, int) else s[0]) for s in strides]
    assert [m.shape[-1] for m in maps] == sides


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_detectors_see_images_of_one_shape(path):
    """Filled up with their mean, in evaluation and, where images are shrunk, in training."""
    cfg = Config.fromfile(path)
    size = 512 if path.stem.endswith(("_coco", "_glyphs")) else 256
    mean = tuple(round(v) for v in reversed(cfg.model.data_preprocessor.mean))
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        steps = {step.type: step for step in loader.dataset.pipeline}
        assert steps["Letterbox"].scale == (size, size) and "Resize" not in steps
    letterbox = Letterbox.from_config(cfg)
    assert (letterbox.size, letterbox.pad_val) == (size, mean)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert "RandomScaleCrop" not in steps or steps["RandomScaleCrop"].pad_val == mean


def test_the_recipe_for_ones_own_data_takes_any_shape(tmp_path):
    """Batches have one shape, whatever images have; the crops are those of the digits."""
    cfg = Config.fromfile(CONFIGS / "prunet_effdet_finetune.py")
    loader = cfg.train_dataloader
    sizes = [(20000, 2), (2, 20000), (300, 200), (256, 256)]
    images = [dict(id=i, file_name=f"{i}.png", width=w, height=h) for i, (w, h) in enumerate(sizes)]
    boxes = [dict(id=i, image_id=i, category_id=1, bbox=[0, 0, *s]) for i, s in enumerate(sizes)]
    content = dict(images=images, annotations=boxes, categories=[dict(id=1, name="cat")])
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(content))
    noise = np.random.default_rng(0)
    for image, (width, height) in zip(images, sizes, strict=True):
        pixels = noise.integers(0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "train" / image["file_name"]), pixels)
    with DATASETS.switch_scope_and_registry("mmdet") as datasets:
        data = datasets.build({**loader.dataset, "data_root": str(tmp_path)})
        digits = Config.fromfile(CONFIGS / "prunet_effdet.py").train_dataloader.dataset.pipeline
        theirs = datasets.build({**loader.dataset, "data_root": str(tmp_path), "pipeline": digits})
        batch = FUNCTIONS.get(loader.collate_fn.type)([data[i] for i in range(4)])
    assert batch["inputs"].shape == (4, 3, 256, 256)
    for seed in range(4):
        crops = []
        for source in (data, theirs):
            np.random.seed(seed)
            crops.append(source[2])
        ours, digit = crops
        height, width = digit["inputs"].shape[1:]
        assert torch.equal(ours["inputs"][:, :height, :width], digit["inputs"])
        found = digit["data_samples"].gt_instances.bboxes.tensor
        assert torch.equal(ours["data_samples"].gt_instances.bboxes, found)


def test_benchmark_records(monkeypatch):
    monkeypatch.chdir(ROOT)
    records = load_records(RESULTS / "benchmark" / "digits")
    assert {record.config_hash for record in records} == {load_suite("digits").config_hash()}


@pytest.fixture(scope="module")
def coco(tmp_path_factory, digits):
    """Four images with 80 categories, as COCO 2017 lies on disk."""
    root = tmp_path_factory.mktemp("coco")
    source = json.loads((digits / "annotations" / "val.json").read_text())
    images = source["images"][:4]
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
@pytest.mark.parametrize("config", COCO)
def test_trains_and_evaluates_on_a_folder_in_cocos_layout(config, coco, tmp_path, here):
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
        "train_dataloader.dataset.pipeline.2.scale=(128,128)",
        "train_dataloader.dataset.pipeline.2.crop_size=(128,128)",
        "val_dataloader.dataset.pipeline.1.scale=(128,128)",
    ]
    first, last = (".rpn", ".rcnn") if "rcnn" in config else ("", "")
    # MMDetection reports nothing where nothing was found.
    options += [f"model.test_cfg{last}.score_thr=0.001", "optim_wrapper.optimizer.lr=1e-4"]
    if "effdet" not in config:  # MMDetection's heads suppress class by class, slowly on a CPU
        options.append(f"model.test_cfg{first}.nms_pre=100")
    if first:  # its images are filled up to the size of its config, and half of it are two layers
        options.append("model.data_preprocessor.pad_size_divisor=128")
        options.append("model.roi_head.bbox_head.fc_out_channels=32")
        options.append("model.test_cfg.rpn.max_per_img=50")
    args = [f"configs/{config}", "--data-root", coco, "--work-dir", tmp_path]
    done = here("train", *args, "--cfg-options", *options)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Iter(train) [2/2]" in output and "coco/bbox_mAP" in output

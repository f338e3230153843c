"""Starting from other weights: what fits comes along, classes by their names, the rest is said."""

from __future__ import annotations

import json
import logging

import pytest

pytest.importorskip("mmengine")

import timm
import torch
from mmengine.config import Config
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.registry import MODELS
from safetensors.torch import load_file, save_file

import prunet_det.classification
import prunet_det.detection  # noqa: F401  (registers)
from prunet_det.arch.spec import ArchSpec, BlockSpec, Provenance, StageSpec, StemSpec, TailSpec
from prunet_det.training.start import Start
from prunet_det.utils.errors import UserError
from tests.conftest import NO_WORKERS, ROOT

LETTERS = list("ABC")
PREDICT = [f"bbox_head.class_tower.predict.conv_pw.{part}" for part in ("weight", "bias")]
TINY = ArchSpec(
    name="tiny",
    stem=StemSpec((8,)),
    stages=(StageSpec((BlockSpec("fused_irb", 8, 8, stride=2, hidden=16),)),) * 4,
    tail=TailSpec(16),
    provenance=Provenance("hand-written", {"reason": "a test"}),
)


def detector_cfg(classes, arch=TINY, **head):
    head = head or dict(type="EfficientDetHead", num_classes=classes, repeats=1)
    return dict(
        type="OneStageDetector",
        backbone=dict(type="PruNet", arch=arch.to_dict() if isinstance(arch, ArchSpec) else arch),
        neck=dict(type="BiFPN", channels=8, num_cells=1, num_levels=4),
        bbox_head=head,
    )


def build(cfg):
    with MODELS.switch_scope_and_registry("mmdet") as models:
        return models.build(cfg)


def fill(model):
    """Gives every tensor values that no initialisation has."""
    for tensor in model.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) + 1 if tensor.is_floating_point() else tensor + 7)
    return model


def saved(folder, state, classes=None):
    path = folder / "old.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    if classes:
        path.with_suffix(".json").write_text(json.dumps({"classes": classes}))
    return path


def start(cfg, path, classes):
    """A model of the config before and after, and the record."""
    model = build(cfg)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with MODELS.switch_scope_and_registry("mmdet"):
        record = Start(model, cfg, path).load(classes)
    return before, model.state_dict(), record


def check(before, after, record, source, initialised):
    """All tensors are the source's, but for those that are named, which are as they were."""
    parts = tuple(f"{part}." for part in record["initialised"])
    assert [name for name in after if f"{name}.".startswith(parts)] == initialised
    assert record["loaded"] == len(after) - len(initialised) and record["tensors"] == len(after)
    for name, tensor in after.items():
        expected = before[name] if name in initialised else source[name]
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("classes", [["A", "B"], list("ABCDE"), ["X", "Y", "Z"]])
def test_a_detector_of_other_classes(tmp_path, caplog, classes):
    caplog.set_level(logging.INFO, "prunet_det")
    source = fill(build(detector_cfg(4))).state_dict()
    path = saved(tmp_path, source, ["p", "q", "r", "s"])
    before, after, record = start(detector_cfg(len(classes)), path, classes)
    check(before, after, record, source, PREDICT)
    assert record["classes_kept"] == []
    assert f"{len(after) - 2}/{len(after)} tensors (backbone" in caplog.text
    assert f"initialised anew: {', '.join(PREDICT)}" in caplog.text


def test_as_many_other_classes_are_other_classes(tmp_path):
    source = fill(build(detector_cfg(3))).state_dict()
    new = ["X", "Y", "Z"]
    before, after, record = start(detector_cfg(3), saved(tmp_path, source, LETTERS), new)
    check(before, after, record, source, PREDICT)


@pytest.mark.parametrize("known", [LETTERS, None])
def test_the_same_classes(tmp_path, known):
    source = fill(build(detector_cfg(3))).state_dict()
    before, after, record = start(detector_cfg(3), saved(tmp_path, source, known), LETTERS)
    check(before, after, record, source, [])


def test_classes_that_both_have_keep_their_rows(tmp_path, caplog):
    caplog.set_level(logging.INFO, "prunet_det")
    source = fill(build(detector_cfg(3))).state_dict()
    new = ["C", "new", "A", "other"]
    before, after, record = start(detector_cfg(4), saved(tmp_path, source, LETTERS), new)
    assert record["initialised"] == PREDICT and record["classes_kept"] == ["C", "A"]
    assert "of these, the rows of the classes C, A came along by name" in caplog.text
    for name in PREDICT:
        theirs = source[name].unflatten(0, (9, 3))
        ours, fresh = (state[name].unflatten(0, (9, 4)) for state in (after, before))
        for i, row in ((0, 2), (2, 0)):
            assert torch.equal(ours[:, i], theirs[:, row])
        for i in (1, 3):
            assert torch.equal(ours[:, i], fresh[:, i])


@pytest.mark.parametrize("classes", [["C", "A", "B"], ["C", "A"]])
def test_all_rows_come_along_in_another_order(tmp_path, caplog, classes):
    caplog.set_level(logging.INFO, "prunet_det")
    source = fill(build(detector_cfg(3))).state_dict()
    path = saved(tmp_path, source, LETTERS)
    _, after, record = start(detector_cfg(len(classes)), path, classes)
    assert record["initialised"] == [] and record["loaded"] == len(after)
    assert "initialised anew" not in caplog.text and "of these" not in caplog.text
    assert f"the rows of the classes {', '.join(classes)} came along by name" in caplog.text


def test_a_part_that_starts_anew_is_one_name(tmp_path):
    source = fill(build(detector_cfg(3))).state_dict()
    own = {name: tensor for name, tensor in source.items() if name.startswith("backbone.")}
    *_, record = start(detector_cfg(3), saved(tmp_path, own), LETTERS)
    assert record["initialised"] == ["neck", "bbox_head"] and record["loaded"] == len(own)


def test_mmdetections_heads(tmp_path):
    """A RetinaNet's rows come along by name; a Faster R-CNN's last layers start anew."""
    retina = dict(type="RetinaHead", in_channels=8, feat_channels=8, stacked_convs=1)
    retina |= dict(anchor_generator=dict(
        type="AnchorGenerator", octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64],
    ))  # fmt: skip
    source = fill(build(detector_cfg(3, num_classes=3, **retina))).state_dict()
    path = saved(tmp_path, source, LETTERS)
    cfg = detector_cfg(2, num_classes=2, **retina)
    _, after, record = start(cfg, path, ["new", "B"])
    names = [f"bbox_head.retina_cls.{part}" for part in ("weight", "bias")]
    assert record["initialised"] == names and record["classes_kept"] == ["B"]
    rows = after[names[0]].unflatten(0, (9, 2))[:, 1]
    assert torch.equal(rows, source[names[0]].unflatten(0, (9, 3))[:, 1])

    two_stage = Config.fromfile(ROOT / "configs" / "prunet_faster_rcnn_coco.py").model
    two_stage.roi_head.bbox_head.num_classes = 3
    source = build(two_stage).state_dict()
    path = saved(tmp_path, source, LETTERS)
    two_stage.roi_head.bbox_head.num_classes = 2
    before, after, record = start(two_stage, path, ["A", "new"])
    names = [
        f"roi_head.bbox_head.fc_{k}.{part}" for k in ("cls", "reg") for part in ("weight", "bias")
    ]
    check(before, after, record, source, names)


@pytest.mark.parametrize("prefix", ["", "net.", "module.net."])
def test_a_classifier_starts_the_backbone(tmp_path, prefix):
    network = fill(prunet_det.create(TINY, num_classes=5))
    path = saved(tmp_path, {prefix + k: v for k, v in network.state_dict().items()}, LETTERS)
    before, after, record = start(detector_cfg(3), path, LETTERS)
    backbone = [k for k in after if k.startswith("backbone.")]
    source = {f"backbone.net.model.{k}": v for k, v in network.state_dict().items()}
    check(before, after, record, source, [k for k in after if k not in backbone])
    assert record["classes_kept"] == []


def test_timms_classifier_starts_timms_backbone(tmp_path):
    network = fill(timm.create_model("resnet10t", num_classes=5))
    torch.save({"state_dict_ema": network.state_dict()}, tmp_path / "old.pth")
    cfg = detector_cfg(3)
    cfg["backbone"] = dict(type="TimmBackbone", name="resnet10t", out_strides=[8, 16, 32])
    before, after, record = start(cfg, tmp_path / "old.pth", LETTERS)
    backbone = [k for k in after if k.startswith("backbone.")]
    source = {f"backbone.net.model.{k}": v for k, v in network.state_dict().items()}
    check(before, after, record, source, [k for k in after if k not in backbone])


def test_imagenet_weights_of_a_package(tmp_path, monkeypatch):
    name = "tf_efficientnet_lite0"
    source = timm.create_model(name).state_dict()
    torch.save(source, tmp_path / "lite.pth")
    for module in ("prunet_det.training.start", "prunet_det.zoo.weights"):
        monkeypatch.setattr(f"{module}.imagenet_file", lambda network: tmp_path / "lite.pth")
    cfg = detector_cfg(3)
    cfg["backbone"] = dict(type="TimmBackbone", name=name, out_strides=[8, 16, 32])
    before, after, record = start(cfg, "imagenet", LETTERS)
    backbone = [k for k in after if k.startswith("backbone.")]
    source = {f"backbone.net.model.{k}": v for k, v in source.items()}
    check(before, after, record, source, [k for k in after if k not in backbone])
    assert record["file"] == "imagenet" and len(record["digest"]) == 16


def test_classifiers_and_what_mmengine_saves(tmp_path):
    """The history of losses that lies beside the tensors is not unpickled."""
    cfg = dict(type="Classifier", arch=TINY.to_dict(), num_classes=3)
    source = fill(build(cfg)).state_dict()
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    hub = {"log_scalars": {"loss": history}, "runtime_info": {"loss": history.current()}}
    checkpoint = {"meta": {"epoch": 1}, "state_dict": source, "message_hub": hub}
    torch.save(checkpoint, tmp_path / "epoch_1.pth")
    (tmp_path / "train.json").write_text(json.dumps({"classes": LETTERS}))
    before, after, record = start(
        {**cfg, "num_classes": 4}, tmp_path / "epoch_1.pth", ["D", "B", "E", "F"]
    )
    names = ["net.classifier.weight", "net.classifier.bias"]
    assert record["initialised"] == names and record["classes_kept"] == ["B"]
    for name in names:
        assert torch.equal(after[name][1], source[name][1])
        assert torch.equal(after[name][0], before[name][0])


def test_weights_of_another_network_are_refused(tmp_path):
    path = saved(tmp_path, build(detector_cfg(3)).state_dict(), LETTERS)
    with pytest.raises(UserError, match=r"only \d+/\d+ backbone tensors .* another network"):
        start(detector_cfg(3, arch="prunet_demo"), path, LETTERS)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"0/\d+ backbone tensors .*: no name fits"):
        start(detector_cfg(3), path, LETTERS)
    with pytest.raises(UserError, match="there is no checkpoint"):
        start(detector_cfg(3), tmp_path / "none.safetensors", LETTERS)


SHIPPED = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"


def test_the_tool_starts_records_and_resumes(digits, few, tmp_path, here):
    """At learning rate 0 the averaged weights are those that the training started from."""
    other = prunet_det.create("prunet_demo")
    save_file(fill(other).state_dict(), tmp_path / "other.safetensors")
    content = json.loads((digits / "annotations" / "train.json").read_text())
    content["images"] = content["images"][:2]
    ids = [image["id"] for image in content["images"]]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    content["categories"] = [
        {**c, "name": "new" if c["name"] == "3" else c["name"]} for c in content["categories"]
    ]
    (tmp_path / "train.json").write_text(json.dumps(content))
    options = [
        *NO_WORKERS,
        "train_dataloader.batch_size=1",
        f"train_dataloader.dataset.ann_file={tmp_path / 'train.json'}",
        "val_dataloader=None",
        "val_evaluator=None",
        "val_cfg=None",
        "optim_wrapper.optimizer.lr=0.0",
        "default_hooks.checkpoint.interval=1",
        f"model.backbone.checkpoint={tmp_path / 'other.safetensors'}",
    ]
    work = tmp_path / "work"
    command = ["train", "configs/prunet_effdet.py", "--work-dir", work, "--from", SHIPPED]
    command += ["--resume", "--max-iters"]
    done = here(*command, 1, "--cfg-options", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"started from {SHIPPED}: 368/370 tensors" in done.stderr
    started = json.loads((work / "train.json").read_text())["started_from"]
    assert started["file"] == "checkpoints/prunet_demo_digits.safetensors"
    assert started["initialised"] == PREDICT
    assert started["classes_kept"] == [*"012", *"456789"]
    source, after = load_file(SHIPPED), load_file(work / "weights.safetensors")
    for name in after:
        if name not in PREDICT and not name.endswith(("running_mean", "running_var", "_tracked")):
            assert torch.equal(after[name], source[name].float()), name
    rows = [after[PREDICT[0]], source[PREDICT[0]].float()]
    ours, theirs = (t.unflatten(0, (9, 10)) for t in rows)
    assert torch.equal(ours[:, 4], theirs[:, 4]) and not torch.equal(ours[:, 3], theirs[:, 3])

    again = here(*command, 1, "--cfg-options", *options)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "resumed from" in again.stderr and "is not read" in again.stderr
    assert json.loads((work / "train.json").read_text())["started_from"] == started


@pytest.mark.parametrize("flags", [["--from", SHIPPED], []], ids=["from", "scratch"])
def test_the_recipe_trains_on_a_folder_of_ones_own(digits, tmp_path, here, flags):
    content = json.loads((digits / "annotations" / "train.json").read_text())
    images = content["images"][:3]
    ids = [image["id"] for image in images]
    boxes = [a for a in content["annotations"] if a["image_id"] in ids]
    names = {2: "cat", 0: "dog", 7: "bird"}
    folder = {
        "images": images,
        "annotations": [{**a, "category_id": list(names)[a["category_id"] % 3]} for a in boxes],
        "categories": [{"id": i, "name": name} for i, name in names.items()],
    }
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"{split}.json").write_text(json.dumps(folder))
        (tmp_path / split).mkdir()
        for image in images:
            (tmp_path / split / image["file_name"]).symlink_to(
                digits / "train" / image["file_name"]
            )
    command = ["train", "configs/prunet_effdet_finetune.py", "--data-root", tmp_path, *flags]
    command += ["--work-dir", tmp_path / "work", "--max-iters", 1, "--cfg-options", *NO_WORKERS]
    done = here(*command, "model.bbox_head.num_classes=3", "train_dataloader.batch_size=2")
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "work" / "train.json").read_text())
    assert record["classes"] == ["cat", "dog", "bird"]
    assert record.get("started_from", {}).get("initialised") == (PREDICT if flags else None)

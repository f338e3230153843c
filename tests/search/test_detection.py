"""The search on a detector's own loss: coloured squares that a tiny detector learns."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections import Counter
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from prunet_det.datasets.split import halves, write_part
from prunet_det.detection.build import NetworkPart, build_detector, image_size
from prunet_det.latency.predict import predict_module
from prunet_det.runtime.subject import Scope
from prunet_det.search import SearchConfig, reachable, search
from prunet_det.search.config import _read_detector
from prunet_det.search.costs import Pricing
from prunet_det.search.detection import Detection
from prunet_det.search.detectors import detector_subject, find_all, found_config
from prunet_det.search.finalists import FinalistSettings
from prunet_det.search.pricing import overhead
from prunet_det.search.result import SearchResult
from prunet_det.search.schedule import EvolutionSettings, LoopSettings
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace
from prunet_det.search.supernet import Path as Way
from prunet_det.search.supernet import SuperNet
from prunet_det.utils.config import read_config
from prunet_det.utils.errors import InputError, UserError
from prunet_det.zoo import resolve_spec
from tests.conftest import kill_once
from tests.dispatched import dispatched
from tests.search.conftest import SMALL, in_two_processes

SIDE = 64
CONFIG = """
_base_ = ["{root}/configs/_base_/detection.py", "{root}/configs/_base_/datasets/coco_format.py",
          "{root}/configs/_base_/models/effdet.py", "{root}/configs/_base_/schedules/muon.py"]
data_root = "{data}/"
size = (64, 64)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, box_type=None),
    dict(type="RandomScaleCrop", scale=size, ratio_range=(0.9, 1.1), crop_size=size, pad_val=0),
    dict(type="PackChannelsLast"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Letterbox", scale=size, pad_val=0),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs",
         meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
data = dict(type="CocoFolder", data_root=data_root, ann_file="annotations/train.json",
            data_prefix=dict(img="train/"), pipeline=train_pipeline)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=data,
    sampler=dict(type="InfiniteSampler"), collate_fn=dict(type="padded_collate"))
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(data, test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/train.json")
test_evaluator = val_evaluator
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(arch="prunet_demo"),
    neck=dict(num_cells=1, num_levels=3, channels=8),
    bbox_head=dict(num_classes=3, repeats=1),
    test_cfg=dict(max_per_img=10),
)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of 12 images with squares of three colours."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "annotations").mkdir()
    (folder / "train").mkdir()
    rng = np.random.default_rng(0)
    coco = {"images": [], "annotations": [], "categories": []}
    coco["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate("abc")]
    for i in range(12):
        image = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        for k in {i % 3, i % 2}:
            x, y, side = 20 * k + 2, int(rng.integers(0, 40)), 16
            image[y : y + side, x : x + side, k] = 255
            box = {"image_id": i, "category_id": k + 1, "bbox": [x, y, side, side], "area": 256}
            coco["annotations"].append({"id": len(coco["annotations"]) + 1, "iscrowd": 0, **box})
        cv2.imwrite(str(folder / "train" / f"{i}.png"), image)
        entry = {"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE}
        coco["images"].append(entry)
    (folder / "annotations" / "train.json").write_text(json.dumps(coco))
    return folder


@pytest.fixture(scope="module")
def config(data, pytestconfig):
    path = data / "detector.py"
    path.write_text(CONFIG.format(root=pytestconfig.rootpath, data=data))
    return path


def small_search(space, detector, out, **changes) -> SearchConfig:
    settings = dict(
        space=space,
        detector=detector,
        budgets_ms=(0.52,),
        scope="detector",
        input_size=SIDE,
        search=LoopSettings(
            warmup=2,
            warmup_batch=2,
            paths=2,
            tiers=4,
            batch=2,
            draws=3,
            draws_batch=4,
            score_images=6,
            checkpoint_interval=2,
        ),
        evolution=EvolutionSettings(evaluations=6),
        finalists=FinalistSettings(iterations=(2, 4), kept=(1,), evolved=1, random=0, proposed=0),
        progress=False,
    )
    return SearchConfig(out=str(out), **{**settings, **changes})


@pytest.fixture
def tiny(space, config):
    """Makes the config of a search on the squares."""

    def make(out, **changes) -> SearchConfig:
        detector = changes.pop("detector", _read_detector(config, None, None))
        return small_search(space, detector, out, **changes)

    return make


@pytest.fixture
def task(config, tmp_path):
    detector = _read_detector(config, None, None)
    return Detection(detector, tmp_path, 0, score_images=6, input_size=SIDE)


@pytest.fixture(scope="module")
def shapes(costs):
    return Shapes(costs)


def way_of(shapes, shape):
    return Way(shape.operators, shapes.hidden(shape))


def content(labels):
    """An annotation file whose images have these labels."""
    images = [{"id": i} for i in range(len(labels))]
    boxes = [
        {"image_id": i, "category_id": k, "bbox": [0, 0, 9, 9]}
        for i, own in enumerate(labels)
        for k in own
    ]
    return dict(
        images=images, annotations=boxes, categories=[{"id": k, "name": str(k)} for k in range(4)]
    )


def test_both_halves_hold_every_class(tmp_path):
    labels = [{0}] * 9 + [{0, 1}] * 4 + [{2, 0}, {2}, set()]
    for seed in range(5):
        parts = halves(content(labels), seed)
        assert sorted(parts[0] + parts[1]) == list(range(16))
        for part in parts:
            assert {k for i in part for k in labels[i]} == {0, 1, 2}
        counts = [Counter(k for i in part for k in labels[i]) for part in parts]
        assert counts[0][1] == counts[1][1] == 2 and counts[0][2] == counts[1][2] == 1
    assert halves(content(labels), 0) != halves(content(labels), 1)
    write_part(content(labels), [13, 14], tmp_path / "part.json")
    part = json.loads((tmp_path / "part.json").read_text())
    assert [image["id"] for image in part["images"]] == [13, 14]
    assert len(part["annotations"]) == 3 and len(part["categories"]) == 4


def test_every_class_that_can_be_is_in_both_halves():
    """Also one that is no image's rarest, or shares that with another."""
    rng = np.random.default_rng(0)
    layouts = [[{0, 1}, {1}, {0, 2}, {2}]] * 20
    layouts += [[{int(k) for k in rng.integers(0, 4, 2)} for _ in range(30)] for _ in range(20)]
    for seed, labels in enumerate(layouts):
        for part in halves(content(labels), seed):
            assert {k for i in part for k in labels[i]} == set().union(*labels)


def test_crowds_and_boxes_of_no_size_are_not_counted():
    coco = content([{0}, {0}, {1}, {1}])
    coco["annotations"][2]["iscrowd"] = 1
    with pytest.raises(InputError, match="one image alone has the class '1'"):
        halves(coco, 0)


def test_classes_that_only_one_half_could_have_are_refused():
    with pytest.raises(InputError, match=r"cannot be divided so that both halves have the class"):
        halves(content([{0, 1}, {0, 2}, {1, 2}]), 0)


def test_a_class_of_one_image_is_refused():
    with pytest.raises(InputError, match=r"one image alone has the class '3'.* or leave it out"):
        halves(content([{0}, {0}, {3, 0}]), 0)


def test_a_paths_loss_is_that_of_the_detector_found(task, shapes):
    """MMDetection builds and runs the detector; the weights alone are the supernet's."""
    torch.manual_seed(0)
    model = task.build(shapes.space)
    assert task.guess > 0
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    (batch,) = task.batches("weights", 0, 1, 2, SIDE)
    for shape in shapes.draw(np.random.default_rng(0), 0.2, 3):
        spec = shapes.space.to_spec(shape, "found", shapes_made(), SIDE)
        found = build_detector(found_config(task.cfg, spec))
        found.load_state_dict(task._inherited(model, 0, spec, shape))
        expected = found.train().parse_losses(found.loss(batch["inputs"], batch["data_samples"]))
        loss = task.loss(model, batch, way_of(shapes, shape))
        torch.testing.assert_close(loss, expected[0], rtol=1e-4, atol=1e-4)


def shapes_made():
    from prunet_det.arch.spec import Provenance

    return Provenance("hand-written", {"reason": "a test"})


def test_batches_go_on_where_they_stopped(task, config, tmp_path, shapes):
    task.build(shapes.space)
    first = [task.batches("weights", 0, 2, 2, SIDE) for _ in range(3)]
    state = task.state_dict()
    assert state == {f"weights@{SIDE}": 6}
    (after,) = task.batches("weights", 0, 1, 2, SIDE)
    again = Detection(
        _read_detector(config, None, None), tmp_path, 0, score_images=6, input_size=SIDE
    )
    again.build(shapes.space)
    again.load_state_dict(state)
    (resumed,) = again.batches("weights", 9, 1, 2, SIDE)
    assert torch.equal(after["inputs"], resumed["inputs"])
    assert not torch.equal(after["inputs"], first[0][0]["inputs"])
    one, two = ([batch["inputs"] for batch in t.scored(SIDE)] for t in (task, again))
    assert len(one) == 3 and all(map(torch.equal, one, two))


def test_a_detector_is_priced_as_a_whole(tiny, shapes, tmp_path):
    """The budget's milliseconds are what `latency predict` says of the detector."""
    config = tiny(tmp_path)
    own = Shapes(config.pricing.costs(config.space, SIDE))
    beyond, factor = overhead(config.detector, own, Scope.DETECTOR, config.pricing)
    assert factor == 1
    for shape in own.draw(np.random.default_rng(1), sum(own.reachable()) / 2, 3):
        spec = own.space.to_spec(shape, "found", shapes_made(), SIDE)
        part = NetworkPart(build_detector(found_config(config.detector, spec)), SIDE)
        whole = predict_module(part, "found", "v100", 1, SIDE, "detector").latency.ms
        assert own.ms(shape) + beyond == pytest.approx(whole, rel=1e-6)


def test_a_search_ends_in_a_detector(tiny, tmp_path, config):
    result = search(tiny(tmp_path / "out", budgets_ms=(0.5, 0.52)))
    assert result.accepted
    for ms in (0.5, 0.52):
        folder = tmp_path / "out" / f"{ms:g}ms"
        found = SearchResult.load(tmp_path / "out").networks[ms]
        assert 0 <= found.figures["mAP"] <= 1 and f"mAP {found.figures['mAP']:.3f}" in found.line
        assert found.scope == "detector" and found.classes == ("a", "b", "c")
        detector = build_detector(folder / "config.py", folder / "weights.safetensors")
        images = torch.rand(1, 3, SIDE, SIDE)
        with torch.no_grad():
            ours, theirs = found.build().network(images), detector.network(images)
        torch.testing.assert_close(ours, theirs)
        part = NetworkPart(detector, SIDE)
        whole = predict_module(part, "found", "v100", 1, SIDE, "detector").latency.ms
        assert 0.97 * ms <= whole <= ms and whole == pytest.approx(found.ms)
    own = read_config(folder / "config.py")
    assert own.train_dataloader == _read_detector(config, None, None).train_dataloader
    report = (tmp_path / "out" / "report.md").read_text()
    assert "backbone, neck and head" in report and "mAP after a training" in report


@pytest.mark.parametrize("parts", [(), ("finalists",)])
def test_the_size_of_images_is_chosen_too(tiny, tmp_path, parts):
    """Each budget at the sizes that can meet it; what comes out is for the size it has."""
    sizes = (SIDE, 96)
    search(tiny(tmp_path / "out", input_sizes=sizes, budgets_ms=(0.5, 0.53), off=parts))
    result = SearchResult.load(tmp_path / "out")
    for ms, found in result.networks.items():
        size = found.budget.input_size
        assert size in sizes and f"{size} px" in found.line and found.accepted
        detector = build_detector(tmp_path / "out" / f"{ms:g}ms" / "config.py")
        assert image_size(detector.cfg) == size
        crop = next(s for s in detector.cfg.train_pipeline if "crop_size" in s)
        assert tuple(crop["crop_size"]) == (size, size)
        part = NetworkPart(detector, size)
        whole = predict_module(part, "found", "v100", 1, size, "detector").latency.ms
        assert whole == pytest.approx(found.ms)
    finalists = [f["name"] for f in result.networks[0.53].figures.get("finalists", [])]
    assert parts or {name.partition(" at ")[2] for name in finalists} == {"64 px", "96 px"}
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.count("How the tiers went") == 2


def test_a_budget_that_no_size_meets(tiny, tmp_path):
    with pytest.raises(InputError, match=r"at 64 px.* at 96 px"):
        search(tiny(tmp_path / "out", input_sizes=(SIDE, 96), budgets_ms=(0.1,)))


class Killed(BaseException):
    pass


def bytes_of(out):
    return [(out / "0.52ms" / name).read_bytes() for name in ("arch.json", "weights.safetensors")]


@pytest.mark.parametrize("at", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_search_that_was_killed_goes_on_to_the_same_bytes(tiny, tmp_path, monkeypatch, at):
    search(tiny(tmp_path / "whole"))
    save, calls = torch.save, []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) > at:
            raise Killed
        return save(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", dies)
        with pytest.raises(Killed):
            search(tiny(tmp_path / "killed"))
    search(tiny(tmp_path / "killed", resume=True))
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def search_in(folder):
    """What the process of the test below does."""
    torch.set_num_threads(1)
    detector = _read_detector(f"{folder}/detector.py", None, None)
    search(small_search(SearchSpace.from_config(SMALL), detector, f"{folder}/out"))


@pytest.mark.slow
@pytest.mark.parametrize("at", ["search.pth", "0.52ms/finalists/records.jsonl"])
def test_a_process_that_was_killed(tiny, tmp_path, config, at):
    """By SIGKILL, while the supernet trains and in the last tier."""
    out = tmp_path / "out"
    shutil.copy(config, tmp_path / "detector.py")
    program = f"from tests.search.test_detection import search_in; search_in({str(tmp_path)!r})"
    kill_once((out / at).exists, [sys.executable, "-c", program], tmp_path / "log")
    assert not (out / "report.md").exists()
    search(tiny(out, resume=True))
    search(tiny(tmp_path / "whole"))
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def search_as_one_of_two(rank, folder):
    """What each process of the test below does."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=2)
    detector = _read_detector((folder / "path").read_text(), None, None)
    space = SearchSpace.from_config(SMALL)
    result = search(small_search(space, detector, folder / "out"))
    (folder / str(rank)).write_text(str(len(result.networks)))


@pytest.mark.slow
def test_two_processes_train_a_detector(config, tmp_path, space):
    (tmp_path / "path").write_text(str(config))
    assert in_two_processes(search_as_one_of_two, tmp_path) == ["1", "0"]
    found = SearchResult.load(tmp_path / "out").networks[0.52]
    assert found.accepted and "mAP" in found.figures


def test_a_supernet_of_crops_is_what_it_starts_from(config, tmp_path, shapes, space):
    torch.manual_seed(1)
    crops = SuperNet(space, 5)
    state = {
        "identity": {"space (digest)": space.hash},
        "loop": {"weights": {"ema": crops.state_dict(), "structure": crops.structure()}},
    }
    torch.save(state, tmp_path / "search.pth")
    detector = _read_detector(config, None, None)
    task = Detection(detector, tmp_path, 0, input_size=SIDE, start=tmp_path / "search.pth")
    own = task.supernet(task.build(space)).state_dict()
    assert all(torch.equal(own[name], crops.state_dict()[name]) for name in own)
    state["identity"]["space (digest)"] = "another"
    torch.save(state, tmp_path / "search.pth")
    with pytest.raises(InputError, match="is of a search in another space"):
        task.build(space)
    state["identity"]["space (digest)"] = space.hash
    state["loop"]["weights"]["structure"][1] = [0]
    torch.save(state, tmp_path / "search.pth")
    with pytest.raises(InputError, match="has pruned its supernet; .* search.tiers=0"):
        task.build(space)


def test_a_step_dispatches_the_detectors_own_operators(task, shapes):
    """A path costs what a training's step on that detector does, but for the norms' statistics."""
    model = task.build(shapes.space)
    (batch,) = task.batches("weights", 0, 1, 2, SIDE)
    (shape,) = shapes.draw(np.random.default_rng(0), 0.2, 1)
    spec = shapes.space.to_spec(shape, "found", shapes_made(), SIDE)
    found = build_detector(found_config(task.cfg, spec)).train()

    def theirs():
        losses = found.loss(batch["inputs"], batch["data_samples"])
        found.parse_losses(losses)[0].backward()

    ours = dispatched(lambda: task.loss(model, batch, way_of(shapes, shape)).backward())
    expected = dispatched(theirs)
    assert sum(ours.values()) < 1.25 * sum(expected.values())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (dict(search=LoopSettings(batch=2, warmup_batch=4)), "warmup_batch must be search.batch"),
        (dict(supernet="none.pth"), "there is no checkpoint of a search none.pth"),
        (dict(scope="e2e"), "scope e2e is measured: give the device here"),
        (dict(scope="neck"), "the scope must be one of"),
        (dict(detector=None), "needs data, or a detector"),
        (dict(input_sizes=(64, 64)), "an input size is given twice"),
        (dict(budgets_ms=(0.1,)), "a budget of 0.1 ms cannot be met"),
    ],
)
def test_refusals(tiny, tmp_path, changes, why):
    with pytest.raises(UserError, match=why):
        search(tiny(tmp_path / "out", **changes))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"model.bbox_head.num_classes": 5},
            "has 3 classes and the detector 5: set .*classes",
        ),
        ({"model.neck.in_channels": [7]}, r"neck takes maps of \[7\] channels, .* gives \[24\]"),
        ({"model.backbone.type": "ResNet"}, "backbone must be of type PruNet, .* is a ResNet"),
        ({"test_evaluator.type": "VOCMetric"}, "judged by mAP: .* test_evaluator must be"),
        ({"test_evaluator.format_only": True}, "format_only=True gives no mAP"),
        ({"train_dataloader.sampler.type": "ClassAwareSampler"}, "sampler must be one of"),
        ({"train_dataloader.dataset.ann_file": "labels.txt"}, "annotation file, in COCO's"),
        ({"train_dataloader.dataset.pipeline.2.type": "CachedMosaic"}, "take Mosaic"),
        ({"model.data_preprocessor.batch_augments": [dict(type="x")]}, "leave .*batch_augments"),
    ],
)
def test_detectors_that_are_refused_before_the_first_step(tiny, tmp_path, config, options, why):
    detector = _read_detector(config, None, options)
    with pytest.raises(InputError, match=why):
        search(tiny(tmp_path / "out", detector=detector))


def test_maps_of_other_strides_are_refused(tiny, tmp_path, config):
    options = {"model.type": "SingleStageDetector", "model.channels_last": None}
    detector = _read_detector(config, None, options)
    with pytest.raises(InputError, match=r"reads maps of strides \[8, 16, 32\], .* has \[8\]"):
        search(tiny(tmp_path / "out", detector=detector))


def test_a_config_that_trains_by_epochs(tiny, tmp_path, config):
    detector = _read_detector(config, None, None)
    detector.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=300)
    detector.param_scheduler = [dict(type="MultiStepLR", milestones=[200], by_epoch=True)]
    detector.train_dataloader.sampler = dict(type="DefaultSampler", shuffle=True)
    result = search(tiny(tmp_path / "out", detector=detector))
    assert result.accepted and "mAP" in result.networks[0.52].figures
    lengths = {s for f in result.networks[0.52].figures["finalists"] for s in f["scores"]}
    assert lengths == {"2", "4"}


def test_neck_and_head_start_with_the_configs_weights(config, tmp_path, space):
    torch.manual_seed(3)
    first = Detection(_read_detector(config, None, None), tmp_path, 0, input_size=SIDE)
    weights = first.build(space).state_dict()
    torch.save(weights, tmp_path / "start.pth")
    detector = _read_detector(config, None, {"load_from": str(tmp_path / "start.pth")})
    model = Detection(detector, tmp_path, 0, input_size=SIDE).build(space)
    found = model.state_dict()
    parts = [name for name in found if not name.startswith("backbone.")]
    assert parts and all(torch.equal(found[name], weights[name]) for name in parts)


def test_what_is_found_goes_into_a_folder_of_its_own(tiny, tmp_path, config):
    config = tiny(tmp_path)
    assert config.detector.work_dir
    spec = resolve_spec("prunet_demo")
    assert "work_dir" not in found_config(config.detector, spec)


@pytest.mark.slow
def test_a_measured_detector_keeps_its_price(tiny, tmp_path, monkeypatch):
    """A search goes on with the same milliseconds; the network itself is measured at its end."""
    pricing = Pricing(device="here", tables=tmp_path / "tables", seconds=0.01, threads=1)
    whole = iter((2.0, 2.5, 3.0, 3.5, 4.0))

    def measured(subjects, *_, **__):
        return [SimpleNamespace(latency=SimpleNamespace(ms=next(whole))) for _ in subjects]

    monkeypatch.setattr("prunet_det.search.pricing.measure", measured)
    low, high = reachable(tiny(tmp_path / "out", pricing=pricing))
    (kept,) = (tmp_path / "tables").glob("detector_*.json")
    line = json.loads(kept.read_text())
    own = Shapes(pricing.costs(tiny(tmp_path).space, SIDE)).reachable()
    ends = [line["beyond_ms"] + line["factor"] * ms for ms in own]
    assert (low, high) == pytest.approx(ends) and line["factor"] > 0
    monkeypatch.setattr("prunet_det.search.pricing.measure", None)
    assert reachable(tiny(tmp_path / "out", pricing=pricing)) == (low, high)
    monkeypatch.undo()
    budget = float(f"{(low + high) / 2:.4g}")
    result = search(tiny(tmp_path / "out", pricing=pricing, budgets_ms=(budget,)))
    assert result.networks[budget].measured_ms > 0


@pytest.mark.parametrize("fits", [True, False])
def test_blocks_do_not_quite_add_up_to_a_measured_detector(tiny, tmp_path, monkeypatch, fits):
    """Here neck and head take 0.3 ms, and blocks twice what they did one by one."""
    config = tiny(tmp_path)
    own = Shapes(config.pricing.costs(config.space, SIDE))
    own.costs.table.kind = "measured"
    sums, number = [], itertools.count()

    def measured(*_, **__):
        i = next(number)
        ms = 0.3 + 2 * sums[i] if fits else 3.0 / (1 + i)
        return [SimpleNamespace(latency=SimpleNamespace(ms=ms))]

    def noted(cfg, spec):
        sums.append(own.ms(own.space.shape_of(spec)))
        return found_config(cfg, spec)

    monkeypatch.setattr("prunet_det.search.pricing.measure", measured)
    monkeypatch.setattr("prunet_det.search.detectors.found_config", noted)
    monkeypatch.setattr("prunet_det.search.pricing.find_device", lambda _: "cpu")
    pricing = Pricing(tables=tmp_path / "tables")
    if fits:
        found = overhead(config.detector, own, Scope.DETECTOR, pricing)
        assert found == pytest.approx((0.3, 2)) and sums == sorted(sums)
        (shape,) = own.draw(np.random.default_rng(0), sums[1], 1)
        before = own.ms(shape)
        own.costs.correct(*found)
        assert own.ms(shape) == pytest.approx(0.3 + 2 * before)
        scaled = Shapes(own.costs).scale(shape, 0.3 + 2 * before)
        assert 0.97 * (0.3 + 2 * before) <= own.ms(scaled) <= 0.3 + 2 * before
    else:
        with pytest.raises(InputError, match="larger detectors were not measured to be slower"):
            overhead(config.detector, own, Scope.DETECTOR, pricing)


def test_end_to_end_is_timed_with_as_many_objects_as_there_may_be(config, shapes):
    """Of random weights, whose scores all lie above or below the config's."""
    spec = shapes.space.to_spec(
        shapes.draw(np.random.default_rng(0), 0.25, 1)[0], "n", shapes_made(), SIDE
    )
    for threshold in (0.0, 0.9):
        cfg = found_config(_read_detector(config, None, None), spec)
        cfg.model.test_cfg["score_thr"] = threshold
        cfg.model.test_cfg.max_per_img = 10
        subject = find_all(detector_subject(build_detector(cfg), Scope.E2E, SIDE))
        detector, selection = subject.detector, subject.detector.bbox_head.test_cfg
        bind = partial(partial, subject.module)
        meta = dict.fromkeys(("img_shape", "ori_shape"), (SIDE, SIDE)) | {"scale_factor": (1, 1)}
        found = subject.module.detect(detector, bind, subject.pixels(), [meta])
        assert 9 <= len(found[0].scores) <= 10 and 0 < selection["score_thr"] < 0.9
    whole = detector_subject(build_detector(cfg), Scope.DETECTOR, SIDE)
    assert find_all(whole).detector.bbox_head.test_cfg["score_thr"] == 0.9


def test_a_detector_gives_the_size_of_its_images(config, tmp_path):
    found = SearchConfig.from_file(
        "configs/search/effdet.py", budget_ms=1.0, detector=config, scope="detector"
    )
    assert found.input_size == SIDE and not found.data
    assert f"--detector {config}" in found.command and "--scope detector" in found.command
    with pytest.raises(InputError, match="classes are those of its data"):
        SearchConfig.from_file("configs/search/effdet.py", budget_ms=1, detector=config, classes=2)
    with pytest.raises(InputError, match="need one"):
        SearchConfig.from_file(
            "configs/search/quick.py", budget_ms=1, detector_options={"model.type": "x"}
        )

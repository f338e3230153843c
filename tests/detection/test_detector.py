"""Pyramid, head and detector: wiring, selection, and that no config types a channel count."""

from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

import prunet_det.detection  # noqa: F401  (registers)
from prunet_det.detection.bifpn import BiFPN, Node, bifpn_nodes
from prunet_det.detection.head import EfficientDetHead
from prunet_det.detection.transforms import padded_collate


def detector_cfg(arch="prunet_demo", **neck):
    return dict(
        type="OneStageDetector",
        backbone=dict(type="PruNet", arch=arch),
        neck=dict(type="BiFPN", channels=16, num_cells=1, **neck),
        bbox_head=dict(type="EfficientDetHead", num_classes=3, repeats=1),
    )


def batch(size=128, count=2):
    samples = []
    for i in range(count):
        sample = DetDataSample(
            metainfo=dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0))
        )
        boxes = torch.tensor([[10.0, 12, 60, 70], [50, 20, 90, 100]])[: i + 1]
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(i + 1))
        samples.append(sample)
    return torch.randn(count, 3, size, size), samples


def test_the_cell_is_efficientdets():
    assert bifpn_nodes(3) == (
        Node(1, (1, 2)),
        Node(0, (0, 3)),
        Node(1, (1, 3, 4)),
        Node(2, (2, 5)),
    )


@pytest.mark.parametrize(
    ("arch", "made"), [("prunet_demo", 2), ("prunet_p0", 1)], ids=["stride 32", "stride 64"]
)
def test_levels_come_from_the_backbone_where_it_has_them(arch, made):
    with torch.device("meta"):
        model = MODELS.build(detector_cfg(arch))
    assert len(model.neck.extra_levels) == made
    assert model.bbox_head.grid.strides == model.neck.out_strides == (8, 16, 32, 64, 128)


def test_a_variant_is_data():
    top_down = [dict(level=2, inputs=(2,)), dict(level=1, inputs=(1, 3)), Node(0, (0, 4))]
    neck = BiFPN([8, 8, 8], [8, 16, 32], channels=8, num_cells=2, num_levels=3, nodes=top_down)
    maps = [torch.randn(1, 8, s, s) for s in (16, 8, 4)]
    assert [m.shape[-1] for m in neck(maps)] == [16, 8, 4]
    for bad, why in (
        ([Node(0, (0, 9))], "do not all come before"),
        ([Node(5, (0,))], "level 5 of 3"),
        ([Node(0, (0, 1))], "no node on level 1"),
    ):
        with pytest.raises(ValueError, match=why):
            BiFPN([8, 8, 8], [8, 16, 32], num_levels=3, nodes=bad)


def test_a_node_may_skip_levels():
    nodes = [Node(2, (0, 2)), Node(1, (1, 3)), Node(0, (0, 3))]
    neck = BiFPN([8, 8, 8], [8, 16, 32], channels=8, num_cells=1, num_levels=3, nodes=nodes)
    maps = [torch.randn(1, 8, s, s) for s in (15, 8, 4)]
    assert [m.shape[-1] for m in neck(maps)] == [15, 8, 4]


def test_odd_sizes_pass_through():
    neck = BiFPN([8, 8, 8], [8, 16, 32], channels=8, num_cells=2).eval()
    maps = [torch.randn(1, 8, h, w) for h, w in ((42, 65), (21, 33), (11, 17))]
    sizes = [tuple(m.shape[-2:]) for m in neck(maps)]
    assert sizes == [(42, 65), (21, 33), (11, 17), (6, 9), (3, 5)]


@pytest.mark.parametrize(
    ("strides", "why"), [((8, 32), "double from level"), ((8, 16, 32, 64, 128, 256), "5 levels")]
)
def test_impossible_levels(strides, why):
    with pytest.raises(ValueError, match=why):
        BiFPN([8] * len(strides), strides)


def test_a_wrong_channel_count_is_refused():
    with pytest.raises(ValueError, match=r"neck\.in_channels is .* leave it out"):
        MODELS.build(detector_cfg(in_channels=[1, 2, 3]))


@pytest.mark.parametrize("channels_last", [False, True])
def test_loss_and_gradients(channels_last):
    model = MODELS.build(dict(**detector_cfg(), channels_last=channels_last)).train()
    images, samples = batch()
    losses = model(images, samples, mode="loss")
    assert set(losses) == {"loss_cls", "loss_bbox"}
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_channels_last_is_the_same_network():
    plain = MODELS.build(detector_cfg()).eval()
    last = MODELS.build(dict(**detector_cfg(), channels_last=True)).eval()
    last.load_state_dict(plain.state_dict())
    images, _ = batch()
    for a, b in zip(plain(images)[0], last(images)[0], strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_images_without_objects_train():
    model = MODELS.build(detector_cfg()).train()
    images, samples = batch()
    for s in samples:
        s.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    losses = model(images, samples, mode="loss")
    assert losses["loss_bbox"] == 0 and torch.isfinite(losses["loss_cls"])
    sum(losses.values()).backward()


def planted(head, box, label, logit):
    """Head outputs in which one anchor says `label` with `logit`, its box decoding to `box`."""
    sizes = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    anchors = head.grid.boxes(sizes)
    centre = torch.tensor([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    row = ((anchors[:, :2] + anchors[:, 2:]) / 2 - centre).norm(dim=1).argmin()
    logits = torch.full((len(anchors), head.num_classes), -9.0)
    logits[row, label] = logit
    deltas = torch.zeros(len(anchors), 4)
    deltas[row] = head.coder.encode(anchors[row : row + 1], torch.tensor([box]))[0]
    split = [h * w * head.grid.per_location for h, w in sizes]

    def maps(flat):
        parts = flat.split(split)
        return [
            p.reshape(1, h, w, -1).permute(0, 3, 1, 2)
            for p, (h, w) in zip(parts, sizes, strict=True)
        ]

    return maps(logits), maps(deltas)


def test_prediction_finds_a_planted_object_and_rescales():
    head = EfficientDetHead(3, 8, (8, 16, 32, 64, 128), test_cfg=dict(score_thr=0.5))
    outputs = planted(head, (20.0, 30.0, 60.0, 80.0), label=2, logit=3.0)
    meta = dict(img_shape=(128, 128), scale_factor=(0.5, 0.25))
    (found,) = head.predict_by_feat(*outputs, batch_img_metas=[meta], rescale=True)
    assert found.labels.tolist() == [2]
    assert found.scores[0] == torch.tensor(3.0).sigmoid()
    assert torch.allclose(found.bboxes, torch.tensor([[40.0, 120.0, 120.0, 320.0]]), atol=1e-3)


def test_boxes_are_clipped_and_unknown_test_settings_refused():
    head = EfficientDetHead(3, 8, (8, 16, 32, 64, 128), test_cfg=dict(score_thr=0.5))
    outputs = planted(head, (-20.0, 30.0, 60.0, 180.0), label=0, logit=3.0)
    (found,) = head.predict_by_feat(*outputs, batch_img_metas=[dict(img_shape=(128, 128))])
    assert torch.allclose(found.bboxes, torch.tensor([[0.0, 30.0, 60.0, 128.0]]), atol=1e-3)
    with pytest.raises(ValueError, match="test_cfg has no 'nms'"):
        EfficientDetHead(3, 8, (8,), test_cfg=dict(nms=0.5))


def test_frozen_norms_keep_their_statistics():
    """Those of neck and head by the detector's norm_eval, the backbone's by its own."""
    model = MODELS.build({**detector_cfg(), "norm_eval": True}).train()
    norms = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    before = {n: m.running_mean.clone() for n, m in norms.items()}
    inputs, samples = batch()
    sum(model.loss(inputs, samples).values()).backward()
    moved = {n for n, m in norms.items() if not torch.equal(m.running_mean, before[n])}
    assert moved == {n for n in norms if n.startswith("backbone.")} != set()
    assert all(m.weight.grad is not None for m in norms.values()), "their weights are trained"


def pixels(shapes):
    """Images of some shapes, each the same whatever comes before it."""
    images, samples = [], []
    for shape in shapes:
        generator = torch.Generator().manual_seed(sum(shape))
        images.append(torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=generator))
        sample = DetDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)),
            gt_instances=InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long()),
        )
        sample.ignored_instances = sample.gt_instances
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def stacked(data):
    """The same as a loader with padded_collate gives it."""
    items = zip(data["inputs"], data["data_samples"], strict=True)
    return padded_collate([dict(inputs=i, data_samples=s) for i, s in items])


def flat(found):
    return torch.cat([found.bboxes, found.scores[:, None], found.labels[:, None].float()], dim=1)


@pytest.mark.parametrize("collate", [dict, stacked])
def test_a_detection_is_the_same_alone_and_in_any_batch(collate):
    """Whatever is padded: what stands beside an image reaches none of its objects."""
    torch.manual_seed(0)
    preprocessor = dict(type="DetDataPreprocessor", mean=[120.0] * 3, std=[60.0] * 3)
    cfg = dict(detector_cfg(), data_preprocessor=dict(preprocessor, pad_size_divisor=32))
    model = MODELS.build(dict(cfg, test_cfg=dict(score_thr=0.0, max_per_img=20))).eval()

    def run(shapes):
        images = pixels(shapes)
        with torch.no_grad():
            results = model.test_step(collate(images)), model.val_step(collate(images))
        assert all(a.img_shape == b.img_shape for a, b in zip(*results, strict=True))
        return [flat(sample.pred_instances) for sample in results[0]]

    shapes = [(64, 128), (128, 128), (60, 128), (300, 70), (64, 128)]
    together = run(shapes)
    for shape, found in zip(shapes, together, strict=True):
        (alone,) = run([shape])
        assert len(found) == 20
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-3)
        assert (found[:, 2] <= shape[1]).all() and (found[:, 3] <= shape[0]).all()

"""Detectors from pixels to boxes: the module, its operators in ONNX, and whole files."""

from __future__ import annotations

import json

import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms

from prunet_det.detection.build import NetworkPart, build_detector
from prunet_det.detection.end_to_end import EndToEnd, Selection, onnx_select, select
from prunet_det.detection.export import FileOptions, export_end_to_end
from prunet_det.detection.letterbox import Letterbox
from prunet_det.runtime.onnx import onnx_bytes
from tests.conftest import ROOT

WEIGHTS = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"


@pytest.fixture(scope="module")
def detector():
    return build_detector(ROOT / "configs" / "prunet_effdet.py", WEIGHTS)


class Select(nn.Module):
    def forward(self, candidates):
        boxes, scores, labels = candidates.split([4, 1, 1], dim=2)
        return select(boxes, scores[..., 0], labels[..., 0].long(), 3, 0.5, 8)


def candidates(images: int) -> torch.Tensor:
    """Boxes that overlap in three classes, many of equal scores, some that do not count."""
    corners = torch.rand(images, 40, 2) * 20
    boxes = torch.cat([corners, corners + 10 + torch.rand(images, 40, 2) * 8], dim=2)
    scores = (torch.randint(0, 6, (images, 40, 1)) / 8).sort(dim=1, descending=True).values
    return torch.cat([boxes, scores, torch.randint(0, 3, (images, 40, 1)).float()], dim=2)


def test_selection_in_onnx_with_ties_classes_and_any_batch():
    module = Select()
    content = onnx_bytes(
        module,
        candidates(2),
        None,
        ["boxes", "scores", "labels"],
        dynamic_batch=True,
        custom_translation_table={select._opoverload: onnx_select},
    )
    session = onnxruntime.InferenceSession(content)
    for images in (1, 2, 5):
        given = candidates(images)
        given[-1, 3:, 4] = 0  # three candidates at most
        found = session.run(None, {"images": given.numpy()})
        for ours, expected in zip(found, module(given), strict=True):
            assert torch.equal(torch.from_numpy(ours), expected)
        boxes, scores, labels = given[0].split([4, 1, 1], dim=1)
        kept = batched_nms(boxes, scores[:, 0], labels[:, 0], 0.5)
        kept = kept[scores[kept, 0] > 0][:8]
        assert torch.equal(torch.from_numpy(found[0])[0, : len(kept)], boxes[kept])
        assert (found[2][-1, 3:] == -1).all() and (found[1][-1, 3:] == 0).all()


def test_the_module_finds_what_the_detector_does(detector):
    part = NetworkPart(detector, 128).eval()
    module = EndToEnd(detector, part, Selection.of_head(detector.bbox_head)).eval()
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    data = {"inputs": list(images.flip(1))}  # in BGR, as the pipelines read
    meta = dict(img_shape=(128, 128))
    with torch.no_grad():
        boxes, scores, labels, *maps = module(images)
        normalised = detector.data_preprocessor(data, False)["inputs"]
        expected = detector.bbox_head.predict_by_feat(
            *detector.network(normalised), batch_img_metas=[meta] * 2
        )
    assert len(maps) == len(part.output_names)
    for i, found in enumerate(expected):
        count = len(found)
        assert torch.equal(labels[i, :count], found.labels) and (labels[i, count:] == -1).all()
        assert torch.allclose(scores[i, :count], found.scores, atol=1e-5)
        assert torch.allclose(boxes[i, :count], found.bboxes, atol=1e-2)


def test_a_file_of_any_batch_says_what_it_takes(detector, tmp_path):
    path = tmp_path / "d.onnx"
    letterbox = Letterbox(128, pad_val=(1, 2, 3))
    options = FileOptions(batch=None, input_type="float32", output_names=("b", "s", "l"))
    selection = Selection.of_head(detector.bbox_head, score_thr=0.02, max_per_img=7)
    checked = export_end_to_end(
        detector, path, letterbox, selection, options, {"classes": ["zero"]}
    )
    assert checked.error < 1e-4 and checked.detections > 7
    session = onnxruntime.InferenceSession(path)
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("b", ["batch", 7, 4]),
        ("s", ["batch", 7]),
        ("l", ["batch", 7]),
    ]
    (images,) = session.get_inputs()
    assert images.type == "tensor(float)" and images.shape == ["batch", 3, 128, 128]
    said = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert said["classes"] == ["zero"] and said["score_threshold"] == 0.02
    assert said["letterbox"]["pad_value"] == [3, 2, 1]  # RGB, as the file takes images
    assert said["input"]["channels"] == "RGB"


@pytest.mark.parametrize("values", [dict(score_thr=1.5), dict(nms_iou=-0.1), dict(max_per_img=0)])
def test_impossible_selections_are_refused(detector, values):
    with pytest.raises(ValueError, match=f"{next(iter(values))} must"):
        Selection.of_head(detector.bbox_head, **values)

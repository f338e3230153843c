"""tools/export.py: what it writes and prints."""

from __future__ import annotations

import onnxruntime as ort
import pytest
import torch

import prunet_det
from prunet_det.zoo.weights import save_safetensors
from tests.conftest import ROOT


def test_a_network_with_weights(here, tmp_path):
    weights, out = tmp_path / "w.safetensors", tmp_path / "net.onnx"
    save_safetensors(prunet_det.create("prunet_demo", num_classes=5).state_dict(), weights)
    flags = ("--input-size", 64, "--batch", "dynamic")
    done = here("export", "prunet_demo", weights, "--out", out, *flags)
    assert done.returncode == 0, done.stderr
    assert "prunet_demo, backbone, fp32, any batch, 64 px" in done.stdout
    assert "outputs: stride8, stride16, stride32" in done.stdout
    assert f"trtexec --onnx={out}" in done.stdout
    features = prunet_det.create("prunet_demo", weights, features_only=True, padding="same").eval()
    images = torch.randn(3, 3, 64, 64)
    for batch in (images, images[:1]):
        found = ort.InferenceSession(out).run(["stride32"], {"images": batch.numpy()})[0]
        with torch.no_grad():
            expected = features(batch)[-1]
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_detector_in_half_precision(here, tmp_path):
    config = ROOT / "configs" / "prunet_effdet.py"
    weights = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"
    flags = ("--out", tmp_path / "net.onnx", "--input-size", 128, "--precision", "fp16")
    done = here("export", config, weights, *flags)
    assert done.returncode == 0, done.stderr
    assert "prunet_effdet, detector, fp16, batch 1, 128 px" in done.stdout
    assert "scores_stride8" in done.stdout and "boxes_stride64" in done.stdout
    assert "--fp16" in done.stdout
    (images,) = ort.InferenceSession(tmp_path / "net.onnx").get_inputs()
    assert images.shape == [1, 3, 128, 128] and images.type == "tensor(float16)"


E2E = [ROOT / "configs" / "prunet_effdet.py", "--scope", "e2e", "--out"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["net.pt"], "--out must end in .onnx, got"),
        (["here/net.onnx"], "here cannot be written"),
        (["net.onnx", "--opset", 99], "the opset must lie in 1.."),
        (["net.onnx", "--max-per-img", 9999], "max_per_img is 9999, but an image of 64 px has"),
        (["net.onnx", "--nms-iou", 1.5], "nms_iou must lie in 0..1, got 1.5"),
        (["net.onnx", "--score-thr", "nan"], "score_thr must lie in 0..1, got nan"),
        (["net.onnx", "--output-names", "a", "a", "b"], "four different names"),
        (["net.onnx", "--classes", "a"], "the detector has 10 classes, but 1 names were given"),
        (["net.onnx", "--batch", "some"], "--batch must be a positive integer or dynamic"),
    ],
)
def test_what_no_file_can_have_is_refused(flags, sentence, refused, tmp_path):
    (tmp_path / "here").write_text("a file")
    out, *others = flags
    size = [] if "--input-size" in others else ["--input-size", 64]
    assert sentence in refused("export", *E2E, tmp_path / out, *others, *size)
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_flags_of_another_scope_are_refused(refused, tmp_path):
    out = tmp_path / "net.onnx"
    assert "--nms-iou is for --scope e2e" in refused(
        "export", "prunet_p0", "--out", out, "--nms-iou", 0.5
    )
    line = refused("export", "prunet_p0", "--scope", "e2e", "--out", out)
    assert "scope e2e needs a detector's config" in line

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

"""tools/export.py: what it writes and prints, and what it refuses."""

from __future__ import annotations

import onnxruntime as ort
import pytest
import torch
from torch import nn

import prunet_det
from prunet_det.runtime import subject as subjects
from prunet_det.zoo.weights import save_safetensors
from tests.conftest import ROOT


def weights_file(path, fill=None):
    """A classifier of prunet_demo's as a file; the value of its first convolution's weights."""
    torch.manual_seed(1)
    model = prunet_det.create("prunet_demo", num_classes=5).eval()
    if fill is not None:
        nn.init.constant_(model.stem[0].conv.weight, fill)
    save_safetensors(model.state_dict(), path)
    return path


def test_a_network_with_weights(here, tmp_path):
    weights, out = weights_file(tmp_path / "w.safetensors"), tmp_path / "net.onnx"
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
    config = ROOT / "configs" / "detection" / "prunet_effdet.py"
    weights = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"
    flags = ("--out", tmp_path / "net.onnx", "--input-size", 128, "--precision", "fp16")
    done = here("export", config, weights, *flags)
    assert done.returncode == 0, done.stderr
    assert "prunet_effdet, detector, fp16, batch 1, 128 px" in done.stdout
    assert "scores_stride8" in done.stdout and "boxes_stride64" in done.stdout
    assert "--fp16" in done.stdout
    (images,) = ort.InferenceSession(tmp_path / "net.onnx").get_inputs()
    assert images.shape == [1, 3, 128, 128] and images.type == "tensor(float16)"


def test_weights_that_give_nan(refused, tmp_path):
    weights = weights_file(tmp_path / "w.safetensors", float("nan"))
    args = ("prunet_demo", weights, "--out", tmp_path / "net.onnx", "--input-size", 64)
    assert "is not finite" in refused("export", *args)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (Bessel, "Bessel cannot be exported because of the operator"),
        (Branch, "Branch cannot be exported"),
    ],
)
def test_what_cannot_be_exported(refused, monkeypatch, tmp_path, module, sentence):
    subject = subjects.Subject(
        name="odd",
        scope=subjects.Scope.BACKBONE,
        module=module(),
        input_size=8,
        output_names=("out",),
    )
    monkeypatch.setattr(subjects, "load_subject", lambda *args: subject)
    assert sentence in refused("export", "odd", "--out", tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("prunet_p9", "--out", "x.onnx"), "there is no network 'prunet_p9'"),
        (("gone.py", "--out", "x.onnx"), "there is no config file gone.py"),
        (("prunet_demo", "--out", "x.onnx", "--batch", "0"), "--batch must be a positive integer"),
        (("prunet_demo", "--out", "x.onnx", "--batch", "two"), "--batch must be a positive int"),
        (("prunet_demo", "--out", "x.pt"), "--out must end in .onnx"),
        (("prunet_demo", "gone.pth", "--out", "x.onnx"), "there is no checkpoint gone.pth"),
        (("prunet_demo", "--out", "x.onnx", "--scope", "detector"), "needs a detector's config"),
        (("prunet_demo", "--out", "x.onnx", "--input-size", "-2"), "must be a positive integer"),
    ],
)
def test_refusals(refused, args, sentence):
    assert sentence in refused("export", *args)

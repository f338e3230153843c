"""Weights that tools/convert_weights.py cannot convert: one sentence, nothing written."""

from __future__ import annotations

import pytest
import torch

import prunet_det
from tests.zoo.test_released import released_state


@pytest.fixture
def convert(refused, tmp_path):
    """Runs the tool on a file with this content; returns its one-line error."""

    def run(kind, name, content):
        torch.save(content, tmp_path / "in.pth")
        error = refused(
            "convert_weights", kind, name, tmp_path / "in.pth", tmp_path / "out.safetensors"
        )
        assert [p.name for p in tmp_path.iterdir()] == ["in.pth"]
        return error

    return run


def small(name="prunet_p0"):
    """Released names of a network with tensors of no size that matters."""
    with torch.device("meta"):
        model = prunet_det.create(name)
    state = {k: torch.zeros(()).expand(v.shape) for k, v in model.state_dict().items()}
    return released_state(model, state)


def test_unknown_network(convert):
    assert "there is no network 'gpunet_7'" in convert("gpunet", "gpunet_7", {"a": torch.ones(1)})


def test_no_released_names(convert):
    error = convert("gpunet", "gpunet_0", {"conv.weight": torch.ones(1)})
    assert "none of the names of a released GPUNet checkpoint" in error


def test_another_network(convert):
    assert "of another network" in convert("gpunet", "prunet_p1", small())


def test_a_tensor_too_few(convert):
    state = small()
    state.pop("network.head: 2.net.1.running_var")
    assert "stem.0.bn.running_var is missing" in convert("gpunet", "prunet_p0", state)


def test_a_tensor_too_many(convert):
    state = {**small(), "network.head: 2.net.0.bias": torch.zeros(32)}
    assert "stem.0.conv.bias is not in the model" in convert("gpunet", "prunet_p0", state)


def test_unknown_effdet_model(convert):
    error = convert("effdet", "efficientdet_d99", {"a": torch.ones(1)})
    assert "effdet has no model 'efficientdet_d99'" in error and "tf_efficientdet_d0" in error


def test_no_detector(convert):
    error = convert("effdet", "efficientdet_d0", {"conv.weight": torch.ones(1)})
    assert "no effdet detector's" in error


def test_model_that_does_not_convert(convert):
    state = {"class_net.predict.conv_pw.bias": torch.zeros(810)}
    error = convert("effdet", "tf_efficientdet_lite0", state)
    assert "tf_efficientdet_lite0 has" in error and "converts" in error


def test_missing_file(refused, tmp_path):
    args = ("gpunet", "gpunet_0", tmp_path / "none.pth", tmp_path / "out.safetensors")
    assert "there is no checkpoint" in refused("convert_weights", *args)


def test_truncated_file(refused, tmp_path):
    (tmp_path / "in.pth").write_bytes(b"PK\x03\x04 half")
    args = ("effdet", "efficientdet_d0", tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert "truncated or no checkpoint" in refused("convert_weights", *args)

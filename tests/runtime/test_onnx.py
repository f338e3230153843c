"""Exported files: equal to eager in ONNX Runtime, or not written."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from prunet_det.runtime.onnx import export_onnx, onnx_bytes, open_session, trtexec_command
from prunet_det.runtime.subject import load_subject


@pytest.mark.parametrize("name", ["prunet_demo", pytest.param("gpunet_d2", marks=pytest.mark.slow)])
def test_a_backbone_at_batch_1_and_3(name, tmp_path):
    subject = load_subject(name, input_size=96)
    path = tmp_path / "net.onnx"
    difference = export_onnx(subject.module, path, (3, 96, 96), None, "fp32", subject.output_names)
    assert difference < 1e-3  # equal at batch 1 and 3, or an error
    graph = onnx.load(path).graph
    assert [o.name for o in graph.output] == list(subject.output_names)
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


def test_an_operator_without_translation_is_named():
    class Bessel(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with pytest.raises(ValueError, match=r"because of the operator \w+\.(special_)?bessel_j0"):
        onnx_bytes(Bessel(), torch.randn(1, 3, 8, 8))


def test_a_file_that_computes_something_else_is_not_written(tmp_path):
    class Fickle(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) + float(torch.compiler.is_compiling())

    module = Fickle(3, 4, 3).eval()
    with pytest.raises(ValueError, match="the exported file at batch 1 differs from eager"):
        export_onnx(module, tmp_path / "net.onnx", (3, 8, 8))
    assert not list(tmp_path.iterdir())


def test_the_command_for_tensorrt():
    fixed = trtexec_command("a/net.onnx", (3, 64, 64), 1, "fp32")
    assert fixed == "trtexec --onnx=a/net.onnx --useCudaGraph --saveEngine=a/net.engine"
    free = trtexec_command("net.onnx", (3, 64, 64), None, "fp16")
    assert "--maxShapes=images:8x3x64x64" in free and "--fp16" in free


def test_a_gpus_session_is_on_that_gpu_and_in_fp32(monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, providers: providers)
    settings = {"device_id": 1, "use_tf32": 0}
    assert open_session(b"", "cuda:1") == [("CUDAExecutionProvider", settings)]
    assert open_session(b"") == [("CPUExecutionProvider", {})]

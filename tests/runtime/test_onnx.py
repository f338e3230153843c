"""Exported files: equal to eager in ONNX Runtime, or not written."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from prunet_det.runtime.onnx import export_onnx, onnx_bytes, open_session, trtexec_command
from prunet_det.runtime.subject import load_subject
from prunet_det.utils.errors import InputError

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


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


class Session:
    """ONNX Runtime's, which starts the CPU where it cannot start what was asked for."""

    def __init__(self, *_, providers):
        self.asked = providers

    def get_providers(self):
        return [name for name, _ in self.asked]


def test_a_gpus_session_is_on_that_gpu_and_in_fp32(monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS))
    settings = {"device_id": 1, "use_tf32": 0}
    assert open_session(b"", "cuda:1").asked == [("CUDAExecutionProvider", settings)]
    assert open_session(b"").asked == [("CPUExecutionProvider", {})]


def test_the_cpu_is_not_taken_for_a_gpu(monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS[1:]))
    with pytest.raises(ImportError, match="this onnxruntime has no CUDA"):
        open_session(b"", "cuda")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS))
    monkeypatch.setattr(Session, "get_providers", lambda self: list(PROVIDERS[1:]))
    with pytest.raises(ImportError, match="could not start CUDA here"):
        open_session(b"", "cuda")


def test_what_onnx_runtime_raises_is_an_input_error():
    """Its exceptions have no base but Exception, which nobody would expect."""
    with pytest.raises(InputError, match="ONNX Runtime cannot run the network: .*INVALID_PROTOBUF"):
        open_session(b"no network")


def test_threads_of_a_session_do_not_spin_while_another_runs():
    """Blocks that were timed in turn on two threads took up to ten times as long."""
    session = open_session(onnx_bytes(nn.Linear(2, 2), torch.zeros(1, 2)), threads=2)
    options = session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"

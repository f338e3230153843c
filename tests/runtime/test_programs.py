"""Runtimes: all of them give what eager gives, or say in a sentence why they cannot."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prunet_det.runtime import RUNTIMES, RuntimeMissingError, make_program
from prunet_det.runtime.outputs import Reference
from prunet_det.runtime.pytorch import Compiled
from prunet_det.runtime.subject import load_subject
from prunet_det.runtime.tensorrt import build_engine

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def subject():
    return load_subject("prunet_demo", input_size=64)


def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()).eval()


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [
        ("eager", "fp32"),
        ("channels_last", "fp32"),
        ("channels_last", "fp16"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "fp16"),
    ],
)
def test_equal_to_eager(subject, runtime, precision):
    program = make_program(subject.module, IMAGES, runtime, precision, threads=1)
    for images in (IMAGES, IMAGES.flip(0)):  # a second input through the same program
        Reference(subject.module, images, precision).check(runtime, program(images))


def test_compiled_code_is_the_network(monkeypatch):
    """Everything but the generation of code, which test_compiled_code does once."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    module = small()
    program = make_program(module, IMAGES, "compiled")
    Reference(module, IMAGES).check("compiled", program(IMAGES))


@pytest.mark.slow
def test_compiled_code():
    module = small()
    program = make_program(module, IMAGES, "compiled")
    Reference(module, IMAGES).check("compiled", program(IMAGES))


def test_a_compiler_that_is_missing_is_a_sentence(monkeypatch):
    monkeypatch.setenv("CXX", "no_such_compiler")
    assert Compiled.missing("cpu") == ""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeMissingError, match=r"needs a C\+\+ compiler: install g\+\+"):
        make_program(small(), IMAGES, "compiled")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("runtime", "precision"),
    [
        *((r, p) for r in ("eager", "channels_last", "cuda_graph") for p in ("fp32", "fp16")),
        ("compiled", "fp16"),
    ],
)
def test_equal_on_a_gpu(subject, runtime, precision):
    module = small() if runtime == "compiled" else subject.module
    program = make_program(module, IMAGES, runtime, precision, "cuda")
    reference = Reference(module, IMAGES, precision, "cuda")
    for _ in range(2):  # a replay gives what the first run gave
        reference.check(runtime, program(IMAGES))


def test_refusals(subject):
    def make(**kwargs):
        return make_program(subject.module, IMAGES, **kwargs)

    with pytest.raises(ValueError, match="no runtime 'tflite'; the known ones are eager"):
        make(runtime="tflite")
    with pytest.raises(ValueError, match="no precision 'int8'; the known ones are fp32, fp16"):
        make(precision="int8")
    with pytest.raises(RuntimeMissingError, match="cuda_graph runs on cuda, not on cpu"):
        make(runtime="cuda_graph")
    with pytest.raises(ValueError, match=r"takes images of shape \(2, 3, 64, 64\), got \(1, 3,"):
        make()(IMAGES[:1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_gpu_is_a_sentence(subject):
    for runtime in ("eager", "cuda_graph", "onnxruntime"):
        with pytest.raises(RuntimeMissingError, match="no CUDA"):
            make_program(subject.module, IMAGES, runtime, device="cuda")


def test_packages_that_are_missing_are_a_sentence(subject, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "pip install tensorrt" in RUNTIMES["tensorrt"].missing("cuda")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'prunet_det\[onnx\]'"):
        make_program(subject.module, IMAGES, "onnxruntime")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'prunet_det\[onnx\]'"):
        make_program(subject.module, IMAGES, "onnxruntime")


class FakeTensorRT:
    """As much of TensorRT's Python package as building an engine touches."""

    BuilderFlag = SimpleNamespace(FP16="fp16", TF32="tf32")

    class Logger:
        ERROR = 1

        def __init__(self, level):
            pass

    def __init__(self, parses=True, builds=True):
        self.flags = ["tf32"]
        flags = self.flags
        config = SimpleNamespace(
            set_flag=flags.append, clear_flag=lambda f: f in flags and flags.remove(f)
        )
        builder = SimpleNamespace(
            create_network=lambda flags: "network",
            create_builder_config=lambda: config,
            build_serialized_network=lambda network, c: b"plan" if builds else None,
        )
        self.Builder = lambda logger: builder
        self.OnnxParser = lambda network, logger: SimpleNamespace(
            parse=lambda content: parses, get_error=lambda i: "no importer for Foo"
        )
        self.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: plan)


def test_an_engine_of_tensorrt(monkeypatch):
    def build(fake, half):
        monkeypatch.setitem(sys.modules, "tensorrt", fake)
        return build_engine(b"onnx", half)

    fake = FakeTensorRT()
    assert build(fake, half=False) == b"plan" and not fake.flags
    fake = FakeTensorRT()
    assert build(fake, half=True) == b"plan" and fake.flags == ["fp16"]
    with pytest.raises(ValueError, match="cannot read the network: no importer for Foo"):
        build(FakeTensorRT(parses=False), half=True)
    with pytest.raises(ValueError, match="could not build an engine"):
        build(FakeTensorRT(builds=False), half=True)

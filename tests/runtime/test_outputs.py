"""Judging outputs: rounding passes at every depth, another network's outputs do not."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from prunet_det.arch.blocks import Block
from prunet_det.runtime.outputs import (
    FP32_LIMIT,
    HALF_MAX,
    HALF_MIN,
    Reference,
    as_tuple,
    check_outputs,
    relative_error,
    tf32,
)
from prunet_det.runtime.subject import load_subject


@pytest.fixture(scope="module", params=["prunet_n", "gpunet_d1"])
def subject(request):
    """A shallow network and the zoo's second-worst in half precision."""
    return load_subject(request.param, input_size=64)


def outputs(module, images, dtype=torch.float32):
    with torch.no_grad():
        return [o.float() for o in as_tuple(module.to(dtype)(images.to(dtype)))]


def test_half_precision_passes_at_every_depth(subject):
    images = subject.images()
    reference = Reference(subject.module, images, "fp16")
    half = outputs(copy.deepcopy(subject.module), images, torch.float16)
    error = reference.check("half", half)
    assert 1e-4 < error <= reference.limit <= HALF_MAX
    with pytest.raises(ValueError, match=r"half differs from eager FP32 by a relative L2 error"):
        Reference(subject.module, images).check("half", half)


def first(module, kind):
    return next(m for m in module.modules() if isinstance(m, kind))


def last(module, kind):
    return [m for m in module.modules() if isinstance(m, kind)][-1]


def no_residual(module):
    block = [m for m in module.modules() if isinstance(m, Block) and m.has_residual][-1]
    block.has_residual = False


def no_activation(module):
    last(module, nn.ReLU).forward = lambda x: x


def no_norm(module):
    last(module, nn.BatchNorm2d).forward = lambda x: x


def not_a_number(module):
    first(module, nn.Conv2d).weight.data[0] = math.nan


@pytest.mark.parametrize("fault", [no_residual, no_activation, no_norm, not_a_number])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_wrong_network_does_not_pass(subject, fault, precision):
    images = subject.images()
    wrong = copy.deepcopy(subject.module)
    fault(wrong)
    found = outputs(wrong, images, torch.float16 if precision == "fp16" else torch.float32)
    with pytest.raises(ValueError, match=r"wrong (differs from eager|is not finite)|of wrong is"):
        Reference(subject.module, images, precision).check("wrong", found)


def test_a_wrong_epsilon_does_not_pass_in_full_precision():
    """The smallest fault of a fold: every norm's epsilon is PyTorch's default."""
    subject = load_subject("prunet_n", input_size=64)
    images = subject.images()
    wrong = copy.deepcopy(subject.module)
    for module in wrong.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    with pytest.raises(ValueError, match="wrong differs from eager"):
        Reference(subject.module, images).check("wrong", outputs(wrong, images))


def test_limits():
    shallow = nn.Conv2d(3, 4, 1)
    images = torch.randn(1, 3, 4, 4)
    assert Reference(shallow, images).limit == FP32_LIMIT
    assert Reference(shallow, images, "fp16").limit == HALF_MIN
    assert shallow.weight.dtype == torch.float32  # the network is as it was
    with torch.no_grad():
        shallow.weight.fill_(1e5)  # beyond FP16's largest number, 65504
    assert Reference(shallow, images, "fp16").limit == HALF_MAX


def test_outputs_that_mean_nothing():
    good = [torch.ones(2)]
    with pytest.raises(ValueError, match="output 0 of x is not finite"):
        check_outputs("x", [torch.tensor([1.0, float("nan")])], good, 1e-3)
    broken = nn.Conv2d(3, 4, 1)
    nn.init.constant_(broken.weight, math.nan)
    with pytest.raises(ValueError, match="output 0 of the network itself is not finite"):
        Reference(broken, torch.ones(1, 3, 4, 4))
    with pytest.raises(ValueError, match="x gives 2 outputs, the network 1"):
        check_outputs("x", good * 2, good, 1e-3)
    with pytest.raises(ValueError, match=r"has the shape \(3,\), the network's \(2,\)"):
        check_outputs("x", [torch.ones(3)], good, 1e-3)
    with pytest.raises(ValueError, match=r"x differs .* error of 0\.35, more than 0\.001"):
        check_outputs("x", [torch.tensor([1.0, 1.5])], good, 1e-3)
    assert check_outputs("x", [torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 4.0])], 0) == 0


def test_relative_error():
    assert relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0  # a map that is all zeros


def test_switches_of_tf32_are_put_back():
    before = torch.backends.cudnn.allow_tf32
    with tf32(not before):
        assert torch.backends.cudnn.allow_tf32 is not before
    assert torch.backends.cudnn.allow_tf32 is before


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_the_precision_of_products_can_be_asked_for_without_tf32(precision):
    """As torch.compile does, in a process that has trained too."""
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with tf32(False):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)

"""What timm's tests/test_models.py asks of every model, asked of every name that we register.

timm does not ship its tests. Its two tests of published weights are left out, as we publish none;
tests/zoo/test_weights.py loads one's own.
"""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
from timm.models import get_notrace_functions, get_notrace_modules
from torchvision.models.feature_extraction import (
    NodePathTracer,
    create_feature_extractor,
    get_graph_node_names,
)

import prunet_det
from prunet_det.zoo.models import ALIASES
from tests.zoo.networks import representatives

NAMES = (*prunet_det.model_names(), *ALIASES)
pytestmark = pytest.mark.slow
each_name = pytest.mark.parametrize("name", NAMES)
# Rewriting and scripting depend on the kinds of modules alone; PRUNET_WHOLE_ZOO=1 takes all names.
each_kind = pytest.mark.parametrize("name", representatives())
TRACER = dict(
    leaf_modules=get_notrace_modules(),
    autowrap_functions=get_notrace_functions(),
    param_shapes_constant=True,
)


def images(model, batch=1, most=128):
    """Images at the network's own resolution, or at `most` pixels."""
    return torch.randn(batch, *(min(n, most) for n in model.default_cfg["input_size"]))


def rewritten(model, train=False):
    """The network as torchvision's feature extractor rewrites it, from input to output."""
    in_training, in_evaluation = get_graph_node_names(model, tracer_kwargs=TRACER)
    last = [in_training[-1]]
    if train:
        nodes = list(reversed(NodePathTracer(**TRACER).trace(model).nodes))
        names = [node.name for node in nodes]
        outputs = [node.name for node in nodes[0].all_input_nodes]
        last = [in_training[-names.index(output)] for output in outputs]
    return create_feature_extractor(
        model,
        train_return_nodes=last,
        eval_return_nodes=[in_evaluation[-1]],
        tracer_kwargs=TRACER,
    )


def check_gradients(model, outputs):
    outputs.mean().backward()
    assert outputs.shape[-1] == 42 and not outputs.isnan().any()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def check_maps(maps, info, size):
    """Channels are as declared, sizes at most one pixel more than stride and image give."""
    assert len(maps) == len(info.channels()) >= 3
    for x, channels, reduction in zip(maps, info.channels(), info.reduction(), strict=True):
        assert x.shape[:2] == (1, channels) and not x.isnan().any()
        assert max(x.shape[2:]) <= math.ceil(size / reduction) + 1


@each_name
def test_forward(name):
    model = timm.create_model(name).eval()
    x = images(model)
    outputs = model(x)
    assert len(outputs) == 1 and not outputs.isnan().any()
    model.set_grad_checkpointing()
    assert torch.allclose(model(x), outputs, rtol=1e-4, atol=1e-5)


@each_name
def test_backward(name):
    model = timm.create_model(name, num_classes=42).train()
    check_gradients(model, model(images(model, batch=2)))


@each_name
@torch.no_grad()
def test_default_cfg(name):
    model = timm.create_model(name).eval()
    assert model.num_classes >= 0 and model.num_features > 0 and model.head_hidden_size > 0
    cfg, weights = model.default_cfg, model.state_dict()
    assert {f"{cfg['classifier']}.weight", f"{cfg['first_conv']}.weight"} <= weights.keys()
    if max(cfg["input_size"]) > 448:  # timm leaves them out
        return
    x = images(model, most=448)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert features.shape == (1, model.num_features, *cfg["pool_size"])
    assert pooled.shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert model.num_classes == 0 and model(x).shape == pooled.shape
    model.reset_classifier(0, "")
    unpooled = timm.create_model(name, num_classes=0, global_pool="").eval()
    for network in (model, unpooled):
        assert network(x).shape[2:] == cfg["pool_size"]


@each_kind
@torch.no_grad()
def test_forward_torchscript(name):
    with timm.layers.set_scriptable(True):
        model = timm.create_model(name).eval()
    outputs = torch.jit.script(model)(images(model))
    assert len(outputs) == 1 and not outputs.isnan().any()


@each_name
@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"feature_cls": "getter"}], ids=["default", "getter"])
def test_forward_features(name, options):
    model = timm.create_model(name, features_only=True, **options).eval()
    check_maps(model(images(model, most=96)), model.feature_info, 96)


@each_name
def test_forward_intermediates(name):
    model = timm.create_model(name).eval()
    x = images(model, most=96)
    last, maps = model.forward_intermediates(x, output_fmt="NCHW")
    info = timm.models.FeatureInfo(copy.deepcopy(model.feature_info), len(model.feature_info))
    check_maps(maps, info, 96)
    assert torch.allclose(last, model.forward_features(x))
    model.set_grad_checkpointing()
    again, _ = model.forward_intermediates(x, output_fmt="NCHW")
    assert torch.allclose(again, last, rtol=1e-4, atol=1e-5)


@each_kind
@torch.inference_mode()
def test_forward_fx(name):
    model = timm.create_model(name).eval()
    x = images(model)
    (outputs,) = rewritten(model)(x).values()
    assert torch.equal(outputs, model(x)) and not outputs.isnan().any()


@each_kind
def test_backward_fx(name):
    model = rewritten(timm.create_model(name, num_classes=42).train(), train=True)
    (outputs,) = model(torch.randn(2, 3, 128, 128)).values()
    check_gradients(model, outputs)


@each_kind
@torch.inference_mode()
def test_forward_fx_torchscript(name):
    with timm.layers.set_scriptable(True):
        model = timm.create_model(name).eval()
    (outputs,) = torch.jit.script(rewritten(model))(images(model)).values()
    assert len(outputs) == 1 and not outputs.isnan().any()


@each_kind
@torch.inference_mode()
def test_forward_torchscript_with_features_fx(name):
    with timm.layers.set_scriptable(True):
        model = timm.create_model(name, features_only=True, feature_cfg={"feature_cls": "fx"})
    for x in torch.jit.script(model.eval())(torch.randn(1, 3, 128, 128)):
        assert len(x) == 1 and not x.isnan().any()

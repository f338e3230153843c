"""Every network of the zoo under timm's contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import prunet_det
from prunet_det import load_spec, model_names
from prunet_det.zoo.models import ALIASES
from tests.conftest import published_counts
from tests.zoo.networks import on_meta, representatives

SIZES = [(512, 512), (640, 640), (333, 517)]
NAMES = model_names()


@pytest.mark.parametrize("row", published_counts(), ids=lambda r: r["model"])
def test_parameters_and_macs_equal_the_original(row):
    model = on_meta(row["model"].lower().replace("-", "_"))
    size = int(row["resolution"])
    assert model.pretrained_cfg["input_size"] == (3, size, size)
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, size, size, device="meta"))
    assert sum(p.numel() for p in model.parameters()) == int(row["params"])
    assert counter.get_total_flops() == 2 * int(row["macs_total"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_feature_info_is_true_with_same_padding(name, size):
    model = on_meta(name, features_only=True, padding="same")
    features = model(torch.empty(1, 3, *size, device="meta"))
    assert len(features) == len(model.feature_info.channels())
    for f, chs, stride in zip(
        features, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert f.shape == (1, chs, *(math.ceil(s / stride) for s in size))


def test_prunet_p0_reaches_stride_64():
    model = on_meta("prunet_p0", features_only=True)
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32, 64]
    assert model.feature_info.channels() == [32, 64, 96, 256, 704, 704]


@pytest.mark.parametrize("name", representatives())
def test_features_only_equals_forward_intermediates(name):
    x = torch.randn(1, 3, 96, 128)
    full = timm.create_model(name).eval()
    picks = (1, 2, -1)
    features = timm.create_model(name, features_only=True, out_indices=picks).eval()
    features.model.load_state_dict(full.state_dict(), strict=False)
    final, maps = full.forward_intermediates(x, indices=picks)
    for a, b in zip(features(x), maps, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(final, full.forward_features(x))


@pytest.mark.parametrize("name", representatives())
def test_classifier_can_be_replaced(name):
    model = timm.create_model(name, num_classes=7).eval()
    x = torch.randn(2, 3, 96, 96)
    assert model(x).shape == (2, 7)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert model.get_classifier().out_features == model.num_classes == 3
    model.reset_classifier(0)
    assert model(x).shape == (2, model.head_hidden_size)


def test_aliases_are_the_same_network():
    for alias, name in ALIASES.items():
        assert load_spec(alias) == load_spec(name)
        assert timm.is_model(alias)


def test_demo_size():
    parameters = sum(p.numel() for p in on_meta("prunet_demo").parameters())
    assert 1_000_000 <= parameters <= 1_500_000


def test_pretrained_says_what_to_do():
    with pytest.raises(ValueError, match="no pretrained weights are published for prunet_p0"):
        timm.create_model("prunet_p0", pretrained=True)


def test_numbers_of_numpy_and_timms_output_stride():
    model = timm.create_model("prunet_demo", num_classes=np.int64(5), output_stride=32)
    assert model.num_classes == 5 and type(model.num_classes) is int
    with pytest.raises(ValueError, match="output_stride 32; it cannot be dilated"):
        timm.create_model("prunet_demo", output_stride=16)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="prunet_p0.*Did you mean 'prunet_p"):
        prunet_det.create("prunet_po")


@pytest.mark.parametrize(
    "kwargs", [{"num_classes": -1}, {"in_chans": 0}, {"padding": "valid"}, {"out_indices": (9,)}]
)
def test_impossible_arguments(kwargs):
    features = {"features_only": True} if "out_indices" in kwargs else {}
    with pytest.raises(ValueError):
        timm.create_model("prunet_demo", **kwargs, **features)

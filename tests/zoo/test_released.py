"""Checkpoints under the names that were released for GPUNet load, all tensors or an error."""

from __future__ import annotations

import argparse

import pytest
import torch

import prunet_det
from prunet_det.zoo.released import ReleasedNameError, from_released, is_released
from prunet_det.zoo.weights import CheckpointError, convert_released

PUBLISHED = [
    n for n in prunet_det.model_names() if prunet_det.load_spec(n).provenance.kind == "published"
]
SE = [("se.conv_reduce", "fc1"), ("se.conv_expand", "fc2")]


def original_modules(block):
    """(name in a timm-like block, our module) in the original's order."""
    if block.kind == "conv":
        return [("conv", "spatial.conv"), ("bn1", "spatial.bn")]
    se = [(theirs, f"spatial.se.{ours}") for theirs, ours in SE] if block.se else []
    if block.kind == "irb":
        first = [("conv_pw", "expand.conv"), ("bn1", "expand.bn")]
        first += [("conv_dw", "spatial.conv"), ("bn2", "spatial.bn")]
        return [*first, *se, ("conv_pwl", "project.conv"), ("bn3", "project.bn")]
    first = [("conv_exp", "spatial.conv"), ("bn1", "spatial.bn")]
    return [*first, *se, ("conv_pwl", "project.conv"), ("bn2", "project.bn")]


def released_modules(spec):
    """(released module name, our module name) of a whole network."""
    plain = spec.tail.hidden > 0  # D1 and D2
    head = "network.head:.net." if plain else "network.head: 2.net."
    for i in range(len(spec.stem.widths)):
        yield f"{head}{3 * i}", f"stem.{i}.conv"
        yield f"{head}{3 * i + 1}", f"stem.{i}.bn"
    layer = 2
    for s, stage in enumerate(spec.stages):
        for b, block in enumerate(stage.blocks):
            layer += 1
            names = original_modules(block)
            for k, (theirs, ours) in enumerate(names):
                body = f"irb{layer}.body.{k + k // 2}"
                place = body if plain else f"layer{layer}.{theirs}"
                yield f"network.stage: {s + 1} {place}", f"stages.{s}.{b}.{ours}"
    tail = "network.tail:.net." if plain else f"network. layer{layer + 1}.net."
    numbers = (0, 1, 4, 8) if plain else (0, 1, 6)
    ours = ["conv_head.conv", "conv_head.bn", *(["pre_logits.0"] if plain else []), "classifier"]
    for number, name in zip(numbers, ours, strict=True):
        yield f"{tail}{number}", name


def released_state(model, state=None):
    """The network's tensors under the released names."""
    state = model.state_dict() if state is None else state
    renamed = {}
    for theirs, ours in released_modules(model.spec):
        tensors = {k: v for k, v in state.items() if k.rpartition(".")[0] == ours}
        assert tensors, ours
        renamed.update({f"{theirs}.{k.rpartition('.')[2]}": v for k, v in tensors.items()})
    assert len(renamed) == len(state)
    return renamed


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_finds_its_place(name):
    with torch.device("meta"):
        model = prunet_det.create(name)
    own = model.state_dict()
    released = released_state(model, own)
    assert is_released(released) and not is_released(own)
    back = from_released(model.spec, released)
    assert back.keys() == own.keys()
    assert all(back[k] is own[k] for k in own)


@pytest.mark.parametrize(
    ("container", "prefix"), [(None, ""), ("state_dict_ema", ""), ("state_dict_ema", "module.")]
)
def test_a_file_loads_with_and_without_classifier(tmp_path, container, prefix):
    model = prunet_det.create("gpunet_0")
    content = {f"{prefix}{k}": v for k, v in released_state(model).items()}
    if container:
        content = {container: content, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save(content, tmp_path / "gpunet_0.pth")
    for kwargs in ({}, {"num_classes": 7}, {"features_only": True}):
        loaded = prunet_det.create("gpunet_0", checkpoint=tmp_path / "gpunet_0.pth", **kwargs)
        stem = loaded.model.stem if kwargs.get("features_only") else loaded.stem
        assert torch.equal(stem[0].conv.weight, model.stem[0].conv.weight)
    x = torch.randn(1, 3, 64, 64)
    full = prunet_det.create("gpunet_0", checkpoint=tmp_path / "gpunet_0.pth").eval()
    assert torch.equal(full(x), model.eval()(x))


def test_another_network_or_name_is_refused(tmp_path):
    with torch.device("meta"):
        p0, p1 = (prunet_det.create(n) for n in ("prunet_p0", "prunet_p1"))
    with pytest.raises(ReleasedNameError, match="blocks"):
        from_released(p1.spec, released_state(p0))
    state = released_state(p0)
    state["network.stage: 3 layer7.conv_extra.weight"] = state.popitem()[1]
    with pytest.raises(ReleasedNameError):
        from_released(p0.spec, state)
    torch.save(
        {"network.odd": torch.zeros(1), **{"network.head: 2.net.0.weight": torch.ones(1)}},
        tmp_path / "odd.pth",
    )
    with pytest.raises(CheckpointError, match="network.odd"):
        prunet_det.create("prunet_p0", checkpoint=tmp_path / "odd.pth")


def test_what_does_not_convert(tmp_path):
    with torch.device("meta"):
        p0, p1 = (prunet_det.create(n) for n in ("prunet_p0", "prunet_p1"))
    own = {k: torch.zeros(()).expand(v.shape) for k, v in p0.state_dict().items()}
    whole, head = released_state(p0, own), "network.head: 2.net"

    def refused(spec, state, sentence):
        torch.save(state, tmp_path / "in.pth")
        with pytest.raises(CheckpointError, match=sentence):
            convert_released(spec, tmp_path / "in.pth")

    refused(p0.spec, {"conv.weight": torch.ones(1)}, "none of the names of a released GPUNet")
    refused(p1.spec, whole, "of another network")
    more = {**whole, f"{head}.0.bias": torch.zeros(32)}
    refused(p0.spec, more, r"stem\.0\.conv\.bias is not in the model")
    whole.pop(f"{head}.1.running_var")
    refused(p0.spec, whole, r"stem\.0\.bn\.running_var is missing")


def test_the_tool_converts_every_tensor(tmp_path, here):
    model = prunet_det.create("gpunet_0", num_classes=12)
    state = {f"module.{k}": v for k, v in released_state(model).items()}
    torch.save({"state_dict_ema": state}, tmp_path / "in.pth.tar")
    out = tmp_path / "out.safetensors"
    done = here("convert_weights", "gpunet", "gpunet_0", tmp_path / "in.pth.tar", out)
    assert done.returncode == 0, done.stderr
    count = len(model.state_dict())
    assert f"{count}/{count} tensors from" in done.stdout
    loaded = prunet_det.create("gpunet_0", num_classes=12, checkpoint=out)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key

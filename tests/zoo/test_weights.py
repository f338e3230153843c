"""Loading: tolerant about heads and containers, strict about the backbone, never unpickling."""

from __future__ import annotations

import pickle
import resource

import pytest
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import prunet_det
from prunet_det.zoo import weights
from prunet_det.zoo.weights import (
    CheckpointError,
    load_all_weights,
    load_backbone_weights,
    load_classifier_weights,
    save_safetensors,
)


@pytest.fixture
def trained(tmp_path):
    """A network and its weights as a file."""
    model = prunet_det.create("prunet_demo", num_classes=4)
    for p in model.parameters():
        torch.nn.init.normal_(p)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    return model, tmp_path / "w.safetensors"


def same_backbone(a, b):
    keys = [k for k in a if k.startswith(("stem", "stages"))]
    return keys and all(torch.equal(a[k], b[k]) for k in keys)


def test_all_of_it(trained, caplog):
    caplog.set_level("INFO", "prunet_det")
    model, path = trained
    loaded = prunet_det.create("prunet_demo", checkpoint=path, num_classes=4)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())
    count = len([k for k in model.state_dict() if k.startswith(("stem", "stages"))])
    assert f"{count}/{count} backbone tensors from {path}" in caplog.text


def test_other_class_count(trained):
    model, path = trained
    loaded = prunet_det.create("prunet_demo", num_classes=9)
    report = load_backbone_weights(loaded, path)
    assert not report.head_loaded and report.loaded == report.total
    assert same_backbone(model.state_dict(), loaded.state_dict())


def test_a_classifier_is_loaded_whole_or_not_at_all(trained, tmp_path):
    """With the checkpoint's classes, whatever their number."""
    model, path = trained
    loaded = prunet_det.create("prunet_demo")
    assert load_classifier_weights(loaded, path).head_loaded and loaded.num_classes == 4
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())
    theirs, mine = (timm.create_model("resnet10t", num_classes=n) for n in (7, 1000))
    save_file(theirs.state_dict(), tmp_path / "resnet.safetensors")
    load_classifier_weights(mine, tmp_path / "resnet.safetensors")
    assert torch.equal(mine.fc.weight, theirs.fc.weight)
    part = tmp_path / "part.safetensors"
    for head in (("classifier.",), ("classifier.", "conv_head.")):
        backbone = {k: v for k, v in model.state_dict().items() if not k.startswith(head)}
        save_file(backbone, part)
        lacking = len(model.state_dict()) - len(backbone)
        sentence = rf"lacks {lacking} of the classifier's \d+ tensors, such as {head[-1]}"
        with pytest.raises(CheckpointError, match=sentence):
            load_classifier_weights(prunet_det.create("prunet_demo"), part)


def test_into_features(trained):
    model, path = trained
    features = prunet_det.create("prunet_demo", features_only=True, checkpoint=path)
    assert same_backbone(features.model.state_dict(), model.state_dict())


PREFIXES = [
    *(
        "module.",
        "backbone.net.model.",
        "module.model.",
        "model.",
        "_orig_mod.",
        "module._orig_mod.",
    ),
    *("_orig_mod.module.", "backbone._orig_mod.net."),
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("container", [None, "state_dict", "state_dict_ema", "model_state_dict"])
def test_wrappers(trained, tmp_path, prefix, container):
    model, _ = trained
    state = {prefix + k: v for k, v in model.state_dict().items()}
    torch.save({container: state} if container else state, tmp_path / "w.pth")
    report = load_backbone_weights(prunet_det.create("prunet_demo"), tmp_path / "w.pth")
    assert report.loaded == report.total


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("state_dict", "model_ema"),
        ("params", "params_ema"),
    ],
)
def test_averaged_weights_before_raw_ones(trained, tmp_path, raw, averaged):
    """As timm takes them, where it knows the names."""
    model, _ = trained
    zeros = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
    torch.save({raw: zeros, averaged: model.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    loaded = prunet_det.create("prunet_demo", num_classes=4, checkpoint=tmp_path / "w.pth")
    assert same_backbone(model.state_dict(), loaded.state_dict())
    if not raw.startswith("params"):
        path = str(tmp_path / "w.pth")
        theirs = timm.create_model("prunet_demo", num_classes=4, checkpoint_path=path)
        assert same_backbone(theirs.state_dict(), loaded.state_dict())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda raw, ema: {"model": raw, "ema": {"module": ema, "updates": 7}},
        lambda raw, ema: {"model": raw, "ema": ema},
        lambda raw, ema: {"model": raw, "ema_model": ema},
        lambda raw, ema: {"model_state_dict": raw, "model_ema_state_dict": ema},
        lambda raw, ema: {"state_dict": raw, "ema_state_dict": ema},
        lambda raw, ema: {"state_dict": ema, "ema_state_dict": raw, "meta": {"iter": 3}},
        lambda raw, ema: {"state_dict": ema, "state_dict_ema": {}},
        lambda raw, ema: {"model": ema, "model_ema": {}, "ema": {"updates": 0}},
        lambda raw, ema: {"model": {}, "net": ema},
    ],
)
def test_averaged_weights_of_others_and_empty_containers(trained, tmp_path, wrap):
    """RT-DETR's, ... and mmengine's, whose `ema_state_dict` holds the raw ones."""
    model, _ = trained
    zeros = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
    torch.save(wrap(zeros, model.state_dict()), tmp_path / "w.pth")
    loaded = prunet_det.create("prunet_demo", num_classes=4)
    assert load_all_weights(loaded, tmp_path / "w.pth") == len(zeros)
    assert same_backbone(model.state_dict(), loaded.state_dict())


def test_an_averaged_model_of_torch(trained, tmp_path):
    """Its tensors begin with `module.`, but for the number of models that it is the mean of."""
    model, _ = trained
    averaged = torch.optim.swa_utils.AveragedModel(torch.compile(model, backend="eager"))
    torch.save({"model": averaged.state_dict()}, tmp_path / "w.pth")
    loaded = prunet_det.create("prunet_demo", num_classes=4)
    assert load_all_weights(loaded, tmp_path / "w.pth") == len(model.state_dict())


@pytest.mark.parametrize(
    "options", [{"num_classes": 4}, {"num_classes": 9}, {"features_only": True}]
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_timms_pretrained(trained, tmp_path, options, wrapped):
    model, path = trained
    if wrapped:
        path = tmp_path / "w.pth"
        torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    overlay = {"file": str(path), "num_classes": 4}
    loaded = timm.create_model(
        "prunet_demo", pretrained=True, pretrained_cfg_overlay=overlay, **options
    )
    inner = getattr(loaded, "model", loaded)
    assert same_backbone(inner.state_dict(), model.state_dict())


def test_a_folder_for_timms_hub(trained, tmp_path):
    model, _ = trained
    timm.models.save_for_hf(model, tmp_path / "hub", safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_another_network_is_refused(trained):
    with pytest.raises(CheckpointError, match=r"0/\d+ backbone tensors|tensors from .* fit"):
        prunet_det.create("gpunet_0", checkpoint=trained[1])


def test_other_names_are_refused(tmp_path):
    save_file({"foo.weight": torch.zeros(3)}, tmp_path / "foo.safetensors")
    with pytest.raises(CheckpointError, match=r"0/\d+ backbone tensors"):
        prunet_det.create("prunet_demo", checkpoint=tmp_path / "foo.safetensors")


def test_truncated(trained):
    _, path = trained
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
        prunet_det.create("prunet_demo", checkpoint=path)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code in a checkpoint ran')",))


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    for name, content in {"a.pth": pickle.dumps(Evil()), "b.pth": None}.items():
        if content is None:
            torch.save({"state_dict": Evil()}, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            prunet_det.create("prunet_demo", checkpoint=tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        prunet_det.create("prunet_demo", checkpoint=tmp_path / "none.pth")


def test_strict_loading_names_the_tensor(trained, tmp_path):
    model, path = trained
    assert load_all_weights(model, path) == len(model.state_dict())
    state = model.state_dict()
    state.pop("stem.0.conv.weight")
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"stem\.0\.conv\.weight is missing"):
        load_all_weights(model, tmp_path / "less.safetensors")


def test_a_file_that_does_not_fit_on_the_disk_is_named(tmp_path):
    """A limit on its size is refused as a full disk is: by a number in safetensors' text."""
    path = tmp_path / "w.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            save_safetensors({"a": torch.zeros(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.filename == str(path) and not list(tmp_path.iterdir())


def test_another_error_of_safetensors_stays_what_it_is(tmp_path, monkeypatch):
    def fail(*_):
        raise SafetensorError("ours")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(SafetensorError, match="ours"):
        save_safetensors({"a": torch.zeros(2)}, tmp_path / "w.safetensors")

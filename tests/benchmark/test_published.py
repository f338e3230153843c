"""The index of models is what `mim` and `mmengine.hub` read."""

from __future__ import annotations

import pytest
import yaml

from prunet_det.utils.package import FILES, package_file


@pytest.fixture(scope="module")
def models():
    index = yaml.safe_load(package_file("model-index.yml").read_text())
    metafiles = [yaml.safe_load((FILES / path).read_text()) for path in index["Import"]]
    return {model["Name"]: model for metafile in metafiles for model in metafile["Models"]}


def test_every_file_is_there(models):
    for model in models.values():
        assert package_file(model["Config"]).is_file()
        assert "Weights" not in model or package_file(model["Weights"]).is_file()


def test_published_figures(models):
    (accuracy,) = models["prunet_p0"]["Results"]
    assert accuracy["Metrics"] == {"Top 1 Accuracy": 80.3}
    a100, v100 = models["prunet_p0"]["Metadata"]["inference time (ms/im)"]
    assert (v100["hardware"], v100["value"]) == ("V100", 0.63) and a100["hardware"] == "A100"


def test_no_two_configs_have_one_name():
    """`mim train prunet_det NAME.py` looks everywhere below the package, and refuses a choice."""
    for config in package_file("configs").glob("*.py"):
        assert len([*FILES.rglob(config.name), *FILES.parent.glob(f"*/{config.name}")]) <= 1
        assert len(list(package_file("configs").rglob(config.name))) == 1


def test_hub_finds_configs(models):
    from mmengine.hub import get_config

    import prunet_det.training  # noqa: F401 (tells MMEngine of the package)

    cfg = get_config("prunet_det::/prunet_effdet.py", pretrained=True)
    assert cfg.model.backbone.arch == "prunet_demo"
    assert cfg.model_path == models["prunet_demo_digits"]["Weights"]
    assert get_config("prunet_det::search/quick.py").space.stem == 24

"""The built wheel works with the core alone, outside the checkout."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "prunet_det", source / "prunet_det")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "-w", str(folder), str(source)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("prunet_det-*.whl")
    return path


def closure(names):
    """Installed distributions that these need, extras left out."""
    found: dict[str, metadata.Distribution] = {}
    queue = list(names)
    while queue:
        name = re.split(r"[ ;<>=!~\[(]", queue.pop())[0].lower().replace("_", "-")
        try:
            dist = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform
        if name not in found:
            found[name] = dist
            queue += [r for r in dist.requires or [] if "extra ==" not in r]
    return found.values()


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory):
    """A virtual environment with the wheel and what it requires, and nothing else."""
    root = tmp_path_factory.mktemp("core")
    venv.create(root, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": root, "platbase": root}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        (info,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        lines = archive.read(info).decode().splitlines()
    required = [r.partition(": ")[2] for r in lines if r.startswith("Requires-Dist")]
    for dist in closure(r for r in required if "extra ==" not in r):
        for top in {f.parts[0] for f in dist.files or [] if f.parts[0] != ".."}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(dist.locate_file(top))).resolve())
    return root / "bin" / "python"


def test_all_files_are_inside(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    package = ROOT / "prunet_det"
    for folder in ("zoo/specs", "latency/devices"):
        files = [p.name for p in (package / folder).glob("*.json")]
        assert files and {f"prunet_det/{folder}/{name}" for name in files} <= inside
    for folder in ("configs", "tools", "checkpoints"):
        files = [p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix != ".pyc"]
        files = [p for p in files if p.name not in ("report.py", "setup_env.sh")]
        shipped = {f"prunet_det/.mim/{p.relative_to(ROOT).as_posix()}" for p in files}
        assert files and shipped <= inside, shipped - inside
    assert {"prunet_det/py.typed", "prunet_det/.mim/model-index.yml"} <= inside


def test_networks_without_anything_but_the_core(core, tmp_path):
    code = """
import importlib.util, json, timm, torch, prunet_det
for name in ("mmengine", "mmcv", "mmdet", "cv2", "matplotlib", "sklearn", "effdet"):
    assert importlib.util.find_spec(name) is None, name
with torch.device("meta"):
    model = timm.create_model("prunet_p0")
    names = [n for n in prunet_det.model_names() if prunet_det.create(n) is not None]
try:
    import prunet_det.detection
except ImportError as e:
    message = str(e)
print(json.dumps([prunet_det.__file__, sum(p.numel() for p in model.parameters()), names, message]))
"""
    done = subprocess.run([core, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    place, parameters, names, message = json.loads(done.stdout.splitlines()[-1])
    assert str(ROOT) not in place
    assert parameters == 22_815_080
    assert len(names) == len(list((ROOT / "prunet_det" / "zoo" / "specs").glob("*.json")))
    assert "pip install 'prunet_det[det]'" in message


def test_tools_in_an_empty_folder(core, tmp_path):
    def prunet(*args):
        command = [core, "-I", "-m", "prunet_det", *args]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = prunet("latency", "predict", "--model", "prunet_p0", "--device", "v100", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["device"] == "v100"
    done = prunet("train", "prunet_effdet.py")
    assert done.returncode == 2 and "pip install 'prunet_det[det]'" in done.stderr
    assert not list(tmp_path.iterdir())

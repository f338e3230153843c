"""What a result depends on, as digests: records that differ in one are never mixed."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import prunet_det
from prunet_det.benchmark.held_out import make_data
from prunet_det.benchmark.suite import Suite
from prunet_det.files import file_digest
from prunet_det.machine import environment

# What trains, exports and evaluates a detector, relative to the package. The data and the recipe
# have digests of their own, and a network's spec stands in its record.
_CODE = (
    "arch",
    "detection",
    "runtime",
    "training",
    "zoo/models.py",
    "zoo/registry.py",
    "zoo/weights.py",
    "benchmark/evaluate.py",
    "benchmark/held_out.py",
    "benchmark/run.py",
    "benchmark/suite.py",
)
# Packages that take part in it.
_PACKAGES = ("torch", "timm", "onedl-mmengine", "onedl-mmdetection", "onnxruntime")


def identity(suite: Suite) -> dict[str, str]:
    """The keys of `records.SHARED` that this checkout, suite and data give on this machine.

    Makes the embedded data where they are missing.
    """
    cfg = suite.recipe()
    make_data(cfg)
    return {
        "suite": suite.name,
        "artifact": suite.artifact,
        "config_hash": suite.config_hash(),
        "data_hash": data_hash(suite),
        "code_hash": code_hash(),
    }


def data_hash(suite: Suite) -> str:
    """A digest of the training and test data: of embedded sets all files, else the annotations.

    Raises:
        FileNotFoundError: They are not here; the sentence says where they belong.
    """
    from prunet_det.datasets import data_hash as embedded_hash
    from prunet_det.detection.data import read_classes

    cfg = suite.recipe()
    digests = []
    for key in ("train_dataloader", "test_dataloader"):
        dataset = cfg[key].dataset
        if dataset.type == "EmbeddedDataset":
            digests.append(embedded_hash(dataset.data_root))
        else:
            path = Path(dataset.data_root) / dataset.ann_file
            read_classes(path)
            digests.append(file_digest(path))
    return digests[0] if digests[0] == digests[1] else "+".join(d[:8] for d in digests)


def code_hash() -> str:
    """A digest of the code, whatever its comments, docstrings and formatting, and of versions."""
    root = Path(prunet_det.__file__).parent
    versions = environment()["versions"]
    digest = hashlib.sha256(json.dumps([versions.get(p) for p in _PACKAGES]).encode())
    for path in _files(root):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(bare(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def _files(root: Path) -> Iterator[Path]:
    for part in _CODE:
        path = root / part
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def bare(source: str) -> str:
    """Python source without comments, docstrings and formatting."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(
            node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        ) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)

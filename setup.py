"""Package metadata. Versions are pinned in constraints.txt, names are listed here."""

from pathlib import Path

from setuptools import find_packages, setup

DET = [
    "onedl-mmengine",
    "onedl-mmcv",
    "onedl-mmdetection",
    "pycocotools",
    "scikit-learn",  # the handwritten digits
    "scikit-image",  # the photographs
    "matplotlib",  # the typefaces, and drawing
    "pillow",
    "scipy",  # calibration
    "tensorboard",
    "tqdm",
    "rich",
]

ONNX = ["onnx", "onnxscript", "onnxruntime"]  # export, and the runtime of CPUs
RAY = ["ray"]  # the benchmark's --launcher ray
BENCHMARK = ["plotly"]  # the benchmark's page
DEV = ["pytest", "pytest-xdist", "ruff", "mypy", "effdet"]

setup(
    name="prunet_det",
    version="0.1.0",
    description="PruNet backbones, detectors on them, and the search that finds them",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["prunet_det", "prunet_det.*"]),
    package_data={
        "prunet_det.zoo": ["specs/*.json"],
        "prunet_det.latency": ["devices/*.json", "published.csv"],
        "prunet_det.benchmark": ["page.html", "*.csv"],
    },
    install_requires=["torch", "torchvision", "timm", "safetensors", "numpy"],
    extras_require={
        "det": DET,
        "onnx": ONNX,
        "benchmark": BENCHMARK,
        "ray": RAY,
        "dev": [*DET, *ONNX, *BENCHMARK, *RAY, *DEV],
    },
)

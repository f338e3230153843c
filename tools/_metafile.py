"""The index of models in OpenMMLab's form, which tools/report.py writes into configs/."""

import json
from pathlib import Path

import yaml

from prunet_det.benchmark.published import classifiers
from prunet_det.latency.calibrate import published_devices, published_points
from prunet_det.utils.package import package_file

PRUNET_PAPER = (
    "Tiered Pruning for Efficient Differentiable Inference-Aware Neural Architecture Search"
)
HEADER = """\
# Written by `python tools/report.py`; do not edit. Figures of classifiers are published ones, from
# prunet_det/latency/published.csv and the specs, and were not measured here. No weights of them are
# shipped; their Config is a recipe that trains them, with model.arch=NAME.
"""


def _hub_path(config: str | Path) -> str:
    """Path of a config at the top of configs/, which `mmengine.hub` then calls `prunet_det::/NAME`.

    MMEngine takes only names with a slash, and compares them with what follows the first one here.
    """
    return f"configs//{Path(config).name}"


def metafile() -> str:
    """Text of configs/metafile.yml: the models in OpenMMLab's form, for `mim` and `mmengine.hub`.

    Latencies are the published ones of whole classifiers at batch 1.
    """
    card = json.loads(package_file("checkpoints/prunet_demo_digits.json").read_text("utf-8"))
    demo = {
        "Name": "prunet_demo_digits",
        "In Collection": "PruNet",
        "Config": _hub_path(card["config"]),
        "Metadata": {
            "Training Data": "embedded digits",
            "Training Resources": card["training"]["machine"],
            "Iterations": card["training"]["iterations"],
            "Parameters": card["parameters"],
        },
        "Results": [
            {
                "Task": "Object Detection",
                "Dataset": card["data"],
                "Metrics": {"box AP": round(100 * card["metrics"]["bbox_mAP"], 1)},
            }
        ],
        "Weights": "checkpoints/prunet_demo_digits.safetensors",
    }
    times = {device: published_points(device) for device in published_devices()}
    networks = [
        {
            "Name": c.model,
            "In Collection": "PruNet" if c.family == "prunet" else "GPUNet",
            "Config": "configs/classification/prunet_imagenet.py",
            "Metadata": {
                "inference time (ms/im)": [
                    {
                        "value": p.ms,
                        "hardware": device.upper(),
                        "backend": "ONNX Runtime with TensorRT",
                        "batch size": 1,
                        "mode": "FP16",
                        "resolution": [p.input_size, p.input_size],
                    }
                    for device, points in times.items()
                    for p in points
                    if (p.network, p.batch) == (c.model, 1)
                ]
            },
            "Results": [
                {
                    "Task": "Image Classification",
                    "Dataset": "ImageNet-1k",
                    "Metrics": {"Top 1 Accuracy": c.top1},
                }
            ],
        }
        for c in classifiers()
    ]
    recipes = [
        {"Name": path.stem, "In Collection": "PruNet", "Config": _hub_path(path)}
        for path in sorted(package_file("configs").glob("*.py"))
    ]
    collections = [
        {
            "Name": "PruNet",
            "Paper": {"Title": PRUNET_PAPER, "URL": "https://arxiv.org/abs/2209.11785"},
            "README": "docs/networks.md",
        },
        {"Name": "GPUNet", "README": "docs/networks.md"},
    ]
    text = yaml.safe_dump(
        {"Collections": collections, "Models": [demo, *recipes, *networks]},
        sort_keys=False,
        width=100,
    )
    return f"{HEADER}{text}"

# %% [markdown]
# # My images, my machine, my budget
#
# The best detector for so many milliseconds on the machine that is here, from a folder of images to
# an exported file: a search on the detector's own loss, a training, an export, and the time that it
# takes. Here on the embedded digits, which take two CPU cores half an hour. For a folder of your
# own in COCO's format ([your own data](own_data.py)), ask for the detector
# `prunet_effdet_finetune.py` with `data="my_data"` and
# `detector_options={"model.bbox_head.num_classes": N}`.

# %%
import os

from prunet_det.search import SearchConfig, reachable, search

quick = bool(os.environ.get("QUICK"))  # the tests run this page small
ask = dict(detector="prunet_effdet.py", scope="detector", device="here", out="work_dirs/own_search")
if quick:
    ask["device"] = "v100"  # which is predicted: measuring takes a minute
    ask["options"] = {
        "search.warmup": 1,
        "search.paths": 1,
        "search.tiers": 2,
        "search.batch": 2,
        "search.warmup_batch": 2,
        "search.draws": 2,
        "search.draws_batch": 2,
        "search.score_images": 8,
        "evolution.evaluations": 4,
        "finalists.iterations": (1,),
        "finalists.kept": (),
        "finalists.random": 0,
        "space.stages": [
            dict(width=8, depth=1, kinds=("conv",)),
            dict(width=16, depth=2, stride=2),
            dict(width=24, depth=1, stride=2),
            dict(width=32, depth=1, stride=2),
        ],
    }
    ask["detector_options"] = {
        "model.neck.num_cells": 1,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "test_dataloader.num_workers": 0,
        "test_dataloader.persistent_workers": False,
    }

# %% [markdown]
# ## What can be asked for
#
# The blocks of the space are measured first, once for this machine, and neck and head of the
# detector with them. On a machine that is busy with other things the milliseconds mean little.

# %%
low, high = reachable(SearchConfig.from_file("search/effdet.py", budget_ms=1, **ask))
print(f"detectors of {low:.1f} to {high:.1f} ms can be searched")
budget = float(f"{low * (high / low) ** 0.4:.3g}")  # or what you have

# %% [markdown]
# ## The search
#
# Ctrl-C stops it and the same line goes on. On a command line:
#
#     prunet search_backbone search/effdet.py --budget-ms MS --detector prunet_effdet.py \
#         --scope detector --device here --out work_dirs/own_search

# %%
config = SearchConfig.from_file("search/effdet.py", budget_ms=budget, resume=True, **ask)
result = search(config)
print("\n".join(result.lines))
folder = result.folder / f"{budget:g}ms"

# %% [markdown]
# `report.md` says how it went. The folder of the budget holds `config.py`, the detector as any tool
# takes it, and `weights.safetensors`: what the last tier trained, on half of the images.
#
# ## The training
#
# From these weights, on all images:
#
#     prunet train work_dirs/own_search/MSms/config.py --from .../weights.safetensors

# %%
from prunet_det.training import launch

training = launch.load_config(folder / "config.py", work_dir="work_dirs/own_detector")
training.load_from = str(folder / "weights.safetensors")
launch.set_max_iters(training, 1 if quick else 1000)
launch.train(launch.build_runner(training))

# %% [markdown]
# ## The file
#
# From pixels to boxes in one ONNX file, which [needs onnxruntime alone](onnx_only.py):
#
#     prunet export work_dirs/own_search/MSms/config.py work_dirs/own_detector/weights.safetensors \
#         --scope e2e --out own_detector.onnx

# %%
from prunet_det.detection.export import export_end_to_end
from prunet_det.detection.letterbox import Letterbox
from prunet_det.latency.subject import load_named

weights = "work_dirs/own_detector/weights.safetensors"
detector = load_named(folder / "config.py", "e2e", checkpoint=weights).detector
square = Letterbox.from_config(detector.cfg)
classes = list(result.networks[budget].classes)
checked = export_end_to_end(detector, "own_detector.onnx", square, metadata={"classes": classes})
print(f"own_detector.onnx finds the same {checked.detections} detections as Python")

# %% [markdown]
# ## What it takes
#
#     prunet latency measure --model work_dirs/own_search/MSms/config.py --scope detector

# %%
from prunet_det.latency.measure import local_conditions, measure

subject = load_named(folder / "config.py", "detector", checkpoint=weights)
(found,) = measure([subject], local_conditions(), seconds=0.1 if quick else 3.0)
print(f"{found.latency.ms:.2f} ms on {found.latency.conditions}, asked for {budget:g} ms")

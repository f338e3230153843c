# %% [markdown]
# # A detector
#
# `load_detector` turns a training's folder, or a file of weights, into an object that is called
# with images. Without an argument it is the detector that is shipped, of handwritten digits.

# %%
import os

import prunet_det
from prunet_det.datasets import ensure

count = 2 if os.environ.get("QUICK") else 300  # images; the tests run this page small
detector = prunet_det.load_detector()
print(detector, detector.classes)

# %% [markdown]
# ## An image
#
# The digits are made on first use, from files inside scikit-learn and scikit-image. An image is a
# path, a Pillow image, an array (H, W, 3) in BGR or a tensor; several in a list give a list.

# %%
root = ensure("digits", "data/digits")
images = sorted((root / "val").glob("*.jpg"))[:count]
found = detector(images[0])
print(found)
for box, score, _, name in found:
    print(f"{name} {score:.2f} at {[round(x) for x in box]}")

# %% [markdown]
# `boxes`, `scores` and `labels` are arrays, best first; a mask selects.

# %%
sure = found[found.scores > 0.5]
print(sure.boxes.shape, sure.names)
sure.save("found.jpg")

# %% [markdown]
# ## Many images
#
# `stream` takes any iterable and keeps nothing. To compute an mAP the detector must give all that
# it finds, since every detection left out lowers it: `score_thr=0`. `to_coco` gives the records
# that pycocotools takes.

# %%
import json

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

truth = COCO(str(root / "annotations" / "val.json"))
categories = {c["name"]: c["id"] for c in truth.dataset["categories"]}
ids = {i["file_name"]: i["id"] for i in truth.dataset["images"]}
everything = prunet_det.load_detector(score_thr=0)
records = []
for path, detections in zip(images, everything.stream(images), strict=True):
    records += detections.to_coco(ids[path.name], categories)
with open("detections.json", "w", encoding="utf-8") as f:
    json.dump(records, f)

evaluation = COCOeval(truth, truth.loadRes(records), "bbox")
evaluation.params.imgIds = [ids[path.name] for path in images]
evaluation.evaluate()
evaluation.accumulate()
evaluation.summarize()

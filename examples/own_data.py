# %% [markdown]
# # Your own data
#
# From a folder of images to a trained detector. The data are drawn here, so that the page runs as
# it is: circles, squares and triangles. Yours are a folder of the same form.

# %%
import json
import os
from pathlib import Path

import cv2
import numpy as np

quick = bool(os.environ.get("QUICK"))  # the tests run this page small
classes = ["circle", "square", "triangle"]


def draw_image(rng):
    """An image of 1 to 4 shapes, one in each quarter at most; the label and box of each."""
    image = cv2.resize(rng.integers(60, 200, (8, 8, 3), np.uint8), (256, 256))
    objects = []
    for quarter in rng.permutation(4)[: rng.integers(1, 5)]:
        r, label = int(rng.integers(16, 48)), int(rng.integers(3))
        x = int(128 * (quarter % 2) + rng.integers(r, 128 - r))
        y = int(128 * (quarter // 2) + rng.integers(r, 128 - r))
        colour = rng.integers(0, 256, 3).tolist()
        if label == 0:
            cv2.circle(image, (x, y), r, colour, -1)
        elif label == 1:
            cv2.rectangle(image, (x - r, y - r), (x + r, y + r), colour, -1)
        else:
            corners = [(x, y - r), (x - r, y + r), (x + r, y + r)]
            cv2.fillPoly(image, [np.array(corners)], colour)
        objects.append((label, [x - r, y - r, 2 * r, 2 * r]))
    return image, objects


# %% [markdown]
# ## A folder in COCO's format
#
# An annotation file lists images, categories, and each object's box: x, y, width and height in
# pixels. Ids may be any numbers or texts.

# %%
folder = Path("my_data")


def write_split(name, count):
    """Images in my_data/NAME/, and my_data/annotations/NAME.json."""
    rng = np.random.default_rng(len(name))
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    coco = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": c} for i, c in enumerate(classes)],
    }
    for i in range(count):
        image, objects = draw_image(rng)
        cv2.imwrite(str(folder / name / f"{i}.jpg"), image)
        coco["images"].append({"id": i, "file_name": f"{i}.jpg"})
        for label, box in objects:
            entry = {"id": len(coco["annotations"]), "image_id": i, "category_id": label}
            coco["annotations"].append({**entry, "bbox": box})
    (folder / "annotations" / f"{name}.json").write_text(json.dumps(coco))


write_split("train", 4 if quick else 200)
write_split("val", 2 if quick else 50)

# %% [markdown]
# ## Training
#
# The recipe for fine-tuning starts from the shipped detector of digits: what fits comes along, and
# the last layer is new. On a command line this is
#
#     prunet train prunet_effdet_finetune.py --data-root my_data --work-dir work_dirs/mine \
#         --from checkpoints/prunet_demo_digits.safetensors \
#         --cfg-options model.bbox_head.num_classes=3
#
# It takes some minutes on 2 cores. With more images give more iterations (`--max-iters`).

# %%
from prunet_det.training import launch
from prunet_det.utils.package import package_file

options = {"model.bbox_head.num_classes": len(classes)}
if quick:
    options |= {
        "train_dataloader.batch_size": 2,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "val_dataloader.num_workers": 0,
        "val_dataloader.persistent_workers": False,
    }
config = launch.load_config(
    "prunet_effdet_finetune.py", work_dir="work_dirs/mine", data_root="my_data", options=options
)
config.load_from = str(package_file("checkpoints/prunet_demo_digits.safetensors"))
if quick:
    launch.set_max_iters(config, 2)
launch.train(launch.build_runner(config))

# %% [markdown]
# The log ends with COCO's metrics on `val`. The folder now has `weights.safetensors`, `train.json`
# with the classes, and the config.
#
# ## Detecting
#
# The folder is all that a detector needs:

# %%
import prunet_det

detector = prunet_det.load_detector("work_dirs/mine")
images = sorted((folder / "val").glob("*.jpg"))[:4]
for path, found in zip(images, detector(images), strict=True):
    print(path.name, found)
    found.save(f"found/{path.name}")

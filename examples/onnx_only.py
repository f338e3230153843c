# %% [markdown]
# # An exported detector, without PyTorch
#
# `tools/export.py CONFIG WEIGHTS --scope e2e --out d.onnx` writes a file that says itself how it is
# used. This script, `onnx_only.py d.onnx IMAGE...`, needs onnxruntime, numpy and Pillow alone.

# %%
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def fit(image, box):
    """Returns an image at the top left of a square, and how much wider and higher it became."""
    factor = min(box["longer_side"] / max(image.size), box["shorter_side"] / min(image.size))
    half = 0.5 if box["rounding"] == "round" else 0.0
    w, h = (max(1, int(side * factor + half)) for side in image.size)
    scale = w / image.width, h / image.height
    if box["antialias"]:
        image = image.resize((w, h), Image.Resampling.BILINEAR)
    else:  # between the nearest pixels, as OpenCV does
        matrix = (1 / scale[0], 0, 0, 0, 1 / scale[1], 0)
        image = image.transform((w, h), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    square = Image.new("RGB", (box["size"],) * 2, tuple(box["pad_value"]))
    square.paste(image)
    return square, scale


session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
(given,) = session.get_inputs()
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    square, scale = fit(image, about["letterbox"])
    pixels = np.asarray(square, about["input"]["type"]).transpose(2, 0, 1)[None]
    if isinstance(given.shape[0], int):  # a file of a fixed batch
        pixels = pixels.repeat(given.shape[0], axis=0)
    boxes, scores, labels = (output[0] for output in session.run(None, {given.name: pixels}))
    boxes = (boxes / (scale * 2)).clip(0, image.size * 2)  # in pixels of the image
    for box, score, label in zip(boxes, scores, labels, strict=True):
        if score >= 0.3:
            print(path, about["classes"][label], f"{score:.3f}", *(f"{x:.1f}" for x in box))

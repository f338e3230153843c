"""Parts of an annotation file in COCO's format."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from prunet_det.utils.errors import InputError
from prunet_det.utils.io import atomic_path

_ATTEMPTS = 100  # orders in which images are dealt out, before it is given up


def write_part(
    content: Mapping[str, Any], ids: Collection[int], path: str | os.PathLike[str]
) -> None:
    """Writes an annotation file of some of the images of another one.

    Args:
        content: What `read_coco` returned.
        ids: Ids of the images.
        path: File to write.
    """
    kept = set(ids)
    part = {
        **content,
        "images": [image for image in content["images"] if image["id"] in kept],
        "annotations": [a for a in content["annotations"] if a["image_id"] in kept],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(part), encoding="utf-8")


def halves(content: Mapping[str, Any], seed: int) -> tuple[list[int], list[int]]:
    """Divides images at random into two halves that both hold every class that is annotated.

    Images are dealt out by their rarest class, the rarest first, each to the half that lacks more
    of its classes, or has less of the rarest one, or fewer images.

    Args:
        content: What `read_coco` returned. Crowds and boxes of less than a pixel do not count.
        seed: Seed of the order in which images are dealt out.

    Returns:
        Ids of the images of each half, in the file's order.

    Raises:
        InputError: If a class is in one image only, or images hold their classes in such a way that
            no half could be found.
    """
    of_image: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd") and min(annotation["bbox"][2:]) >= 1:
            of_image[annotation["image_id"]].add(annotation["category_id"])
    counts = Counter(label for labels in of_image.values() for label in labels)
    names = {category["id"]: category["name"] for category in content["categories"]}
    for label, name in names.items():
        if counts[label] == 1:
            raise InputError(
                f"one image alone has the class {name!r}; the search splits the images in two "
                "halves and needs one of each class in both: give more of it, or leave it out."
            )
    for attempt in range(_ATTEMPTS):
        order = np.random.default_rng((seed, attempt)).permutation([*of_image]).tolist()
        parts = _dealt(order, of_image, counts)
        missing = [k for k in counts if any(k not in held for _, held in parts)]
        if not missing:
            break
    else:
        raise InputError(
            "the images cannot be divided so that both halves have the class "
            f"{names[missing[0]]!r}, which is in {counts[missing[0]]} of them; give more of it."
        )
    first, second = ([i for i in of_image if i in part] for part, _ in parts)
    return first, second


def _dealt(
    order: Sequence[int], of_image: Mapping[int, set[int]], counts: Mapping[int, int]
) -> tuple[tuple[set[int], Counter[int]], tuple[set[int], Counter[int]]]:
    """Images of two halves, and how often each class is in them."""
    parts: tuple[tuple[set[int], Counter[int]], tuple[set[int], Counter[int]]]
    parts = (set(), Counter()), (set(), Counter())

    def rarest(i: int) -> int:
        return min((counts[k] for k in of_image[i]), default=len(of_image) + 1)

    for i in sorted(order, key=rarest):
        labels = of_image[i]
        least = [k for k in labels if counts[k] == rarest(i)]
        images, held = min(
            parts,
            key=lambda part: (
                -sum(k not in part[1] for k in labels),
                sum(part[1][k] for k in least),
                len(part[0]),
            ),
        )
        images.add(i)
        held.update(labels)
    return parts

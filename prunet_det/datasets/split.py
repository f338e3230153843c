"""Parts of an annotation file in COCO's format."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from prunet_det.utils.errors import InputError
from prunet_det.utils.io import atomic_path


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

    Images are dealt out by their rarest class, the rarest first, each to the half that has less of
    that class, or fewer images.

    Args:
        content: What `read_coco` returned.
        seed: Seed of the order in which images are dealt out.

    Returns:
        Ids of the images of each half, in the file's order.

    Raises:
        InputError: If a class is in one image only.
    """
    of_image: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].add(annotation["category_id"])
    counts = Counter(label for labels in of_image.values() for label in labels)
    for category in content["categories"]:
        if counts[category["id"]] == 1:
            raise InputError(
                f"one image alone has the class {category['name']!r}; the search splits the images "
                "in two halves and needs one of each class in both: give more of it, or leave it "
                "out."
            )
    every = len(of_image) + 1
    order = np.random.default_rng(seed).permutation([*of_image])
    rarest = {
        int(i): min(((counts[k], k) for k in of_image[int(i)]), default=(every, -1)) for i in order
    }
    own: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    parts: tuple[set[int], set[int]] = (set(), set())
    for i, (_, label) in sorted(rarest.items(), key=lambda item: item[1][0]):
        half = min((0, 1), key=lambda h: (own[h][label], len(parts[h])))
        parts[half].add(i)
        own[half].update({*of_image[i], -1} if label < 0 else of_image[i])
    first, second = ([i for i in of_image if i in part] for part in parts)
    return first, second

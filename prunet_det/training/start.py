"""Starting a training from the weights of another one: a detector's or a classifier's."""

from __future__ import annotations

import copy
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import nn

from prunet_det.training.records import read_classes
from prunet_det.utils.io import file_digest
from prunet_det.utils.package import find_checkpoint, relative_path
from prunet_det.zoo.imagenet import IMAGENET, imagenet_file
from prunet_det.zoo.weights import (
    check_backbone,
    check_finite,
    inner_network,
    read_network_weights,
    read_state_dict,
    strip_prefixes,
)

logger = logging.getLogger(__name__)


class Start:
    """Weights that a training starts from, read and checked before anything slow begins.

    Every tensor that fits by name and shape comes along. Of those that depend on the classes, such
    as the last convolution of a head, the rows of classes that both have do, by their names.

    Args:
        model: The detector or classifier that is to be trained.
        cfg: Its config.
        path: Weights of a detector with any classes, or of a classifier, see `find_checkpoint` and
            `read_state_dict`; or `imagenet`, see `imagenet_file`.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it cannot be read, is not finite, or does not hold the model's whole
            backbone.
    """

    def __init__(
        self, model: nn.Module, cfg: Mapping[str, Any], path: str | os.PathLike[str]
    ) -> None:
        network = _network(model)
        path = find_checkpoint(path)
        self._model, self._path = model, path
        self._file = imagenet_file(network) if os.fspath(path) == IMAGENET else path
        prefix = next(f"{name}." for name, m in model.named_modules() if m is network)
        names = set(model.state_dict())
        state = strip_prefixes(read_state_dict(self._file), names)
        if not names & state.keys():  # of a classifier
            bare = read_network_weights(network, path)
            state = {prefix + name: tensor for name, tensor in bare.items()}
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        check_backbone(network, own, str(path))
        self._state = {name: tensor for name, tensor in state.items() if name in names}
        check_finite(self._state, self._state, str(path))
        self._rows = _rows_per_class(model, cfg)

    @torch.no_grad()
    def load(self, classes: Sequence[str]) -> dict[str, Any]:
        """Copies the weights into the model, and logs what came along.

        Args:
            classes: Names of the classes that are to be trained, in the order of the labels. Those
                of the weights are read from the card or the train.json beside them; without
                either, the same number of classes is taken for the same classes.

        Returns:
            The record: the file and its digest, how many tensors came along, the names of those
            that did not, or of a part such as `neck` of which none did, and the classes whose rows
            were matched by name.
        """
        classes = list(classes)
        before = read_classes(self._path) or classes
        common = [name for name in classes if name in before] if before != classes else []
        target = self._model.state_dict()
        left, kept = [], False
        for name, tensor in target.items():
            source = self._state.get(name)
            rows = self._rows.get(name, 0) if before != classes else 0
            if source is not None and source.shape == tensor.shape and not rows:
                tensor.copy_(source)
                continue
            old_shape = (rows * len(before), *tensor.shape[1:])
            if common and source is not None and source.shape == old_shape:
                _copy_rows(source, before, tensor, classes, common)
                kept = True
                if common == classes:  # in another order, or without some
                    continue
            left.append(name)
        record = {
            "file": relative_path(self._path),
            "digest": file_digest(self._file),
            "loaded": len(target) - len(left),
            "tensors": len(target),
            "initialised": _whole_parts(left, list(target)),
            "classes_kept": common if kept else [],
        }
        self._log(record, list(target), left)
        return record

    def _log(self, record: Mapping[str, Any], names: Sequence[str], left: Sequence[str]) -> None:
        kept = record["classes_kept"]
        total, missing = _per_part(names), _per_part(left)
        parts = ", ".join(f"{part} {n - missing[part]}/{n}" for part, n in total.items())
        counts = f"{record['loaded']}/{len(names)} tensors ({parts})"
        logger.info("started from %s: %s", os.fspath(self._path), counts)
        if left:
            more = f", ... ({len(left)})" if len(left) > 4 else ""
            logger.info("initialised anew: %s%s", ", ".join(left[:4]), more)
        if kept:
            of = "of these, " if left else ""
            logger.info("%sthe rows of the classes %s came along by name", of, ", ".join(kept))


def _per_part(names: Sequence[str]) -> Counter[str]:
    return Counter(name.partition(".")[0] for name in names)


def _whole_parts(left: Sequence[str], names: Sequence[str]) -> list[str]:
    """Names a part of a model, such as `neck`, where all tensors of it are left."""
    total, missing = _per_part(names), _per_part(left)
    parts = ((name, name.partition(".")[0]) for name in left)
    return list(dict.fromkeys(p if missing[p] == total[p] else name for name, p in parts))


def _copy_rows(
    source: torch.Tensor,
    before: Sequence[str],
    tensor: torch.Tensor,
    classes: Sequence[str],
    common: Sequence[str],
) -> None:
    """Copies the rows of some classes; a dense head has those of all classes for each anchor.

    Args:
        source: (rows * len(before), ...).
        before: Classes of `source`.
        tensor: (rows * len(classes), ...); changed in place.
        classes: Classes of `tensor`.
        common: Classes whose rows are copied.
    """
    to, origin = ([names.index(name) for name in common] for names in (classes, before))
    parts = source.to(tensor).unflatten(0, (-1, len(before)))
    tensor.unflatten(0, (-1, len(classes)))[:, to] = parts[:, origin]


def _network(model: nn.Module) -> nn.Module:
    """Returns the network of a classifier, or of a detector's backbone."""
    backbone = getattr(model, "backbone", model)
    return inner_network(getattr(backbone, "net", backbone))


def _rows_per_class(model: nn.Module, cfg: Mapping[str, Any]) -> dict[str, int]:
    """Finds the tensors that depend on the classes: a model of one more class has larger ones.

    Args:
        model: The model.
        cfg: Its config.

    Returns:
        For each of these tensors, how many rows a class has, such as one for each anchor; -1 where
        a class has no rows of its own.
    """
    with torch.device("meta"):
        larger = MODELS.build(ConfigDict(_one_more_class(cfg))).state_dict()
    found = {}
    for name, tensor in model.state_dict().items():
        other = larger[name].shape
        if other != tensor.shape:
            # RoI heads have the four numbers of a class's box in a row; they start anew.
            found[name] = -1 if name.startswith("roi_head.") else other[0] - tensor.shape[0] or -1
    return found


def _one_more_class(cfg: Any) -> Any:
    """Adds a class wherever a config says their number, and leaves out what reads other files."""
    if isinstance(cfg, Mapping):
        unread = {k: None if k in ("checkpoint", "teacher") else v for k, v in cfg.items()}
        return {
            k: v + 1 if k == "num_classes" and isinstance(v, int) else _one_more_class(v)
            for k, v in unread.items()
        }
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(_one_more_class(v) for v in cfg)
    return copy.deepcopy(cfg)

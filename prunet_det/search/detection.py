"""A supernet as the backbone of a detector: it learns the detector's own loss, on its own data."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from mmengine import dist
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunet_det.arch.network import reestimate_norms
from prunet_det.arch.spec import ArchSpec
from prunet_det.detection.build import build_detector
from prunet_det.search.detection_data import JUDGED, Stream, check_loaders, split
from prunet_det.search.detectors import (
    DetectorTrainings,
    at_size,
    check_parts,
    found_config,
    map_options,
    maps_of,
    mean_precision,
)
from prunet_det.search.hooks import read_checkpoint
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import SearchSpace, Shape
from prunet_det.search.supernet import Choice, SuperNet
from prunet_det.search.supernet import Path as Way
from prunet_det.search.tasks import ARCHITECTURE, WEIGHTS, Batch, Task
from prunet_det.training.hooks import class_counts
from prunet_det.training.loading import inner_dataset, set_loader_options
from prunet_det.training.repeatable import seeded
from prunet_det.utils.config import config_errors
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import file_digest, make_folder
from prunet_det.utils.package import find_checkpoint
from prunet_det.zoo.weights import read_state_dict, refuse_pretrained

if TYPE_CHECKING:
    from prunet_det.search.config import SearchConfig

logger = logging.getLogger(__name__)

_NORM_BATCHES = 20  # from which the statistics of a found detector's batch norms are taken
_GUESSES = 4  # batches whose mean loss is that of a detector that knows nothing
_SCORED, _NORMS = "scored", "norms"  # purposes of batches that are the same in each call


class SupernetBackbone(BaseModule):
    """A supernet in the place of a detector's backbone.

    Args:
        space: What may be chosen.
        out_strides, out_indices: As of `PruNet`.

    Attributes:
        choice: What of the supernet runs; to be set before each pass.
        out_channels, out_strides: Channels and strides of the maps, the finest first.

    Shapes:
        (N, 3, H, W) to one map for each stride.
    """

    choice: Choice

    def __init__(
        self,
        space: SearchSpace,
        out_strides: Sequence[int] | None = None,
        out_indices: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.supernet = SuperNet(space, 0)
        maps = maps_of(space, out_strides, out_indices)
        self.out_strides, self._stages, self.out_channels = zip(*maps, strict=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps of what is chosen."""
        maps = self.supernet.features(x, self.choice)
        return tuple(maps[stage] for stage in self._stages)


class Detection(Task):
    """Where objects are and of which class, as a detector's config has it.

    Args:
        cfg: Config of a detector, whose training data are an annotation file in COCO's format.
        folder: Folder for the annotations of the two halves.
        seed: Seed of the halves, of order and augmentation.
        device: Where model and batches go.
        score_images: Images that networks are scored on by their loss, at most.
        start: Checkpoint of a search in the same space that has pruned nothing, with whose averaged
            weights the supernet starts; empty for random ones.
        input_size: Side of the images that a network which knows nothing is asked for, in pixels.

    Raises:
        UserError: If the data cannot be used, or a class is in one image alone.
    """

    metric = "mAP"

    def __init__(  # noqa: PLR0913 (the parts of a config)
        self,
        cfg: Config,
        folder: str | os.PathLike[str],
        seed: int,
        device: torch.device | str = "cpu",
        *,
        score_images: int = 512,
        start: str | os.PathLike[str] = "",
        input_size: int = 0,
    ) -> None:
        self.cfg, self.seed, self.device = copy.deepcopy(cfg), seed, torch.device(device)
        init_default_scope(cfg.get("default_scope", "mmdet"))
        check_loaders(self.cfg)
        self._score_images, self._start, self._input_size = score_images, start, input_size
        dataset = inner_dataset(self.cfg.train_dataloader.dataset)
        self.files, self.data_hash = split(dataset, Path(make_folder(folder)), seed)
        with config_errors():
            trained = copy.deepcopy(dataset)
            trained.ann_file = self.files[WEIGHTS]
            self.classes = tuple(DATASETS.build(trained).metainfo["classes"])
        name = dataset.get("name") or dataset.get("data_root")
        self.about = {"name": name, "classes": len(self.classes)}
        self.identity = [self.data_hash, *(file_digest(file) for file in self.files.values())]
        self._streams: dict[str, Stream] = {}
        self._done: dict[str, int] = {}
        self._first: dict[tuple[str, int], tuple[Stream, list[Any]]] = {}

    @classmethod
    def from_config(cls, config: SearchConfig, device: str) -> Detection:
        """The task of a search that has a detector."""
        assert config.detector is not None
        check_parts(config.detector, config.space)
        return cls(
            config.detector,
            Path(config.out) / "halves",
            config.seed,
            device,
            score_images=config.search.score_images,
            start=config.supernet,
            input_size=config.input_size,
        )

    def build(self, space: SearchSpace) -> nn.Module:
        """Builds the detector around a supernet."""
        options = copy.deepcopy(self.cfg.model)
        refuse_pretrained(options)
        options.backbone = {
            "type": SupernetBackbone,
            "space": space,
            **map_options(self.cfg),
        }
        preprocessor = options.get("data_preprocessor")
        if preprocessor and MODELS.get(preprocessor.type) is DetDataPreprocessor:
            preprocessor.type = "BatchPreprocessor"  # the same, and nothing waits for the device
        with config_errors():
            model = MODELS.build(options)
        for option, outputs in class_counts(model).items():
            if outputs != len(self.classes):
                raise InputError(
                    f"the data has {len(self.classes)} classes and the detector {outputs}: set "
                    f"{option} to {len(self.classes)}."
                )
        with _without_a_list():
            model.init_weights()
        for module in _norms(model):  # by the batch at hand, as the supernet's
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
        model.to(self.device).train()
        if self._start:
            _warm_start(self.supernet(model), self._start)
        if self.cfg.get("load_from"):
            _load_parts(model, self.cfg.load_from)
        self._preprocessor = model.data_preprocessor
        narrow = [layer.widths_of(layer.operators[0])[0] for layer in space.layers]
        way = Way([0] * len(space.layers), narrow)
        with torch.no_grad():
            batches = self._repeated(_SCORED, self._input_size, _GUESSES)
            losses = [self.loss(model, batch, way) for batch in batches]
        self.guess = float(torch.stack(losses).mean())
        return cast("nn.Module", model)

    def supernet(self, model: nn.Module) -> SuperNet:
        """The backbone's."""
        return cast("SuperNet", model.get_submodule("backbone.supernet"))

    def batches(self, half: str, step: int, count: int, size: int, input_size: int) -> list[Batch]:
        """The next batches of a half, whatever the step: each as the detector's losses take it."""
        name = f"{half}@{input_size}"
        stream = self._streams.get(name)
        if stream is None:
            seed = 4 * self.seed + (half == ARCHITECTURE)
            loader, done = self._loader_at(input_size), self._done.get(name, 0)
            share = dist.get_rank(), dist.get_world_size()
            stream = Stream(loader, self.files[half], size, seed, done, share)
            self._streams[name] = stream
        assert stream.size == size, "the batches of a half have one size"
        first = stream.done
        return [self._prepared(batch, first + i) for i, batch in enumerate(stream.take(count))]

    def _loader_at(self, input_size: int) -> Any:
        """The config's training loader, with images of a size."""
        cfg = at_size(self.cfg, input_size)
        set_loader_options(cfg)
        return cfg.train_dataloader

    def _prepared(self, batch: Any, number: int) -> Batch:
        with seeded(number):
            return {**self._preprocessor(batch, True), "number": number}

    def loss(self, model: nn.Module, batch: Batch, choice: Choice) -> Tensor:
        """The sum of the detector's losses."""
        detector: Any = model
        detector.backbone.choice = choice
        with seeded(batch["number"]):  # heads of two stages draw samples
            losses = detector.loss(batch["inputs"], batch["data_samples"])
        total: Tensor = detector.parse_losses(losses)[0]
        return total

    def scored(self, input_size: int) -> Iterator[Batch]:
        """Augmented batches, whose loss is one sample each."""
        size = self.cfg.train_dataloader.batch_size
        return self._repeated(_SCORED, input_size, max(-(-self._score_images // size), 2))

    def _repeated(self, purpose: str, input_size: int, count: int) -> Iterator[Batch]:
        """The first batches of a stream, which are read once and the same in all processes.

        Args:
            purpose: `scored`, of the half by which networks are chosen, or `norms`, of the other.
            input_size: Side of the images, in pixels.
            count: Number of batches.
        """
        key = (purpose, input_size)
        if key not in self._first:
            file = self.files[ARCHITECTURE if purpose == _SCORED else WEIGHTS]
            loader, seed = self._loader_at(input_size), 4 * self.seed + 2 + (purpose == _NORMS)
            self._first[key] = (Stream(loader, file, loader.batch_size, seed), [])
        stream, batches = self._first[key]
        batches += stream.take(max(count - len(batches), 0))
        for number, batch in enumerate(batches[:count]):
            yield self._prepared(copy.deepcopy(batch), number)

    def losses(self, model: nn.Module, batch: Batch, choice: Choice) -> Tensor:
        """The batch's loss, (2, 1); that a detector was right has no meaning here and is 0."""
        loss = self.loss(model, batch, choice).reshape(1)
        return torch.stack((loss, torch.zeros_like(loss)))

    def finished(
        self, model: nn.Module, spec: ArchSpec, shape: Shape, step: int, seed: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A detector with the model's weights and statistics of its own in the batch norms."""
        state = self._inherited(model, seed, spec, shape)
        found = mean_precision(self._halved, spec, state)
        return {"weights": "inherited", "mAP": found, "loss": 1 - found}, state

    def _inherited(
        self, model: nn.Module, seed: int, spec: ArchSpec, shape: Shape
    ) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):  # what the supernet lacks starts afresh
            torch.manual_seed(seed)
            detector: Any = build_detector(found_config(self.cfg, spec), device=str(self.device))
        self.supernet(model).fill(detector.backbone.net.model, shape)
        rest = {k: v for k, v in model.state_dict().items() if not k.startswith("backbone.")}
        detector.load_state_dict(rest, strict=False)
        batches: Any = self._repeated(_NORMS, spec.input_size, _NORM_BATCHES)
        reestimate_norms(_Outputs(detector), batches)
        return {name: tensor.cpu() for name, tensor in detector.state_dict().items()}

    def trainings(
        self, config: SearchConfig, shapes: Shapes, folder: Path, model: nn.Module
    ) -> DetectorTrainings:
        """Trainings as the config has them, which start from the model's weights."""
        return DetectorTrainings(
            cfg=self._halved,
            recipe=self.cfg.to_dict(),
            shapes=shapes,
            inherited=partial(self._inherited, model, config.seed),
            folder=folder,
            seed=config.seed,
            data=self.identity,
            progress=config.progress,
            max_workers=config.jobs,
        )

    @property
    def _halved(self) -> Config:
        """The config, trained on one half and tested on images of the other."""
        cfg = copy.deepcopy(self.cfg)
        train = inner_dataset(cfg.train_dataloader.dataset)
        test = inner_dataset(cfg.test_dataloader.dataset)
        train.ann_file = self.files[WEIGHTS]
        for key in ("data_root", "data_prefix"):
            if key in train:
                test[key] = copy.deepcopy(train[key])
        test.metainfo = {"classes": self.classes}
        test.ann_file = cfg.test_evaluator.ann_file = self.files[JUDGED]
        return cfg

    def config(self, spec: ArchSpec) -> str:
        """The detector's config with the network as its backbone, whole."""
        return found_config(self.cfg, spec).pretty_text

    def state_dict(self) -> dict[str, Any]:
        """Batches that were taken of each half and size."""
        return {**self._done, **{name: stream.done for name, stream in self._streams.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on behind the batches of a state."""
        self._streams, self._done = {}, dict(state)


class _Outputs(nn.Module):
    """A detector up to its outputs, of a batch as its losses take it."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: Batch) -> Any:
        return self.detector(batch["inputs"], batch["data_samples"], mode="tensor")


@contextlib.contextmanager
def _without_a_list() -> Iterator[None]:
    """Within it mmengine does not log each weight that it initialises."""
    log = MMLogger.get_current_instance()
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def _norms(model: nn.Module) -> Iterator[Any]:
    """The batch norms around a supernet."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not name.startswith("backbone."):
            yield module


def _load_parts(model: nn.Module, path: str) -> None:
    """Fills neck and head with the weights that a config starts from, as far as they fit."""
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("backbone.")}
    found = {
        name: tensor
        for name, tensor in read_state_dict(find_checkpoint(path)).items()
        if name in own and own[name].shape == tensor.shape
    }
    model.load_state_dict(found, strict=False)
    logger.info("%d/%d tensors of neck and head from %s", len(found), len(own), path)


def _warm_start(supernet: SuperNet, path: str | os.PathLike[str]) -> None:
    """Fills a supernet with the averaged weights of a finished search in the same space."""
    state = read_checkpoint(path)
    if state["identity"]["space (digest)"] != supernet.space.hash:
        raise InputError(f"{path} is of a search in another space than this one.")
    if state["loop"]["weights"]["structure"] != supernet.structure():
        raise InputError(
            f"{path} is of a search that has pruned its supernet; train one to start from with "
            "--cfg-options search.tiers=0."
        )
    own = supernet.state_dict()
    found = {
        name: tensor
        for key, tensor in state["loop"]["weights"]["ema"].items()
        if (name := key.removeprefix("backbone.supernet.")) in own
    }
    supernet.load_state_dict(found, strict=False)
    logger.info("%d/%d tensors of the supernet from %s", len(found), len(own), path)

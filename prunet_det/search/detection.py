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
from mmdet.registry import MODELS
from mmengine import dist
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.registry import DATASETS, FUNCTIONS, init_default_scope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from prunet_det.arch.network import reestimate_norms
from prunet_det.arch.spec import ArchSpec
from prunet_det.datasets import ensure
from prunet_det.datasets.coco import read_coco
from prunet_det.datasets.split import halves, write_part
from prunet_det.detection.build import build_detector, image_size
from prunet_det.search.detectors import (
    OWN_BACKBONES,
    DetectorTrainings,
    at_size,
    found_config,
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
from prunet_det.training.repeatable import PlacedPermutations, PlacedSamples, seeded
from prunet_det.utils.config import config_errors
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import file_digest, make_folder
from prunet_det.zoo.features import choose_indices
from prunet_det.zoo.weights import refuse_pretrained

if TYPE_CHECKING:
    from prunet_det.search.config import SearchConfig

logger = logging.getLogger(__name__)

_NORM_BATCHES = 20  # from which the statistics of a found detector's batch norms are taken
_GUESSES = 4  # batches whose mean loss is that of a detector that knows nothing
_MOST_JUDGED = 500  # images that found detectors are judged by
_JUDGED = "judged"  # images of the other half that mAP is taken of


class SupernetBackbone(BaseModule):
    """A supernet in the place of a detector's backbone.

    Args:
        space: What may be chosen.
        out_strides, out_indices: As of `PruNet`.

    Attributes:
        choice: What of the supernet runs; to be set before each pass.
        out_channels, out_strides: Of the maps, finest first.

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
        maps = _maps(space, out_strides, out_indices)
        self.out_strides, self._stages, self.out_channels = zip(*maps, strict=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps of what is chosen."""
        maps = self.supernet.features(x, self.choice)
        return tuple(maps[stage] for stage in self._stages)


def _maps(
    space: SearchSpace,
    out_strides: Sequence[int] | None = None,
    out_indices: Sequence[int] | None = None,
) -> list[tuple[int, int, int]]:
    """Stride, stage and channels of the maps that a detector reads, see `PruNet`."""
    last, stride = {}, 2
    for layer in space.layers:
        stride *= layer.stride
        last[stride] = (stride, layer.stage, layer.out_chs)
    indices = choose_indices([*last], out_strides, out_indices, "the space")
    return [[*last.values()][i] for i in indices]


def _map_options(cfg: Config) -> dict[str, Any]:
    """What a detector's config says of the maps, where its backbone is one of ours."""
    backbone = cfg.model.backbone
    known = ("out_strides", "out_indices") if backbone.type in OWN_BACKBONES else ()
    return {key: backbone[key] for key in known if key in backbone}


def check_neck(cfg: Config, space: SearchSpace) -> None:
    """Refuses a neck that does not take a space's maps.

    Raises:
        InputError: If its config has other channels.
    """
    given = (cfg.model.get("neck") or {}).get("in_channels")
    channels = [chs for _, _, chs in _maps(space, **_map_options(cfg))]
    if isinstance(given, (list, tuple)) and list(given) != channels:
        raise InputError(
            f"the detector's neck takes maps of {list(given)} channels, and the space gives "
            f"{channels}: set model.neck.in_channels to these, or the type of the detector to "
            "OneStageDetector, which finds them out."
        )


class _Stream:
    """Augmented batches without end, which go on where they stopped.

    Args:
        loader: The config's training loader.
        ann_file: Annotations of the images, in COCO's format.
        size: Images of a batch.
        seed: Seed of order and augmentation.
        done: Batches that were taken before.
    """

    def __init__(
        self, loader: Mapping[str, Any], ann_file: str, size: int, seed: int, done: int = 0
    ) -> None:
        dataset = copy.deepcopy(loader["dataset"])
        inner_dataset(dataset).update(ann_file=ann_file)
        with config_errors():
            samples = PlacedSamples(DATASETS.build(dataset), seed)
        rank, world_size = dist.get_rank(), dist.get_world_size()
        order = PlacedPermutations(len(samples), size, seed, rank, world_size)
        order.batches_done = done
        collate = dict(loader.get("collate_fn") or {"type": "pseudo_collate"})
        function = FUNCTIONS.get(collate.pop("type"))
        self.size, self.done = size, done
        self._batches = iter(
            DataLoader(
                samples,
                batch_size=size,
                sampler=order,
                num_workers=loader["num_workers"],
                collate_fn=partial(function, **collate),
                pin_memory=loader["pin_memory"],
            )
        )

    def take(self, count: int) -> list[Any]:
        """The next batches, as the config collates them."""
        self.done += count
        return [next(self._batches) for _ in range(count)]


class Detection(Task):
    """Where objects are and of which class, as a detector's config has it.

    Args:
        cfg: Config of a detector, whose training data are an annotation file in COCO's format.
        folder: Folder for the annotations of the two halves.
        seed: Seed of the halves, of order and augmentation.
        device: Where model and batches go.
        score_images: Images that networks are scored on by their loss, at most.
        start: Checkpoint of a search in the same space, whose averaged weights the supernet starts
            with; empty for random ones.

    Raises:
        UserError: If the data cannot be used, or a class is in one image alone.
    """

    metric = "mAP"

    def __init__(
        self,
        cfg: Config,
        folder: str | os.PathLike[str],
        seed: int,
        device: torch.device | str = "cpu",
        *,
        score_images: int = 512,
        start: str | os.PathLike[str] = "",
    ) -> None:
        self.cfg, self.seed, self.device = copy.deepcopy(cfg), seed, torch.device(device)
        init_default_scope(cfg.get("default_scope", "mmdet"))
        self._score_images, self._start = score_images, start
        dataset = inner_dataset(self.cfg.train_dataloader.dataset)
        self.files, self.data_hash = _split(dataset, Path(make_folder(folder)), seed)
        categories = read_coco(self.files[WEIGHTS])["categories"]
        self.classes = tuple(category["name"] for category in categories)
        name = dataset.get("name") or dataset.data_root
        self.about = {"name": name, "classes": len(self.classes)}
        self.identity = [self.data_hash, *(file_digest(file) for file in self.files.values())]
        self._streams: dict[str, _Stream] = {}
        self._done: dict[str, int] = {}
        self._kept: dict[int, list[Any]] = {}

    @classmethod
    def from_config(cls, config: SearchConfig, device: str) -> Detection:
        """The task of a search that has a detector."""
        settings = config.search
        if settings.warmup_batch != settings.batch:
            raise InputError(
                "search.warmup_batch must be search.batch where a detector learns, got "
                f"{settings.warmup_batch} and {settings.batch}."
            )
        assert config.detector is not None
        return cls(
            config.detector,
            Path(config.out) / "halves",
            config.seed,
            device,
            score_images=settings.score_images,
            start=config.supernet,
        )

    def build(self, space: SearchSpace) -> nn.Module:
        """Builds the detector around a supernet."""
        options = copy.deepcopy(self.cfg.model)
        refuse_pretrained(options)
        options.backbone = {
            "type": SupernetBackbone,
            "space": space,
            **_map_options(self.cfg),
        }
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
        self._preprocessor = model.data_preprocessor
        narrow = [layer.widths_of(layer.operators[0])[0] for layer in space.layers]
        way = Way([0] * len(space.layers), narrow)
        with torch.no_grad():
            batches = self._some(image_size(self.cfg) or 0, _GUESSES)
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
            seed, file = 3 * self.seed + (half == ARCHITECTURE), self.files[half]
            loader, done = self._loader_at(input_size), self._done.get(name, 0)
            stream = self._streams[name] = _Stream(loader, file, size, seed, done)
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
        return self._some(input_size)

    def _some(self, input_size: int, count: int | None = None) -> Iterator[Batch]:
        """The first of the scored batches, which are read once."""
        if input_size not in self._kept:
            loader = self._loader_at(input_size)
            size = loader.batch_size
            batches = max(-(-self._score_images // size), 2, _GUESSES)
            stream = _Stream(loader, self.files[ARCHITECTURE], size, 3 * self.seed + 2)
            self._kept[input_size] = stream.take(batches)
        for number, batch in enumerate(self._kept[input_size][:count]):
            yield self._prepared(copy.copy(batch), number)

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
        reestimate_norms(
            _Outputs(detector), cast("Any", self._some(spec.input_size, _NORM_BATCHES))
        )
        return {name: tensor.cpu() for name, tensor in detector.state_dict().items()}

    def trainings(
        self, config: SearchConfig, shapes: Shapes, folder: Path, model: nn.Module
    ) -> DetectorTrainings:
        """Trainings as the config has them, which start from the model's weights."""
        return DetectorTrainings(
            cfg=self._halved,
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
        train, test = inner_dataset(cfg.train_dataloader.dataset), cfg.test_dataloader.dataset
        train.ann_file = self.files[WEIGHTS]
        test.data_root, test.data_prefix = train.data_root, copy.deepcopy(train.data_prefix)
        test.ann_file = cfg.test_evaluator.ann_file = self.files[_JUDGED]
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


def _split(dataset: Any, folder: Path, seed: int) -> tuple[dict[str, str], str]:
    """Writes the annotations of the two halves, unless they are there.

    Args:
        dataset: Config of the training data.
        folder: Where they go.
        seed: Seed of the halves.

    Returns:
        The files by name of the half, that of `judged` images too, and a digest of the data.

    Raises:
        InputError: If the data are no annotation file in COCO's format.
    """
    if dataset.get("type") == "EmbeddedDataset":
        ensure(dataset.name, dataset.data_root)
    if not dataset.get("ann_file") or not str(dataset.ann_file).endswith(".json"):
        raise InputError(
            f"the search divides a detector's training data by their annotation file, in COCO's "
            f"format, and {dataset.get('type')} has none."
        )
    source = Path(dataset.get("data_root") or "") / dataset.ann_file
    content = read_coco(source, Path(dataset.get("data_root") or "") / dataset.data_prefix["img"])
    first, second = halves(content, seed)
    every = -(-len(second) // _MOST_JUDGED)
    files = {}
    for name, ids in ((WEIGHTS, first), (ARCHITECTURE, second), (_JUDGED, second[::every])):
        files[name] = os.fspath((folder / f"{name}.json").resolve())
        write_part(content, ids, files[name])
    return files, file_digest(source)


def _warm_start(supernet: SuperNet, path: str | os.PathLike[str]) -> None:
    """Fills a supernet with the averaged weights of a finished search in the same space."""
    state = read_checkpoint(path)
    if state["identity"]["space (digest)"] != supernet.space.hash:
        raise InputError(f"{path} is of a search in another space than this one.")
    own = supernet.state_dict()
    found = {
        name: tensor
        for key, tensor in state["loop"]["weights"]["ema"].items()
        if (name := key.removeprefix("backbone.supernet.")) in own
    }
    supernet.load_state_dict(found, strict=False)
    logger.info("%d/%d tensors of the supernet from %s", len(found), len(own), path)

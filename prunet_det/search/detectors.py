"""Detectors on found backbones: their configs, worth, and trainings in the last tier."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from torch import Tensor

from prunet_det.arch.spec import ArchSpec
from prunet_det.detection.build import NetworkPart, build_detector, image_size
from prunet_det.detection.letterbox import set_input_size
from prunet_det.runtime.subject import Scope, Subject, build_seeded
from prunet_det.search.result import ARCH_FILE
from prunet_det.search.space import SearchSpace, Shape
from prunet_det.search.trainings import Score, Training, Trainings
from prunet_det.training.divergence import DivergedError
from prunet_det.training.evaluate import unwrap_model
from prunet_det.training.hooks import WEIGHTS_FILE
from prunet_det.training.launch import build_evaluation_runner, build_runner, train
from prunet_det.training.repeatable import make_repeatable, one_thread
from prunet_det.training.schedule import set_length
from prunet_det.utils.env import usable_cores
from prunet_det.utils.errors import InputError
from prunet_det.utils.io import PathLike, digest
from prunet_det.utils.runs import Run
from prunet_det.zoo import resolve_spec
from prunet_det.zoo.containers import read_state_dict
from prunet_det.zoo.features import choose_indices
from prunet_det.zoo.weights import save_safetensors

logger = logging.getLogger(__name__)


def maps_of(
    space: SearchSpace,
    out_strides: Sequence[int] | None = None,
    out_indices: Sequence[int] | None = None,
) -> list[tuple[int, int, int]]:
    """Stride, stage and channels of the maps that a detector reads, the finest first.

    Args:
        space: The space.
        out_strides, out_indices: As of `PruNet`.

    Raises:
        InputError: If the space has no such maps.
    """
    last, stride = {}, 2
    for layer in space.layers:
        stride *= layer.stride
        last[stride] = (stride, layer.stage, layer.out_chs)
    indices = choose_indices([*last], out_strides, out_indices, "the space")
    return [[*last.values()][i] for i in indices]


def map_options(cfg: Config) -> dict[str, Any]:
    """What a detector's config says of the maps that it reads."""
    backbone = cfg.model.backbone
    return {key: backbone[key] for key in ("out_strides", "out_indices") if key in backbone}


def check_parts(cfg: Config, space: SearchSpace) -> None:
    """Refuses detectors that do not take a space's maps, or that the search cannot train.

    Args:
        cfg: Config of the detector.
        space: The space.

    Raises:
        InputError: The sentence says what to change.
    """
    backbone = cfg.model.backbone
    if backbone.type not in ("PruNet", "TimmBackbone"):
        raise InputError(
            "the detector's backbone must be of type PruNet, which names its maps by their "
            f"strides, and is a {backbone.type}: give it such as model.backbone=dict("
            "type='PruNet', arch='prunet_n', out_strides=[8, 16, 32]), and a neck for them."
        )
    strides = [stride for stride, _, _ in maps_of(space, **map_options(cfg))]
    if backbone.type == "PruNet" and cfg.model.type != "OneStageDetector":
        every = [stride for _, _, stride in resolve_spec(backbone.arch).feature_stages()]
        chosen = backbone.get("out_strides"), backbone.get("out_indices")
        own = [every[i] for i in choose_indices(every, *chosen, "the backbone")]
        if own != strides:
            raise InputError(
                f"the detector reads maps of strides {own}, and the space has {strides}; set "
                "model.backbone.out_strides to strides that both have."
            )
    if (cfg.model.get("data_preprocessor") or {}).get("batch_augments"):
        raise InputError("the search repeats batches: leave data_preprocessor.batch_augments out.")
    given = (cfg.model.get("neck") or {}).get("in_channels")
    channels = [chs for _, _, chs in maps_of(space, **map_options(cfg))]
    if isinstance(given, (list, tuple)) and list(given) != channels:
        raise InputError(
            f"the detector's neck takes maps of {list(given)} channels, and the space gives "
            f"{channels}: set model.neck.in_channels to these, or the type of the detector to "
            "OneStageDetector, which finds them out."
        )


def at_size(cfg: Config, input_size: int) -> Config:
    """A detector's config for images of a size: a copy, the same at its own size."""
    cfg = copy.deepcopy(cfg)
    if input_size and input_size != image_size(cfg):
        set_input_size(cfg, input_size)
        if image_size(cfg) != input_size:
            raise InputError(
                f"the config's pipelines cannot be set to images of {input_size} px; give its own "
                "size, or one that Letterbox, Resize and RandomScaleCrop or RandomCrop set."
            )
    return cfg


def found_config(cfg: Config, spec: ArchSpec, file: PathLike | None = None) -> Config:
    """A detector's config with a found network as its backbone.

    Args:
        cfg: Config of the detector.
        spec: The network.
        file: File of the spec, which mmengine formats sooner than what it holds; by default the
            config holds the spec itself.
    """
    cfg = at_size(cfg, spec.input_size)
    backbone = cfg.model.backbone
    kept = ("out_strides", "out_indices", "norm_eval", "frozen_stages", "with_cp", "norm_cfg")
    options = {key: backbone[key] for key in kept if key in backbone}
    arch = spec.to_dict() if file is None else os.fspath(file)
    cfg.model.backbone = {"type": "PruNet", "arch": arch, **options}
    cfg.load_from, cfg.resume = None, False
    for key in ("work_dir", "launcher"):  # another training's
        cfg.pop(key, None)
    return cfg


def _with_file(cfg: Config, spec: ArchSpec, folder: str) -> Config:
    spec.save(Path(folder) / ARCH_FILE)
    return found_config(cfg, spec, Path(folder) / ARCH_FILE)


def _quiet(cfg: Config, folder: str) -> None:
    """Has a Runner work in a folder that is gone afterwards, in one process, and say little."""
    cfg.work_dir, cfg.log_level, cfg.launcher = folder, "ERROR", "none"
    cfg.experiment_name = Path(folder).name  # mmengine keeps a visualizer for each name
    cfg.visualizer = {**cfg.get("visualizer", {"type": "Visualizer"}), "vis_backends": []}


def mean_precision(cfg: Config, spec: ArchSpec, state: Mapping[str, Tensor]) -> float:
    """mAP, 0..1, of a found detector on the test data of a config.

    Args:
        cfg: Config of the detector.
        spec: Its backbone.
        state: Its weights.

    Raises:
        InputError: If the config's metric gives no mAP.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg = _with_file(cfg, spec, folder)
        _quiet(cfg, folder)
        runner = build_evaluation_runner(cfg)
        unwrap_model(runner).load_state_dict(dict(state))
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints a page
            metrics = runner.test()
    for name, value in metrics.items():
        if name.endswith("mAP"):
            return max(float(value), 0.0)
    raise InputError(
        f"the config's test_evaluator gives no mAP to judge networks by, but {', '.join(metrics)}."
    )


def detector_subject(detector: BaseDetector, scope: Scope, input_size: int) -> Subject:
    """A detector that is to be priced or timed."""
    part = NetworkPart(detector, input_size).eval()
    return Subject(
        name="detector",
        scope=scope,
        module=part,
        input_size=input_size,
        output_names=part.output_names,
        detector=detector,
    )


def find_all(subject: Subject) -> Subject:
    """Has a detector that is timed end to end find as many objects as it may give.

    What NMS takes depends on how many there are, and a search does not know yet what its detectors
    will find: it prices and measures them all in an image that is full of objects. Of other scopes
    nothing changes.
    """
    if subject.scope is not Scope.E2E or "score_thr" not in subject.detector.bbox_head.test_cfg:
        return subject
    selection = subject.detector.bbox_head.test_cfg
    selection["score_thr"] = 0.0
    side = (subject.input_size, subject.input_size)
    shapes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), side)
    part, meta = cast("NetworkPart", subject.module), {**shapes, "scale_factor": (1.0, 1.0)}
    (found,) = part.detect(subject.detector, partial(partial, part), subject.pixels(), [meta])
    if len(found.scores) >= selection.get("max_per_img", math.inf):
        selection["score_thr"] = float(found.scores.min())
    return subject


def settled_subject(cfg: Config, spec: ArchSpec, scope: Scope) -> Subject:
    """A detector of random weights that is to be priced or timed; see `find_all`."""

    def build() -> Subject:
        detector = build_detector(found_config(cfg, spec))
        return detector_subject(detector, scope, spec.input_size)

    return find_all(build_seeded(build, settle=True))


@dataclass(frozen=True, kw_only=True)
class _DetectorTraining(Training):
    """A training of a detector.

    Attributes:
        cfg: Config of the detector, whatever its backbone.
        start: File of the weights that it starts from.
        iterations: Its length.
    """

    cfg: dict[str, Any]
    start: Path
    iterations: int


def shorten(cfg: Config, iterations: int) -> None:
    """Sets the length of a training.

    A config that trains by epochs gets a schedule in iterations: a warm-up of a tenth and a cosine.

    Args:
        cfg: Config of a detector; changed in place.
        iterations: Number of iterations.
    """
    if "max_iters" in cfg.train_cfg:
        set_length(cfg, iterations)
        cfg.train_cfg.val_interval = iterations
        return
    loop = {"type": "IterBasedTrainLoop", "max_iters": iterations, "val_interval": iterations}
    warmup = max(iterations // 10, 1)
    cfg.train_cfg = loop
    cfg.param_scheduler = [
        {"type": "LinearLR", "start_factor": 0.01, "end": warmup, "by_epoch": False},
        {"type": "CosineAnnealingLR", "begin": warmup, "eta_min": 0.0, "by_epoch": False},
    ]
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=iterations)
    cfg.log_processor = {"type": "LogProcessor", "by_epoch": False}


def _train(task: _DetectorTraining) -> Run:
    """Does a training, on a CPU with one thread, so that it is the same beside any others."""
    with one_thread(on_cpu=not torch.cuda.is_available()):
        return _trained(task)


def _trained(task: _DetectorTraining) -> Run:
    """Does a training; one that diverges finds nothing."""
    begin, cfg = time.perf_counter(), Config(task.cfg)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    if cfg.get("custom_imports"):
        import_modules_from_strings(**cfg.custom_imports)
    shorten(cfg, task.iterations)
    folder = tempfile.mkdtemp(prefix="training", dir=task.weights.parent)
    try:
        tested, cfg = cfg, _with_file(cfg, task.spec, folder)
        _quiet(cfg, folder)
        cfg.load_from = os.fspath(task.start)
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
        make_repeatable(cfg, task.seed)
        try:
            train(build_runner(cfg))
            shutil.move(Path(folder) / WEIGHTS_FILE, task.weights)
            figures: dict[str, Any] = {
                "mAP": mean_precision(tested, task.spec, read_state_dict(task.weights))
            }
        except DivergedError as e:
            logger.warning("a finalist counts as the worst: %s", e)
            figures = {"mAP": 0.0, "error": str(e)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return task.run(figures, time.perf_counter() - begin)


@dataclass(frozen=True, kw_only=True)
class DetectorTrainings(Trainings):
    """Trains the detectors of networks from a supernet's weights.

    Attributes:
        cfg: Config of the detector, trained on one half of the data and tested on the other.
        inherited: Gives the detector's weights for a network.
        recipe: The config as it was given, wherever its halves lie.
        data: What tells the data from others.
    """

    cfg: Config
    inherited: Callable[[ArchSpec, Shape], dict[str, Tensor]]
    recipe: dict[str, Any]
    data: list[Any]
    start: ClassVar[str] = "from the supernet's weights"
    train: ClassVar[Callable[[Any], Run]] = _train

    def prepare(self, tasks: Mapping[Shape, Training]) -> None:
        """Writes the weights that trainings start from, unless they are there."""
        for shape, task in tasks.items():
            start = self._start(task.spec)
            if not start.is_file():
                save_safetensors(self.inherited(task.spec, shape), start)

    def training(self, shape: Shape, steps: int) -> Training:
        """The training of a network's detector."""
        spec, seed = self.spec(shape), self.seed_of(steps)
        start = self._start(spec)
        return _DetectorTraining(
            cfg=self.cfg.to_dict(),
            spec=spec,
            start=start,
            iterations=steps,
            seed=seed,
            digest=digest([self.recipe, steps, self.data, spec.input_size]),
            weights=start.with_name(f"{start.stem}_{seed}.safetensors"),
        )

    def _start(self, spec: ArchSpec) -> Path:
        about = digest([self.recipe, self.data, spec.input_size])
        return Path(self.folder) / f"{spec.digest}_{about}.safetensors"

    def workers(self, tasks: int) -> int:
        """One on a GPU."""
        if torch.cuda.is_available():
            return 1
        return max(min(tasks, self.max_workers or usable_cores()), 1)

    def score(self, figures: Mapping[str, Any]) -> Score:
        """mAP, and what it lacks to 1."""
        return Score(figures["mAP"], 1 - figures["mAP"])

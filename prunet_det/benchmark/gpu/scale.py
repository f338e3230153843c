"""What `make gpu` measures, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_origin, get_type_hints

from prunet_det.search.costs import MEASURED_WIDTHS
from prunet_det.utils.config import check_keys

ZOO = (
    *(f"prunet_{size}" for size in ("s", "n", "t", "m", "l", "p0", "p1", "demo")),
    *(f"gpunet_{size}" for size in ("0", "1", "2", "d1", "d2")),
)
EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(4))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is measured, and how much of it.

    Attributes:
        device: Torch device.
        runtime, precision: Conditions of all latencies but those of `compiled`.
        threads: Threads of a CPU; all by default.
        without_tests: Tests that are left out, by a word of their names.
        models: Networks whose latencies are measured, as each of `scopes`.
        compiled: Those that are also measured as torch.compile makes them.
        batches: Images at once.
        input_size: Side of the images of backbones, blocks and detectors, in pixels.
        seconds: Time to spend on each network.
        spaces: Configs of the searches whose blocks make the table.
        widths: Inner widths of each operator that are measured.
        block_seconds: Time to spend on each of a block's two networks.
        checks: Random networks of the table's blocks that are measured whole.
        detectors: Configs of detectors.
        published: Networks with a published accuracy that are measured, by name or pattern; all of
            them if empty.
        suite: Suite of the benchmark.
        suite_options: What replaces values of the suite's recipe, by dotted key.
        seeds: Trainings of each of them; None for the suite's number.
        max_iters: Length of the suite's trainings; None for its own.
        suite_models: Networks of the suite, MODEL@PIXELS, that are trained; all of it if empty.
        trained: Networks of the suite whose training is timed.
        both_ways: Iterations of the trainings that are compared, plain and recorded.
        iterations: Iterations of one of the turns in which disk and memory are compared.
        rounds: Turns of each.
        dataset: Embedded set that the suite uses.
        search, judge, crops: Configs of the full search and of what judges its networks, and the
            embedded sets of whose crops they are.
        budgets: Milliseconds of the full search's budgets on a V100.
        judged_ms: The one of them at which its networks are judged.
        amp: Whether the full search is in mixed precision.
        ablated, ablated_judge, ablated_crops, ablated_ms: The same of the small search, of which
            parts are switched off.
        ablations: Rows of `search.ABLATIONS`; all of them if empty.
        search_seeds: Number of searches of each row.
        search_options: What replaces values of the configs of searches, by dotted key.
        judge_options, judge_data: What replaces values of the judges' recipes and data sets.
        random: Number of random networks that are judged.
        trainings: Number of trainings of each judged network.
        jobs: Number of processes that search or train at once.
    """

    device: str = "cuda"
    runtime: str = "cuda_graph"
    precision: str = "fp16"
    threads: int | None = None
    without_tests: tuple[str, ...] = ()
    models: tuple[str, ...] = (*ZOO, *EFFICIENTNETS)
    compiled: tuple[str, ...] = ("prunet_s", "gpunet_0", "efficientnet_b0")
    scopes: tuple[str, ...] = ("backbone", "classifier")
    batches: tuple[int, ...] = (1,)
    input_size: int = 512
    seconds: float = 0.3
    spaces: tuple[str, ...] = ("search/prunet.py",)
    widths: int = MEASURED_WIDTHS
    block_seconds: float = 0.05
    checks: int = 8
    detectors: tuple[str, ...] = ("prunet_effdet_coco.py", "efficientnet_effdet_coco.py")
    published: tuple[str, ...] = ()
    suite: str = "glyphs"
    suite_options: Mapping[str, Any] = field(default_factory=dict)
    suite_models: tuple[str, ...] = ()
    seeds: int | None = None
    max_iters: int | None = None
    trained: tuple[str, ...] = ("prunet_s@320", "efficientnet_b0@320")
    both_ways: int = 50
    iterations: int = 10
    rounds: int = 3
    dataset: str = "glyphs"
    search: str = "search/prunet.py"
    judge: str = "search/judge_glyphs.py"
    crops: tuple[str, ...] = ("single_glyphs",)
    budgets: tuple[float, ...] = (0.5, 0.65, 0.83, 1.09, 1.8)
    judged_ms: float = 0.83
    amp: bool = True
    ablated: str = "search/study.py"
    ablated_judge: str = "search/judge_quick.py"
    ablated_crops: tuple[str, ...] = ("single_glyphs",)
    ablated_ms: float = 0.5
    ablations: tuple[str, ...] = ()
    search_seeds: int = 2
    search_options: Mapping[str, Any] = field(default_factory=dict)
    judge_options: Mapping[str, Any] = field(default_factory=dict)
    judge_data: Mapping[str, Any] = field(default_factory=dict)
    random: int = 20
    trainings: int = 2
    jobs: int = 8

    def changed(self, settings: Mapping[str, Any]) -> Scale:
        """Returns it with other values.

        Args:
            settings: Value by attribute; one value where there are several is taken as a sequence.

        Raises:
            UserError: If there is no such attribute.
        """
        check_keys(settings, [f.name for f in fields(self)], (), "the scale")
        kinds = get_type_hints(type(self))
        several = {key for key in settings if get_origin(kinds[key]) is tuple}
        made = {
            key: tuple(value) if isinstance(value, (list, tuple)) else (value,)
            for key, value in settings.items()
            if key in several
        }
        return replace(self, **{**settings, **made})


# Everything once, on a CPU, in a minute.
REHEARSAL = Scale(
    device="cpu",
    runtime="channels_last",
    precision="fp32",
    threads=1,
    models=("prunet_demo", "resnet10t"),
    compiled=(),
    batches=(1, 2),
    input_size=64,
    seconds=0.02,
    spaces=("search/quick.py",),
    widths=2,
    block_seconds=0.005,
    checks=2,
    detectors=("prunet_effdet.py",),
    published=("tf_efficientnet_lite0",),
    suite="digits",
    suite_options={
        "train_dataloader.batch_size": 2,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "test_dataloader.num_workers": 0,
        "test_dataloader.persistent_workers": False,
        "test_dataloader.dataset.indices": 4,
    },
    suite_models=("prunet_n_w250@112",),
    seeds=1,
    max_iters=2,
    trained=("prunet_n_w250@112",),
    both_ways=3,
    iterations=1,
    rounds=1,
    dataset="digits",
    search="search/quick.py",
    judge="search/judge_quick.py",
    crops=("digits",),
    budgets=(0.5, 0.6),
    judged_ms=0.5,
    ablated="search/quick.py",
    ablated_crops=("digits",),
    ablations=("searched", "mixture"),
    search_seeds=1,
    search_options={
        "search.warmup": 1,
        "search.warmup_batch": 4,
        "search.paths": 1,
        "search.tiers": 2,
        "search.batch": 4,
        "search.draws": 2,
        "search.draws_batch": 4,
        "search.score_images": 8,
        "evolution.evaluations": 4,
        "finalists.iterations": (),
        "finalists.kept": (),
    },
    judge_data={"name": "digits"},
    judge_options={"iterations": 2, "batch_size": 4, "norm_batches": 1, "marks": ()},
    random=1,
    trainings=1,
    jobs=1,
)

"""A small space that tests search in, and a search of some seconds in it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from prunet_det.search.config import SearchConfig
from prunet_det.search.costs import Pricing, SpaceCosts
from prunet_det.search.finalists import FinalistSettings
from prunet_det.search.schedule import EvolutionSettings, LoopSettings
from prunet_det.search.space import SearchSpace
from prunet_det.training.short_run import ShortRecipe

SMALL = dict(
    stem=8,
    tail=16,
    hidden_step=8,
    most_expansion=6,
    stages=[
        dict(width=8, depth=1, kinds=("conv",)),
        dict(width=16, depth=3, stride=2),
        dict(width=24, depth=2, stride=2),
    ],
)


def in_two_processes(function: Callable[[int, Path], None], folder: Path) -> list[str]:
    """Calls a function with the rank of each; returns what each wrote to the file of its rank."""
    new = partial(multiprocessing.get_context("spawn").Process, target=function, daemon=True)
    both = [new(args=(rank, folder)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        process.kill()  # where it still waits for the other
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    return [(folder / str(rank)).read_text() for rank in range(2)]


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    return SearchSpace.from_config(SMALL)


@pytest.fixture(scope="session")
def costs(space) -> SpaceCosts:
    return Pricing(device="v100").costs(space, 256)


@pytest.fixture(scope="session")
def tiny(space, digits):
    """Makes the config of a search whose steps take milliseconds."""

    def make(out, **changes) -> SearchConfig:
        transform = dict(input_size=(3, 16, 16), scale=(0.8, 1.0), hflip=0.0, color_jitter=None)
        data = dict(type="EmbeddedCrops", name="digits", data_root=str(digits), split="train")
        settings = dict(
            space=space,
            data=dict(dataset=dict(data, transform=transform), classes=2),
            budgets_ms=(0.26,),
            input_size=256,
            search=LoopSettings(
                warmup=3,
                warmup_batch=8,
                paths=3,
                tiers=4,
                batch=4,
                draws_batch=8,
                score_images=16,
                checkpoint_interval=2,
            ),
            evolution=EvolutionSettings(evaluations=20),
            finalists=FinalistSettings(iterations=(3, 6), kept=(2,), evolved=1, random=1),
            recipe=ShortRecipe(batch_size=8, warmup=0.5, norm_batches=1),
            progress=False,
            config="configs/search/tiny.py",
            command="python tools/search_backbone.py configs/search/tiny.py",
        )
        return SearchConfig(out=str(out), **{**settings, **changes})

    return make

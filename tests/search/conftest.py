"""A small space that tests search in."""

from __future__ import annotations

import pytest

from prunet_det.search.costs import Pricing, SpaceCosts
from prunet_det.search.space import SearchSpace

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


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    return SearchSpace.from_config(SMALL)


@pytest.fixture(scope="session")
def costs(space) -> SpaceCosts:
    return Pricing(device="v100").costs(space, 256)

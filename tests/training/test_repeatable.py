"""What a network sees follows from the seed and the iteration alone."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from torch.utils.data import DataLoader

from prunet_det.training import repeatable as r


class Noisy(torch.utils.data.Dataset):
    """Seven items that are augmented."""

    metainfo = {"classes": ("a",)}

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        return index, np.random.rand(), random.random(), torch.rand(1).item()


def batches(workers: int, skip: int = 0, seed: int = 3) -> list[list[float]]:
    """Ten batches of four, after those that are skipped."""
    samples = r.PlacedSamples(Noisy(), seed)
    sampler = r.PlacedInfiniteSampler(samples, seed=seed)
    sampler.skip(4 * skip)
    loader = iter(DataLoader(samples, 4, sampler=sampler, num_workers=workers))
    return [torch.stack(next(loader)).flatten().tolist() for _ in range(10 - skip)]


def test_neither_workers_nor_interruptions_matter():
    expected = batches(0)
    random.random(), np.random.rand()
    assert batches(0) == expected and batches(2) == expected
    assert batches(2, skip=4) == expected[4:]
    assert batches(0, seed=4) != expected
    again = [b[4:] for b in expected]
    assert len({tuple(b) for b in again}) == 10, "an image is augmented anew in every epoch"


def test_epochs():
    samples = r.PlacedSamples(Noisy())
    sampler = r.PlacedSampler(samples, shuffle=True, seed=0)
    first = [samples[code] for code in sampler]
    sampler.set_epoch(1)
    second = [samples[code] for code in sampler]
    assert sorted(i for i, *_ in first) == sorted(i for i, *_ in second) == list(range(7))
    assert not {x for _, x, *_ in first} & {x for _, x, *_ in second}
    sampler.set_epoch(0)
    assert [samples[code] for code in sampler] == first


def test_another_sampler_is_refused():
    loader = ConfigDict(sampler=dict(type="ClassAwareSampler"), dataset=dict(type="CocoFolder"))
    with pytest.raises(ValueError, match="ClassAwareSampler"):
        r.make_repeatable(ConfigDict(train_dataloader=loader), 0)


def test_permutations_go_on_where_they_stopped_and_are_shared_out():
    def take(count, batch_size, *shares, done=0):
        sampler = r.PlacedPermutations(6, batch_size, 1, *shares)
        sampler.batches_done = done
        return [divmod(code, 6) for code in itertools.islice(sampler, count)]

    alone = take(12, 4)
    assert [place for place, _ in alone] == list(range(12))
    turns = [[index for _, index in alone[i : i + 6]] for i in (0, 6)]
    assert turns[0] != turns[1] and all(sorted(turn) == list(range(6)) for turn in turns)
    assert take(4, 4, done=2) == alone[8:]
    assert take(4, 2, 0, 2) + take(4, 2, 1, 2) == [alone[i] for i in (0, 1, 4, 5, 2, 3, 6, 7)]


def test_random_numbers_go_on_where_the_state_was_taken():
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), np.random.rand(), random.random()

    state = r.random_state()
    expected = draw()
    with r.seeded(3):
        inside = draw()
    after = draw()
    r.set_random_state(state)
    assert draw() == expected and draw() == after
    with r.seeded(3 + 2**32):
        assert draw() == inside

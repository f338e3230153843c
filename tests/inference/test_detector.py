"""What a call of a detector does, whatever runs its network."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from prunet_det.inference import Detections, Detector
from prunet_det.inference.detector import Engine, Found
from prunet_det.utils.errors import InputError


class Corners(Engine):
    """Finds three objects, whose box and scores are of the image's upper left pixel."""

    runtime, device = "eager", "cpu"

    def __init__(self, batch=1):
        self.batch, self.batches, self.inside = batch, [], 0
        self.threads = set()

    def prepare(self, image):
        assert image.dtype == np.uint8 and image.ndim == 3
        self.threads.add(threading.get_ident())
        return int(image[0, 0, 0])

    def run(self, prepared):
        self.inside += 1
        assert self.inside == 1  # nobody else is in here
        time.sleep(0.001)
        self.batches.append(len(prepared))
        self.inside -= 1
        return [
            Found(
                np.full((3, 4), value, np.float64),
                np.array([0.2, 0.9, 0.5]),
                np.array([1, 0, 1], np.int32),
            )
            for value in prepared
        ]


def image(value):
    return np.full((4, 6, 3), value, np.uint8)


def test_one_gives_one_and_a_list_a_list():
    engine = Corners()
    detector = Detector(engine, ["a", "b"])
    found = detector(image(7))
    assert isinstance(found, Detections) and found.names == ["a", "b"]
    assert found.boxes.dtype == np.float32 and found.boxes.tolist() == [[7] * 4] * 2
    assert found.scores.tolist() == pytest.approx([0.9, 0.5]) and found.labels.dtype == np.int64
    assert np.array_equal(found.image(), image(7))
    several = detector([image(1), image(2)])
    assert [f.boxes[0, 0] for f in several] == [1, 2]
    assert [f.boxes[0, 0] for f in detector(np.stack([image(3), image(4)]))] == [3, 4]
    assert detector([]) == [] and detector(()) == []
    assert repr(detector) == "<Detector of 2 classes, eager on cpu, batch 1>"


def test_lists_are_cut_into_batches():
    engine = Corners(batch=3)
    detector = Detector(engine, ["a", "b"])
    found = detector([image(i) for i in range(7)])
    assert [f.boxes[0, 0] for f in found] == list(range(7)) and engine.batches == [3, 3, 1]


def test_a_stream_does_not_run_ahead():
    taken = []

    def images():
        for i in range(6):
            taken.append(i)
            yield image(i)

    stream = Detector(Corners(batch=2), ["a", "b"]).stream(images())
    assert next(stream).boxes[0, 0] == 0 and taken == [0, 1]
    assert [f.boxes[0, 0] for f in stream] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_images_that_come_in_the_same_memory(kind):
    """As a camera's do: each is detected in, and kept, as it was when it was taken."""

    def frames():
        buffer = np.zeros((3, 4, 6), np.uint8)
        for i in range(5):
            buffer[:] = i
            yield kind(buffer if kind is torch.from_numpy else buffer.transpose(1, 2, 0))

    found = list(Detector(Corners(batch=3), ["a", "b"]).stream(frames()))
    assert [f.boxes[0, 0] for f in found] == [f.image()[0, 0, 0] for f in found] == list(range(5))


def test_selection():
    assert len(Detector(Corners(), ["a", "b"], score_thr=0)(image(0))) == 3
    assert len(Detector(Corners(), ["a", "b"], score_thr=0.95)(image(0))) == 0
    (best,) = Detector(Corners(), ["a", "b"], score_thr=0, max_per_img=1)(image(0))
    assert best.score == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"score_thr": 1.5}, "score_thr must lie in 0..1, got 1.5"),
        ({"score_thr": float("nan")}, "score_thr must lie in 0..1"),
        ({"max_per_img": 0}, "max_per_img must be at least 1"),
        ({"channel_order": "gbr"}, "must be bgr or rgb, got 'gbr'"),
    ],
)
def test_impossible_options(options, sentence):
    with pytest.raises(InputError, match=sentence):
        Detector(Corners(), ["a"], **options)


def test_threads():
    """Each thread gets the detections of its own images; the network runs for one at a time."""
    engine = Corners(batch=2)
    detector = Detector(engine, ["a", "b"])
    lists = [[image(10 * i + k) for k in range(5)] for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(detector, lists))
    for i, own in enumerate(found):
        assert [f.boxes[0, 0] for f in own] == [10 * i + k for k in range(5)]
    assert len(engine.threads) > 1 and sum(engine.batches) == 40

"""The search's data, and the network that comes out of a supernet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunet_det.arch.spec import Provenance
from prunet_det.search.baselines import random_network
from prunet_det.search.data import SearchData
from prunet_det.search.derive import inherit
from prunet_det.search.layer import LayerMixture, Part
from prunet_det.search.old_architecture import Architecture
from prunet_det.search.old_supernet import SuperNet
from prunet_det.utils.errors import UserError

HAND = Provenance("hand-written", {"reason": "a test"})


class Noisy:
    """A labelled set whose items are augmented with every generator that there is."""

    metainfo = {"classes": ("a", "b", "c")}
    labels = [i % 3 for i in range(60)]
    data_hash = "hash"

    def __getitem__(self, index):
        import random

        noise = [random.random(), np.random.rand(), float(torch.rand(1))]
        return {"inputs": torch.tensor([index, *noise]), "labels": self.labels[index]}


def test_the_halves_share_no_image_and_hold_all():
    seen = []
    for part in ("weights", "architecture"):
        data = SearchData(Noisy(), part, seed=3)
        assert len(data) == 30
        seen.append({int(data[p]["inputs"][0]) for p in range(30)})
        assert seen[-1] == {int(data[p]["inputs"][0]) for p in range(30, 60)}  # the next epoch
    assert seen[0] & seen[1] == set() and seen[0] | seen[1] == set(range(60))


def test_a_position_alone_says_what_comes():
    data, other = SearchData(Noisy(), "weights", 0), SearchData(Noisy(), "weights", 0)
    state = torch.get_rng_state()
    straight = [data[p]["inputs"] for p in range(70)]
    assert torch.equal(state, torch.get_rng_state())
    for p in (69, 3, 45):
        assert torch.equal(other[p]["inputs"], straight[p])
    first, again = straight[0], [x for x in straight[30:60] if x[0] == straight[0][0]]
    assert not torch.equal(first, again[0])  # another augmentation in the next epoch


def test_a_subset_of_the_classes():
    data = SearchData(Noisy(), "weights", 0, ["c", "a"])
    assert data.metainfo["classes"] == ("c", "a")
    items = [data[p] for p in range(len(data))]
    assert {(int(i["inputs"][0]) % 3, i["labels"]) for i in items} == {(2, 0), (0, 1)}
    assert SearchData(Noisy(), "weights", 0, 2).metainfo["classes"] == ("a", "b")


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (["z", "a"], "no class 'z'"),
        (["a"], "less than two"),
        ("a", "less than two"),
        (1, "the first 1 of 3 classes cannot be kept"),
        (4, "the first 4 of 3 classes cannot be kept, .* the classes are a, b, c"),
        (-1, "the first -1 of 3"),
        (0, "the first 0 of 3"),
    ],
)
def test_classes_that_make_no_search(classes, sentence):
    with pytest.raises(UserError, match=sentence):
        SearchData(Noisy(), "weights", 0, classes)


class Counted:
    """A labelled set with a number of images of each class."""

    def __init__(self, counts):
        self.metainfo = {"classes": tuple(f"k{i}" for i in range(len(counts)))}
        self.labels = np.repeat(np.arange(len(counts)), counts).tolist()

    def __getitem__(self, index):
        return {"inputs": torch.tensor(index), "labels": self.labels[index]}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "counts", [[4] * 40, [20, 20, 20, 2], [2] * 7, [3] * 9, [1000, 2, 3, 500, 2], [2, 2]]
)
def test_both_halves_hold_every_class(counts, seed):
    halves = []
    for part in ("weights", "architecture"):
        data = SearchData(Counted(counts), part, seed)
        halves.append([data[p] for p in range(len(data))])
        assert {item["labels"] for item in halves[-1]} == set(range(len(counts)))
    first, second = ({int(item["inputs"]) for item in half} for half in halves)
    assert not first & second and len(first | second) == sum(counts)
    assert 0 <= len(first) - len(second) <= 1


def test_halves_that_hold_every_class_are_drawn_from_all_images():
    """As ever, so that a search of before can be resumed and made again."""
    base = Counted([50, 50])
    drawn = {
        int(item["inputs"]) for item in map(SearchData(base, "weights", 3).__getitem__, range(50))
    }
    order = np.random.default_rng(3).permutation(100)
    assert drawn == set(order[::2].tolist())


def test_a_class_of_one_image_is_named():
    with pytest.raises(UserError, match="has 1 of the class 'k1'.*one of each class in both"):
        SearchData(Counted([9, 1, 9]), "weights", 0)
    assert len(SearchData(Counted([9, 1, 9]), "weights", 0, ["k0", "k2"])) == 9


def pinned(space, network):
    """The mixtures that are a network."""
    mixtures = []
    for layer, block in zip(space.layers, network, strict=True):
        if block is None:
            mixtures.append(LayerMixture([Part("0", None, (8, 8))], torch.tensor(0.0)))
            continue
        key = str(layer.operators.index(layer.operator_of(block)))
        mixtures.append(LayerMixture([Part(key, None, (block.hidden, block.hidden))]))
    return mixtures


@pytest.mark.parametrize("seed", range(4))
def test_an_inherited_network_is_the_supernets_path(space, seed):
    supernet = SuperNet(space, 7)
    images = torch.randn(8, 3, 32, 32)
    network = random_network(space, seed)
    mixtures = pinned(space, network)
    for _ in range(3):
        supernet.train()(images, mixtures)  # statistics that are somebody's
    keys = [
        None if b is None else str(layer.operators.index(layer.operator_of(b)))
        for layer, b in zip(space.layers, network, strict=True)
    ]
    net = inherit(supernet, space.to_spec(network, "x", HAND, 32), network, keys)
    with torch.no_grad():
        torch.testing.assert_close(net(images), supernet.eval()(images, mixtures))


def test_channels_that_repair_added_change_nothing(space):
    supernet = SuperNet(space, 7).eval()
    network = random_network(space, 0)
    at = next(i for i, b in enumerate(network) if b is not None and 8 < b.hidden < 64)
    layer, block = space.layers[at], network[at]
    keys = [
        None if b is None else str(own.operators.index(own.operator_of(b)))
        for own, b in zip(space.layers, network, strict=True)
    ]
    supernet.layers[str(at)].candidates[keys[at]].resize(block.hidden)
    wider = (
        *network[:at],
        layer.block(layer.operator_of(block), block.hidden + 16),
        *network[at + 1 :],
    )
    images = torch.randn(4, 3, 32, 32)
    outputs = []
    for chosen in (network, wider):
        net = inherit(supernet, space.to_spec(chosen, "x", HAND, 32), chosen, keys)
        with torch.no_grad():
            outputs.append(net(images))
    torch.testing.assert_close(outputs[0], outputs[1])


def test_an_architecture_says_which_candidate_a_layer_inherits(costs):
    architecture = Architecture(costs)
    architecture.logits[3] = 1.0
    assert architecture.preferred()[1] == 3 and architecture.keys[3] == "1"

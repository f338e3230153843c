"""What a space holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from mmengine.config import Config

from prunet_det import load_spec
from prunet_det.arch.spec import Provenance, StageSpec
from prunet_det.search.costs import Pricing
from prunet_det.search.shapes import Shapes
from prunet_det.search.space import Operator, SearchSpace, Shape, SpaceError
from tests.conftest import ROOT
from tests.search.conftest import SMALL

HAND = Provenance("hand-written", {"reason": "a test"})


def config_space(name, **options):
    cfg = Config.fromfile(ROOT / "configs" / "search" / f"{name}.py").space
    return SearchSpace.from_config({**cfg, **options})


@pytest.mark.parametrize("name", ["prunet_p0", "prunet_p1"])
def test_the_published_prunets_are_points_of_the_default_space(name):
    space, spec = config_space("prunet"), load_spec(name)
    shape = space.shape_of(spec)
    assert space.to_spec(shape, name, spec.provenance, 224).stages == spec.stages
    shapes = Shapes(Pricing(device="v100").costs(space, 512))
    low, high = shapes.reachable()
    assert low < shapes.ms(shape) < high


def test_the_quick_space_reaches_what_it_promises():
    low, high = Shapes(Pricing(device="v100").costs(config_space("quick"), 512)).reachable()
    assert low <= 0.45 and high >= 1.2


def test_counts_and_widths(space):
    layer = space.layers[2]
    assert layer.widths == tuple(range(8, 97, 8)) and layer.skippable and layer.name == "1.1"
    assert [str(o) for o in layer.operators] == [
        "irb k3",
        "irb k5",
        "fused_irb k3",
        "fused_irb k5",
    ]
    per_layer = [2, 4 * 6, 4 * 12 + 1, 4 * 12 + 1, 4 * 12, 4 * 18 + 1]
    product = 1
    for count in per_layer:
        product *= count
    assert 10**space.log10_size == pytest.approx(product)


def test_width_factor_activation_and_se():
    space = config_space("prunet", width_factor=0.5, acts=("relu", "silu"), se=(False, True))
    assert space.stem == 16 and [layer.out_chs for layer in space.layers][-1] == 352
    layer = space.layers[-1]
    assert len(layer.operators) == 2 * 2 * 2 * 2
    block = layer.block(Operator(kind="irb", kernel=3, act="silu", se=True), 96)
    assert (block.act, block.se) == ("silu", 88) and min(layer.widths) >= 88
    operator, _ = layer.indices_of(block)
    assert str(layer.operators[operator]) == "irb k3 silu se"


def widest(space):
    """The network of all layers, each its last operator at its greatest width."""
    last = [layer.operators[-1] for layer in space.layers]
    widths = [layer.widths_of(o) for layer, o in zip(space.layers, last, strict=True)]
    return Shape([len(layer.operators) - 1 for layer in space.layers], [len(w) - 1 for w in widths])


def test_a_network_goes_to_a_spec_and_back(space):
    shape = widest(space)
    shape.operators[3], shape.widths[3] = -1, 0  # the last layer of its stage
    spec = space.to_spec(shape, "x", HAND, 256)
    assert [len(stage.blocks) for stage in spec.stages] == [1, 2, 2]
    assert space.shape_of(spec) == shape
    for name in ("operators", "widths"):
        assert getattr(space.shape_of(spec), name).dtype == np.int64


def test_what_is_no_point(space):
    spec = space.to_spec(widest(space), "x", HAND, 256)
    block, *others = spec.stages[1].blocks
    odd = StageSpec((dataclasses.replace(block, hidden=12), *others))
    with pytest.raises(SpaceError, match=r"layer 1\.0 of the space .* with inner width 12"):
        space.shape_of(dataclasses.replace(spec, stages=(spec.stages[0], odd, spec.stages[2])))
    with pytest.raises(SpaceError, match=r"have \(1, 4, 2\) layers, those of the space \(1, 3, 2"):
        longer = StageSpec((block, *others, others[-1]))
        space.shape_of(dataclasses.replace(spec, stages=(spec.stages[0], longer, spec.stages[2])))
    with pytest.raises(SpaceError, match=r"have \(1, 3\) layers"):
        space.shape_of(dataclasses.replace(spec, stages=spec.stages[:2]))
    with pytest.raises(SpaceError, match="another stem or tail"):
        space.shape_of(load_spec("prunet_p0"))


def test_an_operator_may_have_one_width(space):
    operator = dataclasses.replace(space.layers[2].operators[0], fixed=48)
    layer = dataclasses.replace(space.layers[2], operators=(operator,))
    assert layer.widths_of(operator) == (48,) and str(operator) == "irb k3 x48"
    assert layer.indices_of(layer.block(operator, 48)) == (0, 0)
    with pytest.raises(SpaceError, match="with inner width 56"):
        layer.indices_of(layer.block(operator, 56))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(colour=1), "unknown key 'colour'"),
        (dict(kinds=("mbconv",)), "kinds must be of conv, irb, fused_irb"),
        (dict(acts=("gelu",)), "acts must be of"),
        (dict(stages=[]), "needs stages"),
        (dict(width_factor=0), r"width_factor in \(0, 16\]"),
        (dict(stages=[dict(width=8, depth=0)]), "depth >= 1"),
        (dict(stages=[dict(width=8, depth=1, strides=2)]), "unknown key 'strides'"),
        (dict(stages=[dict(width=8)]), "'depth' is missing"),
    ],
)
def test_spaces_that_make_no_sense(change, sentence):
    with pytest.raises(SpaceError, match=sentence):
        SearchSpace.from_config({**SMALL, **change})


def test_inner_widths_have_a_least_expansion():
    space = config_space("quick", least_expansion=2)
    for layer in space.layers:
        assert layer.widths[0] >= 2 * layer.in_chs > layer.widths[0] - 16
    assert config_space("quick").layers[1].widths[0] == 16
    with pytest.raises(SpaceError, match="must not be above its most_expansion"):
        config_space("quick", least_expansion=9)
    with pytest.raises(SpaceError, match="least_expansion must be an integer >= 0"):
        config_space("quick", least_expansion=-1)

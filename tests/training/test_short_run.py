"""A short training from scratch: what it learns, what it scores, and that it is the same twice."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import pytest
import torch

from prunet_det.arch.spec import ArchSpec, BlockSpec, Provenance, StageSpec, StemSpec, TailSpec
from prunet_det.training.crops import Augmentation, DeviceCrops
from prunet_det.training.divergence import DivergedError
from prunet_det.training.short_run import ShortRecipe, _Step, short_run
from prunet_det.utils.config import from_mapping, read_config
from prunet_det.utils.errors import InputError
from prunet_det.zoo import create
from tests.dispatched import dispatched

RECIPE = ShortRecipe(iterations=30, batch_size=12, lr=5e-3, norm_batches=2, marks=(10, 20, 500))


def crops(count, seed) -> DeviceCrops:
    """Noise on one of three colours, which is the class."""
    noise = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 100, (count, 3, 16, 16), generator=noise, dtype=torch.uint8)
    images[torch.arange(count), labels] += 120
    plain = Augmentation(input_size=(3, 16, 16), scale=(0.9, 1.0), color_jitter=None)
    return DeviceCrops(images=images, labels=labels, classes=("r", "g", "b"), augmentation=plain)


@pytest.fixture(scope="module")
def spec() -> ArchSpec:
    stages = (
        StageSpec((BlockSpec("fused_irb", 8, 16, stride=2, hidden=16),)),
        StageSpec((BlockSpec("irb", 16, 16, stride=2, hidden=32),)),
    )
    return ArchSpec(
        name="short",
        stem=StemSpec((8,)),
        stages=stages,
        tail=TailSpec(16),
        provenance=Provenance("hand-written", {"reason": "a test"}),
    )


@pytest.fixture(scope="module")
def data():
    return crops(60, 0), crops(40, 1)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_network_learns(spec, data, optimizer):
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    run = short_run(spec, recipe, *data, seed=0)
    assert list(run.curve) == [10, 20, 30]
    assert run.top1 > 0.7 and (run.top1, run.loss) == run.curve[30]
    assert run.loss < run.curve[10][1] and run.seconds > 0
    assert not run.net.training


def test_the_same_seed_gives_the_same_bytes(spec, data):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    recipe = dataclasses.replace(RECIPE, iterations=12)
    runs = [short_run(spec, recipe, *data, seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    states = [run.net.state_dict() for run in runs]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert runs[0].curve == runs[1].curve and runs[0].curve.keys() == {10, 12}
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_marks_do_not_change_what_is_learnt(spec, data):
    often, once = (
        short_run(spec, dataclasses.replace(RECIPE, iterations=9, marks=marks), *data, 0)
        for marks in (tuple(range(9)), ())
    )
    assert often.curve.keys() == set(range(1, 10)) and often.curve[9] == once.curve[9]


def test_the_average_is_scored(spec, data):
    """Its weights are those of no step, and its statistics those of the training's crops."""
    recipe = dataclasses.replace(RECIPE, ema=0.9)
    averaged = short_run(spec, recipe, *data, seed=0).net
    last = short_run(spec, dataclasses.replace(recipe, ema=0.0), *data, seed=0).net
    assert not torch.equal(averaged.classifier.weight, last.classifier.weight)
    norms = [m for m in averaged.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(m.num_batches_tracked == recipe.norm_batches for m in norms)


def test_a_training_leaves_nothing_but_its_network(spec, data, monkeypatch):
    """Not even until the garbage collector comes: a GPU's recordings are large."""
    steps = []
    made = _Step.__init__

    def remembered(self, *args):
        made(self, *args)
        steps.append(weakref.ref(self))

    monkeypatch.setattr(_Step, "__init__", remembered)
    gc.disable()
    try:
        short_run(spec, dataclasses.replace(RECIPE, iterations=2), *data, seed=0)
        assert len(steps) == 1 and steps[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("warmup", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("iterations", [1, 2, 4, 5])
def test_any_number_of_steps_is_a_training(spec, data, iterations, warmup):
    recipe = dataclasses.replace(RECIPE, iterations=iterations, warmup=warmup)
    assert short_run(spec, recipe, *data, seed=0).curve.keys() == {iterations}


def test_a_training_that_diverges_says_so(spec, data):
    recipe = dataclasses.replace(RECIPE, lr=1e30, warmup=0.1)
    with pytest.raises(DivergedError, match="short training of short diverged.*Lower the recipe"):
        short_run(spec, recipe, *data, seed=0)


def test_recipes_that_cannot_be():
    for changes, sentence in (
        (dict(optimizer="sgd"), "optimizer must be one of adamw, muon, got 'sgd'"),
        (dict(optimizer="muon", capture=True), "records steps of adamw only"),
        (dict(iterations=0), "must be 1 or more"),
    ):
        with pytest.raises(InputError, match=sentence):
            ShortRecipe(**changes)


def test_a_step_takes_few_operators_beside_the_network(spec, data):
    net = create(spec, num_classes=3)
    images, labels = data[0].batch(0, 12)

    def pass_only():
        torch.nn.functional.cross_entropy(net(images), labels).backward()

    own = sum(dispatched(pass_only).values())
    step = _Step(net, RECIPE)
    step(images, labels)
    counted = dispatched(lambda: step(images, labels))
    assert counted["_fused_adamw_"] == 1 and "_local_scalar_dense" not in counted
    assert sum(counted.values()) - own <= 25


@pytest.mark.parametrize("name", ["quick", "glyphs"])
def test_the_judges_configs_are_recipes(name):
    cfg = read_config(f"configs/search/judge_{name}.py")
    recipe = from_mapping(ShortRecipe, cfg.recipe, "the judge's recipe")
    assert recipe.scored[:2] == (200, 400)
    (_, trained), (scored, _) = cfg.train_data.span, cfg.score_data.span
    assert trained == scored  # no crop is both
    for data in (cfg.train_data, cfg.score_data):
        assert data.dataset.split == "train" and data.dataset.name == "single_glyphs"
        from_mapping(Augmentation, data.dataset.transform, "the transform")


def on_cuda(data):
    move = dataclasses.replace
    return [move(c, images=c.images.cuda(), labels=c.labels.cuda()) for c in data]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_recorded_training_on_cuda_is_the_same(spec, data, full_precision):
    plain, recorded = (
        short_run(spec, dataclasses.replace(RECIPE, capture=capture), *on_cuda(data), seed=0)
        for capture in (False, True)
    )
    assert recorded.top1 > 0.7
    for mark, (_, loss) in plain.curve.items():
        assert recorded.curve[mark][1] == pytest.approx(loss, rel=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("optimizer", ["adamw", "captured adamw", "muon"])
def test_a_step_on_cuda_waits_for_nothing(spec, data, optimizer):
    name = optimizer.split()[-1]
    recipe = dataclasses.replace(RECIPE, optimizer=name, capture=name != optimizer)
    train, _ = on_cuda(data)
    step = _Step(create(spec, num_classes=3).cuda(), recipe)
    run = step.recorded() if step.captured else step
    for i in range(6):  # states are made, and the step is recorded
        run(*train.batch(i, 12))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i in range(6, 10):
            run(*train.batch(i, 12))
    finally:
        torch.cuda.set_sync_debug_mode("default")

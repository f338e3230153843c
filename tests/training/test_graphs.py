"""Which batches run through a recorded network, and that it changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from prunet_det.arch.spec import ArchSpec, BlockSpec, Provenance, StageSpec, StemSpec, TailSpec
from prunet_det.classification import Classifier
from prunet_det.detection.detector import OneStageDetector
from prunet_det.training.graphs import RecordedNetwork, speed_up, use_own_stream
from prunet_det.utils.errors import InputError, UserError
from tests.conftest import ROOT


def tiny(stages=3):
    """A spec with a block of stride 2 in each stage."""
    return ArchSpec(
        name="prunet_tiny",
        stem=StemSpec((8,)),
        stages=(StageSpec((BlockSpec("fused_irb", 8, 8, stride=2, hidden=16),)),) * stages,
        tail=TailSpec(16),
        provenance=Provenance("hand-written", {"reason": "a test"}),
    )


class Recorder:
    """Records as CUDA does: input, outputs and gradients of every replay lie in the same memory.

    Attributes:
        made: Number of recordings.
        replays: Number of forward passes of recordings.
    """

    def __init__(self):
        self.made = self.replays = 0

    def __call__(self, module, images):
        self.made += 1
        parameters = [p for p in module.parameters() if p.requires_grad]
        static_images = images.clone()
        for _ in range(3):  # as PyTorch warms up
            module(static_images)
        torch.rand(1)
        outputs, structure = tree_flatten(module(static_images))
        static_outputs = [torch.empty_like(o) for o in outputs]
        static_gradients = [torch.empty_like(p) for p in parameters]
        recorder, live = self, {}

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, *_):
                static_images.copy_(x)
                with torch.enable_grad():
                    live["outputs"] = tree_flatten(module(static_images))[0]
                for static, output in zip(static_outputs, live["outputs"], strict=True):
                    static.copy_(output.detach())
                recorder.replays += 1
                return tuple(static.detach() for static in static_outputs)

            @staticmethod
            def backward(ctx, *gradients):
                found = torch.autograd.grad(live["outputs"], parameters, gradients)
                for static, gradient in zip(static_gradients, found, strict=True):
                    static.copy_(gradient)
                return None, *(static.detach() for static in static_gradients)

        return lambda x: tree_unflatten(Replay.apply(x, *parameters), structure)


def classifier(stages=3):
    torch.manual_seed(0)
    return Classifier(tiny(stages), num_classes=4, channels_last=True).train()


def recorded(model):
    recorder = Recorder()
    model.network = RecordedNetwork(model, recorder)
    return recorder


def batch(images=4, size=32, seed=0):
    torch.manual_seed(seed)
    return torch.randn(images, 3, size, size), torch.randint(4, (images,))


def train(model, batches, accumulated=1, amp=False):
    """Losses of a training on these batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optim = OptimWrapper(optimizer, accumulative_counts=accumulated)
    losses = []
    for images, labels in batches:
        with torch.autocast(images.device.type, enabled=amp):
            loss = model(images, labels, mode="loss")["loss"]
        optim.update_params(loss)
        losses.append(loss.item())
    return losses


def same_state(one, two):
    assert one.state_dict().keys() == two.state_dict().keys()
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("accumulated", [1, 3])
def test_a_training_is_the_same(accumulated):
    """Weights, running statistics and losses; also where gradients of iterations are added up."""
    batches = [batch(seed=i) for i in range(8)]
    plain, fast = classifier(), classifier()
    recorder = recorded(fast)
    expected, losses = train(plain, batches, accumulated), train(fast, batches, accumulated)
    assert losses == pytest.approx(expected, rel=1e-5)
    same_state(plain, fast)
    assert (recorder.made, recorder.replays) == (1, 7), "the first batch only shows its size"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_training_is_the_same_on_a_gpu(full_precision):
    """Recorded as PyTorch really does it."""
    batches = [tuple(x.cuda() for x in batch(seed=i)) for i in range(6)]
    plain, fast = classifier().cuda(), classifier().cuda()
    speed_up(fast, "graph")
    stream = torch.cuda.Stream()  # the default one cannot be recorded
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expected, losses = train(plain, batches), train(fast, batches)
    assert fast.network._recording is not None
    assert losses == pytest.approx(expected, rel=1e-2)


def test_recording_draws_no_random_numbers():
    model = classifier()
    recorded(model)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    images, _ = batch()
    torch.manual_seed(7)
    for _ in range(2):
        model.network(images)
    assert torch.equal(torch.rand(3), expected)


def test_other_sizes_run_as_before(caplog):
    model = classifier()
    recorder = recorded(model)
    caplog.set_level("INFO", logger="prunet_det")
    sizes = [(4, 32), (4, 48), (4, 32), (4, 32), (3, 32), (4, 32), (4, 48), (4, 48)]
    train(model, [batch(images, size) for images, size in sizes])
    assert (recorder.made, recorder.replays) == (1, 2)
    messages = [r.getMessage() for r in caplog.records]
    assert messages == [
        "speed-up: the network is recorded for batches of 4 images of 32 x 32 px",
        "batches of 3 images of 32 x 32 px are not what was recorded and run as before",
    ]


def test_evaluation_is_not_recorded():
    model = classifier()
    recorder = recorded(model)
    images, labels = batch()
    train(model, [(images, labels)] * 3)
    replays = recorder.replays
    with torch.no_grad():
        model(images)
    model.eval()
    model(images)
    model.train()
    assert recorder.replays == replays
    train(model, [(images, labels)])
    assert (recorder.made, recorder.replays) == (1, replays + 1)


def test_other_precision_is_not_replayed():
    model = classifier()
    recorder = recorded(model)
    images, _ = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = [model.network(images) for _ in range(3)]
    assert {o.dtype for o in outputs} == {torch.bfloat16} and recorder.replays == 2
    assert model.network(images).dtype == torch.float32 and recorder.replays == 2


def test_a_moved_model_is_recorded_anew():
    model = classifier()
    recorder = recorded(model)
    images, labels = batch()
    train(model, [(images, labels)] * 2)
    held = [p.data for p in model.parameters()]  # so that nothing comes back to its place
    model.double().float()
    train(model, [(images, labels)] * 2)
    assert recorder.made == 2 and held


def test_an_unfrozen_stage_is_recorded_anew():
    model = classifier()
    recorder = recorded(model)
    frozen = next(model.parameters()).requires_grad_(False)
    images, labels = batch()
    train(model, [(images, labels)] * 2)
    frozen.requires_grad_()
    for made in (1, 2, 2):
        frozen.grad = None
        model(images, labels, mode="loss")["loss"].backward()
        assert recorder.made == made and frozen.grad.abs().sum() > 0


def test_names_and_copies():
    """An averaged model is a copy, of before or of after the recording."""
    plain, model = classifier(), classifier()
    recorder = recorded(model)
    same_state(plain, model)
    images, labels = batch()
    train(model, [(images, labels)] * 3)
    average = copy.deepcopy(model)
    same_state(model, average)
    assert average.network._model is average
    train(average, [(images, labels)])
    assert (recorder.made, recorder.replays) == (1, 2), "a copy has no recording yet"
    with torch.no_grad():
        for p in average.parameters():
            p.zero_()
    assert not torch.equal(model.network(images), average.network(images))


def test_a_detector_takes_the_same_path():
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    cfg = Config.fromfile(ROOT / "configs" / "prunet_effdet.py").model
    cfg.pop("type")
    cfg.backbone.update(arch=tiny(), frozen_stages=1, out_strides=[8, 16])
    cfg.neck.update(num_cells=1, num_levels=2, channels=8)
    cfg.bbox_head.update(repeats=1)
    torch.manual_seed(0)
    plain = OneStageDetector(**cfg).train()
    fast = copy.deepcopy(plain)
    recorder = recorded(fast)
    images, _ = batch(2, 64)
    for model in (plain, fast):
        for _ in range(3):
            model.zero_grad()
            scores, boxes = model.network(images)
            sum(x.square().sum() for x in (*scores, *boxes)).backward()
    assert recorder.replays == 2
    same_state(plain, fast)
    for p, q in zip(plain.parameters(), fast.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) == (not p.requires_grad)
        if p.requires_grad:
            torch.testing.assert_close(p.grad, q.grad)


def test_what_cannot_be_had_is_said(monkeypatch):
    model = classifier()
    with pytest.raises(InputError, match=r"one of none, graph, compile, got 'fast'"):
        speed_up(model, "fast")
    with pytest.raises(UserError, match="needs a CUDA device"):
        speed_up(model, "graph")
    with pytest.raises(InputError, match=r"is a Linear, and .* set model\.type"):
        speed_up(nn.Linear(1, 1), "compile")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        speed_up(model, "compile")
    speed_up(model, "none")
    assert "network" not in vars(model)


@pytest.mark.slow
def test_a_compiled_training_is_the_same(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # no processes of its own
    batches = [batch(seed=i) for i in range(5)]
    plain, fast = classifier(stages=1), classifier(stages=1)
    speed_up(fast, "compile")
    expected = train(plain, batches)
    assert train(fast, batches) == pytest.approx(expected, rel=1e-4)
    assert plain.state_dict().keys() == fast.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("accumulated", "amp"), [(1, False), (3, False), (1, True)])
def test_a_training_on_cuda_is_the_same(full_precision, accumulated, amp):
    stream = torch.cuda.current_stream()
    use_own_stream()
    try:
        batches = [tuple(t.cuda() for t in batch(seed=i)) for i in range(8)]
        plain, fast = classifier().cuda(), classifier().cuda()
        speed_up(fast, "graph")
        expected = train(plain, batches, accumulated, amp)
        losses = train(fast, batches, accumulated, amp)
    finally:
        torch.cuda.set_stream(stream)
    assert fast.network._recording is not None
    tolerance = 1e-2 if amp else 1e-3
    assert losses == pytest.approx(expected, rel=tolerance)
    for (name, a), b in zip(plain.state_dict().items(), fast.state_dict().values(), strict=True):
        torch.testing.assert_close(b, a, rtol=10 * tolerance, atol=tolerance, msg=name)

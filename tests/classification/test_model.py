"""The classifier: losses against timm's and torch's, mixup, the teacher, the metric."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from mmengine.registry import MODELS
from timm.data.transforms import MaybeToTensor
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy
from timm.models import register_model
from torch.nn import functional as F
from torchvision.transforms import Compose, Normalize
from torchvision.transforms.functional import to_pil_image

import prunet_det
from prunet_det.classification import Classifier, TopKAccuracy
from prunet_det.classification.data import normalized
from prunet_det.utils.errors import UserError
from prunet_det.zoo.weights import save_safetensors
from tests.dispatched import dispatched

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
X = torch.randn(4, 3, 32, 32)
Y = torch.tensor([0, 2, 1, 2])


def classifier(**kwargs):
    return Classifier("prunet_demo", num_classes=3, **kwargs)


def test_modes():
    model = MODELS.build(dict(type="Classifier", arch="prunet_demo", num_classes=3)).eval()
    logits = model(X)
    assert logits.shape == (4, 3)
    assert torch.equal(logits, model.net(X))
    predicted = model(X, Y, mode="predict")
    assert [int(p["label"]) for p in predicted] == Y.tolist()
    assert torch.equal(torch.stack([p["scores"] for p in predicted]), logits)


def test_nothing_waits_for_the_device():
    """On the device `meta`, what would have to wait for a device's result is an error."""
    model = classifier(mixup=dict(mixup_alpha=0.2)).to("meta").train()
    assert model.data_preprocessor._non_blocking
    data = dict(inputs=torch.zeros(4, 3, 32, 32, dtype=torch.uint8), labels=Y)
    assert dispatched(lambda: model.data_preprocessor(data, True)) == {"_to_copy": 2}
    data = model.data_preprocessor(data, True)
    assert model(**data, mode="loss")["loss"].is_meta
    mean, std = model._mean, model._std
    assert dispatched(lambda: normalized(data["inputs"], mean, std)).total() <= 10


@pytest.mark.parametrize(
    ("kwargs", "theirs"),
    [
        (dict(label_smoothing=0.0), F.cross_entropy),
        (dict(label_smoothing=0.2), LabelSmoothingCrossEntropy(0.2)),
        (dict(loss="binary_cross_entropy", label_smoothing=0.1), BinaryCrossEntropy(0.1)),
    ],
)
def test_losses(kwargs, theirs):
    model = classifier(**kwargs).eval()
    assert torch.allclose(model(X, Y, mode="loss")["loss"], theirs(model.net(X), Y))


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_mixup_mixes(loss):
    model = classifier(loss=loss, mixup=dict(mixup_alpha=0.5, cutmix_alpha=1.0)).eval()
    before = X.clone()
    losses = {model(X, Y, mode="loss")["loss"].item() for _ in range(4)}
    assert len(losses) > 1, "another mixture every time"
    assert torch.equal(X, before), "the batch itself is left alone"


@pytest.mark.parametrize("channels_last", [False, True])
def test_uint8_images_are_normalised_by_the_model(channels_last, tmp_path):
    """As timm's transforms would; the teacher sees what the student sees."""
    teacher_file(tmp_path)
    teacher = dict(name="prunet_demo", checkpoint=tmp_path / "teacher.safetensors")
    model = classifier(teacher=teacher, channels_last=channels_last).eval()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    timms = Compose([MaybeToTensor(), Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    floats = torch.stack([timms(to_pil_image(image)) for image in images])
    assert torch.equal(model(images), model(floats))
    assert model(images, Y, mode="loss") == model(floats, Y, mode="loss")
    assert {"_mean", "_std"}.isdisjoint(model.state_dict())


@pytest.mark.parametrize("channels_last", [False, True])
def test_it_learns(channels_last):
    """A dozen images by heart: from what an untrained network says to less than half of it."""
    model = classifier(label_smoothing=0.0, channels_last=channels_last).train()
    images, labels = torch.randn(12, 3, 32, 32), torch.arange(12) % 3
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(20):
        loss = model(images, labels, mode="loss")["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_any_timm_network():
    model = Classifier("resnet10t", num_classes=3, arch_args=dict(drop_rate=0.1))
    assert model(X).shape == (4, 3)


def teacher_file(tmp_path):
    net = prunet_det.create("prunet_demo", num_classes=3)
    save_safetensors(net.state_dict(), tmp_path / "teacher.safetensors")
    return net.eval(), tmp_path / "teacher.safetensors"


def test_teacher(tmp_path, caplog):
    caplog.set_level("INFO", "prunet_det")
    net, path = teacher_file(tmp_path)
    cfg = dict(name="prunet_demo", checkpoint=path, weight=0.25, temperature=2.0)
    model = classifier(label_smoothing=0.0, teacher=cfg).eval()
    assert "teacher: " in caplog.text
    losses = model(X, Y, mode="loss")
    logits, taught = model.net(X), net(X)
    expected = F.kl_div(
        F.log_softmax(logits / 2, 1), F.softmax(taught / 2, 1), reduction="batchmean"
    )
    assert torch.allclose(losses["loss_teacher"], 0.25 * 4 * expected, atol=1e-6)
    assert torch.allclose(losses["loss_label"], 0.75 * F.cross_entropy(logits, Y))
    sum(losses.values()).backward()
    assert all(p.grad is None for p in model._teacher._net.parameters())


def test_a_student_like_its_teacher_has_nothing_to_learn(tmp_path):
    _, path = teacher_file(tmp_path)
    model = classifier(teacher=dict(name="prunet_demo", checkpoint=path), checkpoint=path).eval()
    assert model(X, Y, mode="loss")["loss_teacher"].item() == pytest.approx(0, abs=1e-6)


def test_the_teacher_is_in_no_checkpoint_and_no_copy(tmp_path):
    _, path = teacher_file(tmp_path)
    model = classifier(teacher=dict(name="prunet_demo", checkpoint=path))
    assert model.state_dict().keys() == classifier().state_dict().keys()
    assert copy.deepcopy(model)._teacher is model._teacher
    model.train()
    assert not model._teacher._net.training


def test_a_teacher_sees_what_it_was_trained_on(tmp_path):
    """Other normalisation than the student's, and one size only."""
    name = "vit_tiny_patch16_224"
    net = timm.create_model(name, num_classes=3).eval()
    save_safetensors(net.state_dict(), tmp_path / "vit.safetensors")
    model = classifier(teacher=dict(name=name, checkpoint=tmp_path / "vit.safetensors"))
    pixels = torch.rand(2, 3, 224, 224)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = net((pixels - 0.5) / 0.5)
    assert torch.allclose(model._teacher.predict((pixels - mean) / std), expected, atol=1e-4)
    assert model._teacher.predict(X).shape == (4, 3)


@register_model
def downloaded(pretrained=False, **kwargs):
    """A network of timm's whose weights know a thousand classes."""
    if pretrained:
        assert "num_classes" not in kwargs, "the classifier stays as it was trained"
    return timm.create_model("resnet10t", **{"num_classes": 1000, **kwargs})


def test_a_downloaded_teacher_must_know_the_classes():
    with pytest.raises(UserError, match=r"know 1000 classes, the data 3; give weights that fit"):
        classifier(teacher=dict(name="downloaded"))


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        (dict(name="sage"), "timm has no model 'sage'"),
        (dict(name="resnet10t", weight=1.5), r"must lie in 0\.\.1"),
        (dict(name="prunet_p1"), "cannot be had: .*--teacher-checkpoint"),
    ],
)
def test_teachers_that_are_refused(teacher, sentence):
    with pytest.raises(UserError, match=sentence):
        classifier(teacher=teacher)


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    _, path = teacher_file(tmp_path)
    teacher = dict(name="prunet_demo", checkpoint=path)
    with pytest.raises(UserError, match="has no classifier of 9 classes"):
        Classifier("prunet_demo", num_classes=9, teacher=teacher)


def test_what_a_classifier_refuses():
    with pytest.raises(UserError, match="cross_entropy, binary_cross_entropy, got 'hinge'"):
        classifier(loss="hinge")
    with pytest.raises(UserError, match="mixup needs an even batch"):
        classifier(mixup=dict(mixup_alpha=0.5))(X[:3], Y[:3], mode="loss")


def test_dropped_activations_are_caught():
    model = Classifier("efficientnet_b0", num_classes=3)
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with pytest.raises(UserError, match="dropped the activation in bn1"):
        model.train()


def test_other_weights_to_start_from(tmp_path):
    net, path = teacher_file(tmp_path)
    model = Classifier("prunet_demo", num_classes=9, checkpoint=path)
    assert torch.equal(model.net.stem[0].conv.weight, net.stem[0].conv.weight)


def test_accuracy_against_timm():
    scores, labels = torch.randn(200, 12).softmax(1), torch.randint(12, (200,))
    metric = TopKAccuracy()
    metric.process(None, [dict(scores=s, label=k) for s, k in zip(scores, labels, strict=True)])
    found = metric.evaluate(200)
    top1, top5 = timm.utils.accuracy(scores, labels, topk=(1, 5))
    assert found["accuracy/top1"] == pytest.approx(float(top1) / 100)
    assert found["accuracy/top5"] == pytest.approx(float(top5) / 100)


def test_accuracy_of_what_says_nothing():
    metric = TopKAccuracy()
    same = torch.full((3,), 1 / 3)
    metric.process(None, [dict(scores=same, label=0), dict(scores=same * torch.nan, label=1)])
    assert metric.evaluate(2) == {"accuracy/top1": 0.0}

"""Bad input to classification: one sentence, exit code 2, no traceback."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

IMAGENET = "configs/classification/prunet_imagenet.py"
DIGITS = "configs/classification/prunet_digits.py"
QUICK = [
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "train_dataloader.batch_size=2",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "model.arch=prunet_demo",
]


@pytest.fixture
def folder(tmp_path):
    """A folder of two classes, four images each, and a function that makes another."""

    def make(name="data", splits=("train", "val"), classes=("cat", "dog"), count=4):
        root = tmp_path / name
        for split in splits:
            for kind in classes:
                (root / split / kind).mkdir(parents=True)
                for i in range(count):
                    pixels = np.full((40, 48, 3), 20 * i, np.uint8)
                    Image.fromarray(pixels).save(root / split / kind / f"{i}.png")
        return root

    return make


@pytest.fixture
def train(refused, tmp_path, digits):
    """Runs tools/train.py with overrides; returns its one-line error."""

    def run(config, *flags, options=()):
        return refused(
            "train",
            config,
            "--work-dir",
            tmp_path / "work",
            *flags,
            "--cfg-options",
            *QUICK,
            *options,
        )

    return run


def test_missing_data_root(train, tmp_path):
    error = train(IMAGENET, "--data-root", tmp_path / "gone")
    assert "there is no data folder" in error and "one folder a class" in error


def test_folder_without_classes(train, folder):
    root = folder(classes=())
    (root / "train").mkdir(parents=True)
    (root / "val").mkdir()
    error = train(IMAGENET, "--data-root", root)
    assert "does not hold one folder of images a class" in error


def test_a_class_without_images(train, folder):
    root = folder()
    (root / "train" / "bird").mkdir()
    error = train(IMAGENET, "--data-root", root)
    assert "does not hold one folder of images a class" in error and "bird" in error


def test_one_class(train, folder):
    error = train(IMAGENET, "--data-root", folder(classes=("cat",)))
    assert "at least two classes are needed" in error


def test_another_number_of_classes(train, folder):
    error = train(IMAGENET, "--data-root", folder())
    assert "has 2 classes and the model 1000; set model.num_classes=2" in error


def test_classes_that_differ_between_the_splits(train, folder):
    folder(splits=("train",))
    root = folder(splits=("val",), classes=("cat", "emu"))
    error = train(IMAGENET, "--data-root", root, options=["model.num_classes=2"])
    assert "have different classes" in error and "emu" in error


def test_damaged_image(train, folder):
    root = folder()
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:30])
    options = ["model.num_classes=2", "train_dataloader.num_workers=1"]
    error = train(IMAGENET, "--data-root", root, options=options)
    assert "cannot be read" in error and ".png" in error and len(error) < 400


def test_fewer_images_than_a_batch(train, folder):
    options = ["model.num_classes=2", "train_dataloader.batch_size=64"]
    error = train(IMAGENET, "--data-root", folder(), options=options)
    assert "the 8 training images do not fill one batch of 64" in error


def test_weights_that_would_be_unpickled(train):
    options = ["model.init_cfg.type=Pretrained", "model.init_cfg.checkpoint=x.pth"]
    assert "would unpickle the file" in train(DIGITS, options=options)


def test_odd_batch_with_mixup(train, folder):
    options = ["model.num_classes=2", "train_dataloader.batch_size=3"]
    assert "mixup needs an even batch" in train(IMAGENET, "--data-root", folder(), options=options)


def test_iterations_for_a_config_of_epochs(train):
    assert "--max-iters is for configs that train by iterations" in train(
        IMAGENET, "--max-iters", 5
    )


def test_unknown_network(train):
    assert "there is no network 'prunet_p7'" in train(DIGITS, options=["model.arch=prunet_p7"])


def test_unknown_loss(train):
    error = train(DIGITS, options=["model.loss=hinge"])
    assert "loss must be one of cross_entropy, binary_cross_entropy, got 'hinge'" in error


def test_unknown_teacher(train):
    assert "timm has no model 'sage'" in train(DIGITS, "--teacher", "sage")


def test_teacher_whose_weights_cannot_be_had(train):
    error = train(DIGITS, "--teacher", "prunet_p1")
    assert "cannot be had" in error and "--teacher-checkpoint" in error


def test_teacher_for_a_detector(train):
    error = train("configs/detection/prunet_effdet.py", "--teacher", "resnet10t")
    assert "for classification configs" in error


def test_weights_without_a_teacher(train, tmp_path):
    error = train(DIGITS, "--teacher-checkpoint", tmp_path / "w.safetensors")
    assert "needs --teacher NAME" in error


def test_missing_weights_of_the_teacher(train, tmp_path):
    flags = ("--teacher", "resnet10t", "--teacher-checkpoint", tmp_path / "none.pth")
    assert "there is no teacher's checkpoint" in train(DIGITS, *flags)


def test_teacher_of_other_classes(train, tmp_path):
    import timm

    from prunet_det.zoo.weights import save_safetensors

    state = timm.create_model("resnet10t", num_classes=7).state_dict()
    save_safetensors(state, tmp_path / "w.safetensors")
    flags = ("--teacher", "resnet10t", "--teacher-checkpoint", tmp_path / "w.safetensors")
    assert "has no classifier of 10 classes" in train(DIGITS, *flags)


def test_impossible_weight_of_the_teacher(train):
    options = ["model.teacher.name=resnet10t", "model.teacher.weight=1.5"]
    assert "must lie in 0..1" in train(DIGITS, options=options)


def test_unknown_set(train):
    error = train(DIGITS, options=["train_dataloader.dataset.name=runes"])
    assert "no embedded set 'runes'" in error


def test_unknown_split(train):
    error = train(DIGITS, options=["val_dataloader.dataset.split=test"])
    assert "has no split 'test', only train, val" in error


def test_unknown_transform(train):
    error = train(DIGITS, options=["train_dataloader.dataset.transform.blur=1"])
    assert "blur" in error


def test_checkpoint_of_a_detector_is_no_classifier(refused, tmp_path, digits):
    shipped = ROOT / "checkpoints" / "prunet_demo_digits.safetensors"
    error = refused("test", DIGITS, shipped, "--work-dir", tmp_path / "work")
    assert "does not fit the model" in error


def test_a_classifier_does_not_detect(refused, digits, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"")
    flags = ("--config", DIGITS, "--checkpoint", tmp_path / "w.safetensors", "--classes", "a", "b")
    error = refused("detect", digits / "val" / "000000.jpg", *flags)
    assert "the config is a classifier's" in error

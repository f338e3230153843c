"""The judge of networks on two CPU cores: how they are trained from scratch and what they score.

A recipe of `prunet_det.training.short_run`: averaged weights, whose batch norms are estimated anew
before each score. Networks train on 10,730 crops of single digits at 24 px and are scored on 2,683
others of the same writings and scenes. On scenes that no crop of the training shows, two trainings
of one network differ two times as much: which of the ways to fit the training crops also suits
those scenes is chance. None of the crops is one that a search of `quick.py` sees.
"""

_base_ = ["../_base_/datasets/crop_transform.py"]

recipe = dict(
    iterations=1200,
    batch_size=64,
    lr=2e-3,
    weight_decay=0.05,
    ema=0.99,
    norm_batches=40,
    marks=(200, 400, 800),
    capture=True,
)
data = dict(
    type="EmbeddedCrops",
    name="single_digits",
    data_root="data/single_digits/",
    split="train",
    transform=dict(_base_.crop_transform, input_size=(3, 24, 24)),
)
train_data = dict(dataset=data, span=(0.0, 0.8))
score_data = dict(dataset=data, span=(0.8, 1.0))

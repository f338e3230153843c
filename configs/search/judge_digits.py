"""The judge of networks on two CPU cores: how they are trained from scratch and what they score.

A recipe of `prunet_det.training.short_run`. Networks train on 10,700 crops of single digits at 24
px and are scored on 2,145 others; averaged weights, whose batch norms are estimated anew before
each score. The writings and photographs of those others are in no training crops, a search's
included.
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
    transform=dict(_base_.crop_transform, input_size=(3, 24, 24)),
)
train_data = dict(dataset=dict(data, split="train"))
score_data = dict(dataset=dict(data, split="val"))

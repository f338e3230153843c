"""The judge of small networks: how they are trained from scratch and what they score.

A recipe of `prunet_det.training.short_run`: averaged weights, whose batch norms are estimated anew
before each score. Networks train on 8,359 crops of single glyphs, 90 classes, at 24 px, for about a
minute on one CPU core, and are scored on 2,090 others, which no search of `study.py` sees. On ten
digits the same recipe told networks apart half as well: nearly all of them learned those.
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
    name="single_glyphs",
    data_root="data/single_glyphs/",
    split="train",
    transform=dict(_base_.crop_transform, input_size=(3, 24, 24)),
)
train_data = dict(dataset=data, span=(0.0, 0.8))
score_data = dict(dataset=data, span=(0.8, 1.0))

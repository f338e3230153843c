"""The judge of networks on a GPU: `judge_digits.py` on 90 glyphs at 64 px."""

_base_ = ["judge_digits.py"]

recipe = dict(iterations=1500, batch_size=128)
data = dict(
    name="single_glyphs",
    data_root="data/single_glyphs/",
    transform=dict(input_size=(3, 64, 64)),
)
train_data = dict(dataset=data)
score_data = dict(dataset=data)

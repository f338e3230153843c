"""The judge of networks on a GPU: `judge_quick.py` at 64 px, in larger batches."""

_base_ = ["judge_quick.py"]

recipe = dict(iterations=1500, batch_size=128)
data = dict(transform=dict(input_size=(3, 64, 64)))
train_data = dict(dataset=data)
score_data = dict(dataset=data)

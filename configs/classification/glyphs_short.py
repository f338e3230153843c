"""The short recipe, from scratch on 64 px glyphs, for a GPU: of a last tier and of `compare`."""

_base_ = ["digits_short.py"]

model = dict(num_classes=90)
data = dict(name="glyphs", data_root="data/glyphs/")
crops = dict(transform=dict(input_size=(3, 64, 64)))
train_dataloader = dict(batch_size=128, num_workers=12, dataset=dict(data, **crops))
val_dataloader = dict(num_workers=4, dataset=dict(data, **crops))
test_dataloader = dict(num_workers=4, dataset=dict(data, **crops))

max_iters = 1500
warmup = 100
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
_base_.param_scheduler[0].end = _base_.param_scheduler[1].begin = warmup

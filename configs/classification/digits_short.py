"""A short recipe, from scratch on 24 px digits; `digits_compare.py` is made of it."""

_base_ = ["../_base_/classification.py", "../_base_/datasets/crops.py"]

model = dict(
    type="Classifier", arch="prunet_demo", num_classes=10, label_smoothing=0.0, channels_last=True
)
data = dict(name="digits", data_root="data/digits/")
plain = dict(transform=dict(input_size=(3, 24, 24)))
train_dataloader = dict(
    batch_size=32, dataset=dict(data, transform=dict(input_size=(3, 24, 24), re_prob=0.0))
)
val_dataloader = dict(dataset=dict(data, **plain))
test_dataloader = dict(dataset=dict(data, **plain))

max_iters = 200
warmup = 20
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=3e-3, weight_decay=0.01, fused=True),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, end=warmup, by_epoch=False),
    dict(type="CosineAnnealingLR", begin=warmup, eta_min_ratio=0.01, by_epoch=False),
]
custom_hooks = []

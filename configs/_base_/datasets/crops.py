"""The crops of an embedded set, 64 px, with a short recipe: what networks are compared by.

A config sets `name`, `data_root` and `num_classes`. No flips: a mirrored character is another one.
"""

crop_transform = dict(
    input_size=(3, 64, 64),
    is_training=True,
    scale=(0.8, 1.0),
    ratio=(0.9, 1.11),
    hflip=0.0,
    color_jitter=None,
    grayscale_prob=0.2,
    re_prob=0.25,
    interpolation="bilinear",
)
plain_transform = dict(input_size=(3, 64, 64), crop_pct=1.0, interpolation="bilinear")

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="EmbeddedCrops", split="train", transform=crop_transform),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="EmbeddedCrops", split="val", transform=plain_transform),
)
test_dataloader = val_dataloader

max_iters = 1600
warmup = 50
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="TimmMuon", lr=1e-2, weight_decay=0.01, nesterov=True),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, begin=0, end=warmup, by_epoch=False),
    dict(
        type="CosineAnnealingLR",
        begin=warmup,
        end=max_iters,
        T_max=max_iters - warmup,
        eta_min_ratio=0.005,
        by_epoch=False,
    ),
]
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.005, priority=49)
]

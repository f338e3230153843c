"""What every search config shares: data, optimizer of the network weights, hooks."""

_base_ = ["default_runtime.py", "datasets/crop_transform.py"]

custom_imports = dict(imports=["prunet_det.classification"])
model = dict(channels_last=True, label_smoothing=0.0)
default_hooks = dict(checkpoint=None, logger=dict(type="LoggerHook", interval=50))
search_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(type="EmbeddedCrops", split="train", transform=_base_.crop_transform),
)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.01, fused=True),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, end=200, by_epoch=False),
    dict(type="CosineAnnealingLR", begin=200, eta_min_ratio=0.05, by_epoch=False),
]

"""Muon for some iterations: linear warm-up, cosine decay to the end of the training, EMA."""

max_iters = 2000
warmup = 100
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=1000)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="TimmMuon", lr=1e-2, weight_decay=0.01, nesterov=True),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, end=warmup, by_epoch=False),
    dict(type="CosineAnnealingLR", begin=warmup, eta_min_ratio=0.005, by_epoch=False),
]
custom_hooks = [dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.002, priority=49)]

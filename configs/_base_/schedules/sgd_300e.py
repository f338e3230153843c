"""SGD for 300 epochs: one epoch of linear warm-up, cosine decay, EMA.

Hooks and logs count iterations unless a config says otherwise; one with this schedule has to.
"""

max_epochs = 300
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=10)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.16, momentum=0.9, weight_decay=4e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, end=1, by_epoch=True, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", begin=1, by_epoch=True, convert_to_iter_based=True),
]
custom_hooks = [dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0002, priority=49)]

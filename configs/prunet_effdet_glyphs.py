"""PruNet in EfficientDet on the embedded glyphs: COCO's proportions without COCO, for a GPU.

    python tools/train.py configs/prunet_effdet_glyphs.py --amp

12 epochs from random weights: batch 16, Muon, cosine decay, EMA. On a CPU it runs, but takes days.
"""

_base_ = ["_base_/detection.py", "_base_/datasets/glyphs.py", "_base_/models/effdet.py"]

norm_cfg = dict(type="BN", eps=1e-3, momentum=0.03)
model = dict(
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(num_classes=90, norm_cfg=norm_cfg),
    test_cfg=dict(score_thr=0.01),
)
auto_scale_lr = dict(base_batch_size=16)

max_iters = 6000
warmup = 300
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=1000)
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
custom_hooks = [dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.001, priority=49)]

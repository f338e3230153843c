"""PruNet in EfficientDet on the embedded glyphs: COCO's proportions without COCO, for a GPU.

    python tools/train.py configs/prunet_effdet_glyphs.py --amp

12 epochs from random weights: batch 16, Muon, cosine decay, EMA. On a CPU it runs, but takes days.
A large card takes 64 images and more; then a quarter of the iterations and of the EMA's gamma,
twice the learning rate and four times the EMA's momentum (docs/training.md):

    python tools/train.py configs/prunet_effdet_glyphs.py --amp --auto-scale-lr --max-iters 1500 \\
        --cfg-options train_dataloader.batch_size=64 custom_hooks.0.momentum=0.004 \\
        custom_hooks.0.gamma=500
"""

_base_ = [
    "_base_/detection.py",
    "_base_/datasets/glyphs.py",
    "_base_/models/effdet.py",
    "_base_/schedules/muon.py",
]

norm_cfg = dict(type="BN", eps=1e-3, momentum=0.03)
model = dict(
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(num_classes=90, norm_cfg=norm_cfg),
    test_cfg=dict(score_thr=0.01),
)
auto_scale_lr = dict(base_batch_size=16)

max_iters = 6000
warmup = 300
train_cfg = dict(max_iters=max_iters)
_base_.param_scheduler[0].end = _base_.param_scheduler[1].begin = warmup
_base_.custom_hooks[0].momentum = 0.001

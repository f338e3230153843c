"""MMDetection's own RetinaNet on timm's resnet10t: what the digits detector is compared with.

Same data, batch, augmentation and schedule as prunet_effdet.py. The optimizer is AdamW: under Muon
at that config's learning rate this detector, whose heads have no norms, diverges.
"""

_base_ = [
    "_base_/detection.py",
    "_base_/datasets/digits.py",
    "_base_/models/retinanet.py",
    "_base_/schedules/muon.py",
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=64),
    backbone=dict(_delete_=True, type="TimmBackbone", name="resnet10t"),
    neck=dict(out_channels=128, num_outs=4),
    bbox_head=dict(
        num_classes=10,
        stacked_convs=2,
        feat_channels=128,
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32, 64]),
        bbox_coder=dict(target_means=(0.0,) * 4, target_stds=(1.0,) * 4),
    ),
    test_cfg=dict(score_thr=0.01),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=0.01))
auto_scale_lr = dict(base_batch_size=8)

"""PruNet in EfficientDet on the embedded digits: the first thing to run, on a CPU or a GPU.

    python tools/train.py configs/prunet_effdet.py

The backbone is prunet_demo, small enough for two CPU cores. Objects measure 16 to 140 px on 256 px
images, half of COCO's proportion, so the anchors start at 2 strides and P6 is the last level.
"""

_base_ = [
    "_base_/detection.py",
    "_base_/datasets/digits.py",
    "_base_/models/effdet.py",
    "_base_/schedules/muon.py",
]

norm_cfg = dict(type="BN", eps=1e-3, momentum=0.03)
model = dict(
    data_preprocessor=dict(pad_size_divisor=64),
    backbone=dict(arch="prunet_demo"),
    neck=dict(num_cells=2, num_levels=4, norm_cfg=norm_cfg),
    bbox_head=dict(num_classes=10, repeats=2, anchor_scale=2.0, norm_cfg=norm_cfg),
    test_cfg=dict(score_thr=0.01),
)
auto_scale_lr = dict(base_batch_size=8)

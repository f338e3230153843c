"""PruNet in MMDetection's own RTMDet on COCO 2017: the backbone is not tied to one detector.

Neck and head are RTMDet-m's; the optimizer is RTMDet's, AdamW with 0.004 for a batch of 256. On a
GPU MMDetection's head needs mmcv's CUDA operators (`python tools/doctor.py` says whether they are
there); prunet_effdet_coco.py does not.
"""

_base_ = [
    "_base_/detection.py",
    "_base_/datasets/coco.py",
    "_base_/models/one_stage.py",
    "_base_/schedules/sgd_300e.py",
]

norm_cfg = dict(type="BN")
act_cfg = dict(type="SiLU", inplace=True)
model = dict(
    backbone=dict(out_strides=[8, 16, 32]),
    neck=dict(
        type="CSPNeXtPAFPN",
        out_channels=192,
        num_csp_blocks=2,
        expand_ratio=0.5,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    bbox_head=dict(
        type="RTMDetSepBNHead",
        num_classes=80,
        stacked_convs=2,
        feat_channels=192,
        anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        with_objectness=False,
        exp_on_reg=True,
        share_conv=True,
        pred_kernel_size=1,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    train_cfg=dict(
        assigner=dict(type="DynamicSoftLabelAssigner", topk=13),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=30000,
        min_bbox_size=0,
        score_thr=0.001,
        nms=dict(type="nms", iou_threshold=0.65),
        max_per_img=300,
    ),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=0.004, weight_decay=0.05),
    paramwise_cfg=dict(bypass_duplicate=True),  # the levels share convolutions
)
auto_scale_lr = dict(base_batch_size=256)
default_hooks = dict(checkpoint=dict(interval=1, by_epoch=True))
log_processor = dict(by_epoch=True)

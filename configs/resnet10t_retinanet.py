"""MMDetection's own RetinaNet on timm's resnet10t: what the digits detector is compared with.

Same data, batch, augmentation and schedule as prunet_effdet.py. The optimizer is AdamW: under Muon
at that config's learning rate this detector, whose heads have no norms, diverges.
"""

_base_ = ["prunet_effdet.py"]

model = dict(
    _delete_=True,
    type="OneStageDetector",
    channels_last=True,
    data_preprocessor={{_base_.model.data_preprocessor}},
    backbone=dict(type="TimmBackbone", name="resnet10t"),
    neck=dict(type="FPN", out_channels=128, num_outs=4, add_extra_convs="on_output"),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=10,
        stacked_convs=2,
        feat_channels=128,
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=2,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=(0.0,) * 4, target_stds=(1.0,) * 4),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type="MaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type="PseudoSampler"),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.01,
        nms=dict(type="nms", iou_threshold=0.5),
        max_per_img=100,
    ),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=10.0),
)

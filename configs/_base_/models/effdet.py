"""EfficientDet: BiFPN and separable heads. Channels and strides follow the backbone."""

model = dict(
    type="OneStageDetector",
    channels_last=True,
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=128,
    ),
    backbone=dict(type="PruNet", arch="prunet_p0"),
    neck=dict(type="BiFPN", channels=64, num_cells=3, num_levels=5),
    bbox_head=dict(type="EfficientDetHead", num_classes=80, repeats=3),
)

"""A detector without neck and head: preprocessing, and P0 as backbone."""

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
)

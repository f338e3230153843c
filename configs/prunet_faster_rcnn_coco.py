"""PruNet in MMDetection's own Faster R-CNN on COCO 2017: the backbone is not tied to one detector.

MMDetection's config with P0 in the place of ResNet-50; the recipe is prunet_effdet_coco.py's with
Faster R-CNN's usual learning rate, 0.02 for a batch of 16. FPN, RPN and RoI head work on strides 4
to 32, which `out_strides` names: by default P0 gives 8 to 64. On a GPU MMDetection's RoI head needs
mmcv's CUDA operators (`python tools/doctor.py` says whether they are there).
"""

_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "_base_/detection.py",
    "_base_/datasets/coco.py",
    "_base_/schedules/sgd_300e.py",
]

model = dict(
    # Whoever gives images, and of whatever shapes: they are padded alike.
    data_preprocessor=dict(type="BatchPreprocessor", pad_size_divisor=_base_.image_size[0]),
    backbone=dict(_delete_=True, type="PruNet", arch="prunet_p0", out_strides=[4, 8, 16, 32]),
    neck=dict(in_channels=[64, 96, 256, 704]),
)
auto_scale_lr = dict(base_batch_size=128)
default_hooks = dict(checkpoint=dict(interval=1, by_epoch=True))
log_processor = dict(by_epoch=True)

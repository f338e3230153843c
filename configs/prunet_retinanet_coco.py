"""PruNet in MMDetection's own RetinaNet on COCO 2017: the backbone is not tied to one detector.

The recipe is prunet_effdet_coco.py's with RetinaNet's usual learning rate, 0.01 for a batch of 16.
The neck takes P0's stride-64 map as P6. On a GPU MMDetection's head needs mmcv's CUDA operators
(`python tools/doctor.py` says whether they are there); prunet_effdet_coco.py does not.
"""

_base_ = [
    "_base_/detection.py",
    "_base_/datasets/coco.py",
    "_base_/models/retinanet.py",
    "_base_/schedules/sgd_300e.py",
]

model = dict(
    neck=dict(out_channels=256, num_outs=5, relu_before_extra_convs=True),
    bbox_head=dict(stacked_convs=4, feat_channels=256),
)
optim_wrapper = dict(optimizer=dict(lr=0.08))
auto_scale_lr = dict(base_batch_size=128)
default_hooks = dict(checkpoint=dict(interval=1, by_epoch=True))
log_processor = dict(by_epoch=True)

"""PruNet in EfficientDet, from a detector of other classes, on a folder of a few hundred images.

    python tools/make_data.py capitals
    python tools/train.py configs/prunet_effdet_finetune.py \\
        --from checkpoints/prunet_demo_digits.safetensors
    python tools/train.py configs/prunet_effdet_finetune.py --data-root my_data --from WEIGHTS \\
        --cfg-options model.bbox_head.num_classes=3

A folder holds annotations/train.json and val.json in COCO's format, and the images in train/ and
val/. 400 iterations of 8 images are 16 epochs of 200 images; more images want more of them
(`--max-iters`). The backbone's norms are frozen. Where batches have less than 4 images, freeze
those of neck and head too (`model.norm_eval=True`), unless they start from random weights, as from
a classifier.
"""

_base_ = ["prunet_effdet.py"]

data_root = "data/capitals/"
image_size = (256, 256)
# The digits' crops in one step, for images of whatever shape, filled up to one with the mean.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, box_type=None),
    dict(
        type="RandomScaleCrop",
        scale=image_size,
        ratio_range=(0.8, 1.25),
        crop_size=image_size,
        pad_val=(104, 116, 124),
    ),
    dict(type="PackChannelsLast"),
]
data = dict(
    _delete_=True,
    type="CocoFolder",
    data_root=data_root,
    ann_file="annotations/train.json",
    data_prefix=dict(img="train/"),
    filter_cfg=dict(filter_empty_gt=True),  # of which no crop would be taken
    pipeline=train_pipeline,
)
held_out = dict(
    _delete_=True,
    type="CocoFolder",
    data_root=data_root,
    ann_file="annotations/val.json",
    data_prefix=dict(img="val/"),
    test_mode=True,
    pipeline=_base_.test_pipeline,
)
train_dataloader = dict(collate_fn=dict(type="padded_collate"), dataset=data)
val_dataloader = dict(dataset=held_out)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/val.json")
test_evaluator = val_evaluator

# A few hundred images give poor statistics: the backbone keeps those that it comes with.
model = dict(backbone=dict(norm_eval=True))

max_iters = 400
warmup = 50
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=0.02))
_base_.param_scheduler[0].end = _base_.param_scheduler[1].begin = warmup
_base_.custom_hooks[0].update(momentum=0.005, gamma=50)

"""COCO 2017, 512 px, with EfficientDet's augmentation: scale jitter 0.1 to 2.0, crop, flip.

Expected are data/coco/train2017, data/coco/val2017 and data/coco/annotations/instances_*2017.json;
another folder with `--data-root`.
"""

_base_ = ["coco_format.py"]

data_root = "data/coco/"
image_size = (512, 512)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, box_type=None),
    dict(
        type="RandomScaleCrop",
        scale=image_size,
        ratio_range=(0.1, 2.0),
        crop_size=image_size,
        flip_prob=0.5,
        pad_val=(104, 116, 124),
    ),
    dict(type="PackChannelsLast"),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=image_size)

train_dataloader = dict(
    batch_size=16,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="padded_collate"),
    dataset=dict(
        type="CocoFolder",
        data_root=data_root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    dataset=dict(
        type="CocoFolder",
        data_root=data_root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator

"""The embedded set `glyphs`: 90 characters over photographs, 512 px, sized like COCO's objects."""

_base_ = ["coco_format.py"]

data_root = "data/glyphs/"
image_size = (512, 512)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, box_type=None),
    dict(
        type="RandomScaleCrop",
        scale=image_size,
        ratio_range=(0.5, 1.5),
        crop_size=image_size,
        pad_val=(104, 116, 124),
    ),
    dict(type="PackChannelsLast"),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=image_size)

train_dataloader = dict(
    batch_size=16,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    collate_fn=dict(type="padded_collate"),
    dataset=dict(
        type="EmbeddedDataset",
        name="glyphs",
        data_root=data_root,
        ann_file="annotations/train.json",
        data_prefix=dict(img="train/"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    dataset=dict(
        type="EmbeddedDataset",
        name="glyphs",
        data_root=data_root,
        ann_file="annotations/val.json",
        data_prefix=dict(img="val/"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/val.json")
test_evaluator = val_evaluator

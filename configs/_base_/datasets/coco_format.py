"""What every set in COCO's format shares: a set gives its files, image size and batch.

All images of an evaluation fill one square, in pixels: what is found in an image does not depend on
the others of its batch, and an exported network gets the same. The filling is ImageNet's mean, BGR.

Without `num_workers` a loader has as many processes as there are cores to spare.
"""

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Letterbox", scale=(256, 256), pad_val=(104, 116, 124)),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
val_dataloader = dict(
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="CocoFolderMetric", metric="bbox")
test_evaluator = val_evaluator

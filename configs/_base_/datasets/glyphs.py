"""The embedded set `glyphs`: 90 characters over photographs, 512 px, sized like COCO's objects."""

_base_ = ["digits.py"]

data_root = "data/glyphs/"

train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=(512, 512), ratio_range=(0.5, 1.5))
train_pipeline[3].update(crop_size=(512, 512))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=(512, 512))

train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    dataset=dict(name="glyphs", data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    dataset=dict(name="glyphs", data_root=data_root, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/val.json")
test_evaluator = val_evaluator

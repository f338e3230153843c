"""The crops of an embedded set, 64 px. A config sets `name`, `data_root` and `num_classes`."""

_base_ = ["crop_transform.py"]

crop_transform = dict(_base_.crop_transform, re_prob=0.25)
plain_transform = dict(input_size=(3, 64, 64), crop_pct=1.0, interpolation="bilinear")

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="EmbeddedCrops", split="train", transform=crop_transform),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="EmbeddedCrops", split="val", transform=plain_transform),
)
test_dataloader = val_dataloader

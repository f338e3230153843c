"""EfficientDet: BiFPN and separable heads. Channels and strides follow the backbone."""

_base_ = ["one_stage.py"]

model = dict(
    neck=dict(type="BiFPN", channels=64, num_cells=3, num_levels=5),
    bbox_head=dict(type="EfficientDetHead", num_classes=80, repeats=3),
)

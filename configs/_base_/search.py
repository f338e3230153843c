"""What every search config shares: data, and the optimizer of the supernet's weights."""

_base_ = ["datasets/crop_transform.py"]

default_scope = "mmengine"
custom_imports = dict(imports=["prunet_det.classification"])
data = dict(dataset=dict(type="EmbeddedCrops", split="train", transform=_base_.crop_transform))
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.01, fused=True),
    clip_grad=dict(max_norm=5.0),
)

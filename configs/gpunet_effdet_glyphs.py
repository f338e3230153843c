"""GPUNet in EfficientDet on the embedded glyphs: prunet_effdet_glyphs.py with another backbone."""

_base_ = ["prunet_effdet_glyphs.py"]

model = dict(backbone=dict(arch="gpunet_1"))

"""GPUNet in EfficientDet on COCO 2017: prunet_effdet_coco.py with another backbone."""

_base_ = ["prunet_effdet_coco.py"]

model = dict(backbone=dict(arch="gpunet_1"))

"""configs/efficientnet_effdet_coco.py, in the folder that MMEngine's `prunet_det::` names want."""

_base_ = ["../efficientnet_effdet_coco.py"]

"""configs/prunet_effdet_coco.py, in the folder that MMEngine's `prunet_det::` names want."""

_base_ = ["../prunet_effdet_coco.py"]

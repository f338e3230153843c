"""configs/resnet10t_retinanet.py, in the folder that MMEngine's `prunet_det::` names want."""

_base_ = ["../resnet10t_retinanet.py"]

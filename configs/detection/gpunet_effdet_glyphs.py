"""configs/gpunet_effdet_glyphs.py, in the folder that MMEngine's `prunet_det::` names want."""

_base_ = ["../gpunet_effdet_glyphs.py"]

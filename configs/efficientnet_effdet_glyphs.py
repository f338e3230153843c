"""EfficientNet in EfficientDet on the glyphs: prunet_effdet_glyphs.py with another backbone."""

_base_ = ["prunet_effdet_glyphs.py"]

model = dict(backbone=dict(_delete_=True, type="TimmBackbone", name="efficientnet_b0"))

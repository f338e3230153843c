"""What every detector config shares."""

_base_ = ["default_runtime.py"]

custom_imports = dict(imports=["prunet_det.detection"])
default_scope = "mmdet"
default_hooks = dict(visualization=dict(type="DetVisualizationHook"))
visualizer = dict(type="DetLocalVisualizer")
auto_scale_lr = dict(enable=False, base_batch_size=16)

"""What every classification config shares."""

_base_ = ["default_runtime.py"]

custom_imports = dict(imports=["prunet_det.classification"])
default_scope = "mmengine"
visualizer = dict(
    type="Visualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)
auto_scale_lr = dict(enable=False, base_batch_size=64)
val_evaluator = dict(type="TopKAccuracy")
test_evaluator = val_evaluator

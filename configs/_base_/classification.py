"""What every classification config shares."""

_base_ = ["default_runtime.py"]

custom_imports = dict(imports=["prunet_det.classification"])
auto_scale_lr = dict(enable=False, base_batch_size=64)
val_evaluator = dict(type="TopKAccuracy")
test_evaluator = val_evaluator

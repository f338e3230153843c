"""PruNet as a classifier of the embedded digits' crops: minutes on two CPU cores.

python tools/train.py configs/classification/prunet_digits.py
"""

_base_ = [
    "../_base_/classification.py",
    "../_base_/datasets/crops.py",
    "../_base_/schedules/muon.py",
]

model = dict(
    type="Classifier",
    arch="prunet_demo",
    num_classes=10,
    label_smoothing=0.0,
    mixup=dict(mixup_alpha=0.2),
    channels_last=True,
)
data = dict(name="digits", data_root="data/digits/")
train_dataloader = dict(dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)

max_iters = 1600
warmup = 50
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
_base_.param_scheduler[0].end = _base_.param_scheduler[1].begin = warmup
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.005, priority=49)
]

"""PruNet as a classifier of the embedded glyphs' crops: 90 classes.

python tools/train.py configs/classification/prunet_glyphs.py
"""

_base_ = ["../_base_/classification.py", "../_base_/datasets/crops.py"]

model = dict(
    type="Classifier",
    arch="prunet_p0",
    num_classes=90,
    label_smoothing=0.0,
    mixup=dict(mixup_alpha=0.2),
    channels_last=True,
)
data = dict(name="glyphs", data_root="data/glyphs/")
train_dataloader = dict(dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)

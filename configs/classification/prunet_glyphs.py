"""PruNet as a classifier of the embedded glyphs' crops: 90 classes.

python tools/train.py configs/classification/prunet_glyphs.py
"""

_base_ = ["prunet_digits.py"]

model = dict(arch="prunet_p0", num_classes=90)
data = dict(name="glyphs", data_root="data/glyphs/")
train_dataloader = dict(dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)

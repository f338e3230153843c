"""EfficientDet on the backbone that a search found, on the embedded digits; `make demo` trains it.

    python tools/search_backbone.py configs/search/quick.py --budget-ms 0.35 \\
        --out work_dirs/demo/search
    python tools/train.py configs/prunet_effdet_searched.py --work-dir work_dirs/demo

The backbone starts with the weights that it has from the search.
"""

_base_ = ["prunet_effdet.py"]

searched = "work_dirs/demo/search/0.35ms/"
model = dict(
    backbone=dict(arch=searched + "arch.json", checkpoint=searched + "weights.safetensors")
)
max_iters = 1000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)

"""PruNet in EfficientDet on COCO 2017, the 300-epoch recipe.

    torchrun --nproc_per_node 8 tools/train.py configs/prunet_effdet_coco.py \\
        --launcher pytorch --amp --auto-scale-lr [--data-root DIR]

SGD with momentum 0.9, learning rate 0.16 for a batch of 128 (16 a GPU on 8 GPUs), one epoch of
linear warm-up, cosine decay over 300 epochs, weight decay 4e-5, gradients clipped at 10, EMA of
0.9998. One large card takes the whole batch of 128 (`train_dataloader.batch_size=128`, without
torchrun), and nothing else changes. It has been run for a few iterations only, on a small folder: a
recipe, not a result.
"""

_base_ = [
    "_base_/detection.py",
    "_base_/datasets/coco.py",
    "_base_/models/effdet.py",
    "_base_/schedules/sgd_300e.py",
]

auto_scale_lr = dict(base_batch_size=128)
default_hooks = dict(checkpoint=dict(interval=1, by_epoch=True))
log_processor = dict(by_epoch=True)

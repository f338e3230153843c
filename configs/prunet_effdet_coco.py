"""PruNet in EfficientDet on COCO 2017, the 300-epoch recipe.

    torchrun --nproc_per_node 8 tools/train.py configs/prunet_effdet_coco.py --launcher pytorch \\
        --amp --auto-scale-lr [--data-root DIR]

SGD with momentum 0.9, learning rate 0.16 for a batch of 128 (16 a GPU on 8 GPUs), one epoch of
linear warm-up, cosine decay over 300 epochs, weight decay 4e-5, gradients clipped at 10, EMA of
0.9998. It has been run for a few iterations only, on a small folder: a recipe, not a result.
"""

_base_ = ["_base_/detection.py", "_base_/datasets/coco.py", "_base_/models/effdet.py"]

max_epochs = 300
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=10)

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.16, momentum=0.9, weight_decay=4e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10.0),
)
auto_scale_lr = dict(base_batch_size=128)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=0.01,
        begin=0,
        end=1,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        begin=1,
        end=max_epochs,
        T_max=max_epochs - 1,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(checkpoint=dict(interval=1, by_epoch=True))
log_processor = dict(by_epoch=True)
custom_hooks = [
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0002, priority=49),
]

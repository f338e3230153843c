"""PruNet as a classifier of any ImageFolder, with ImageNet's recipe.

    torchrun --nproc_per_node 8 tools/train.py configs/classification/prunet_imagenet.py \\
        --data-root DIR --launcher pytorch --amp --auto-scale-lr [--teacher TIMM_NAME]

DIR holds `train` and `val`, each with one folder a class. 300 epochs of 256 images on 8 GPUs: LAMB
with 5e-3, weight decay 0.02, 5 epochs of warm-up and cosine decay; RandAugment, mixup 0.1, cutmix
1.0, binary cross-entropy, stochastic depth 0.05 (after timm's recipe A2, without its repeated
augmentation and with an EMA of 0.9998). `--teacher` distils as well: the published P0 and P1 were
trained that way. It has been run for a few iterations only, on a small folder: a recipe, not a
result. Of another batch than 2,048, `--auto-scale-lr` scales the rate by the square root, as LAMB's
authors do; the EMA's momentum goes with the batch (docs/training.md).
"""

_base_ = ["../_base_/classification.py"]

model = dict(
    type="Classifier",
    arch="prunet_p0",
    num_classes=1000,
    arch_args=dict(drop_path_rate=0.05),
    loss="binary_cross_entropy",
    label_smoothing=0.0,
    mixup=dict(mixup_alpha=0.1, cutmix_alpha=1.0),
    channels_last=True,
)
data_root = "data/imagenet/"
train_dataloader = dict(
    batch_size=256,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="ImageFolder",
        data_root=data_root,
        split="train",
        transform=dict(
            input_size=224,
            is_training=True,
            auto_augment="rand-m7-mstd0.5-inc1",
            interpolation="bicubic",
        ),
    ),
)
val_dataloader = dict(
    batch_size=256,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="ImageFolder",
        data_root=data_root,
        split="val",
        transform=dict(input_size=224, crop_pct=0.95, interpolation="bicubic"),
    ),
)
test_dataloader = val_dataloader

max_epochs = 300
warmup = 5
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="TimmLamb", lr=5e-3, weight_decay=0.02),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
auto_scale_lr = dict(base_batch_size=2048)
param_scheduler = [
    dict(
        type="LinearLR", start_factor=0.001, end=warmup, by_epoch=True, convert_to_iter_based=True
    ),
    dict(type="CosineAnnealingLR", begin=warmup, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=1, by_epoch=True))
log_processor = dict(by_epoch=True)
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.0002, priority=49)
]

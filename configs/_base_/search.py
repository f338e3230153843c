"""What every search config shares: data, optimizer of the network weights, hooks."""

_base_ = ["default_runtime.py"]

custom_imports = dict(imports=["prunet_det.classification", "prunet_det.search.optim"])
default_scope = "mmengine"
model = dict(channels_last=True, label_smoothing=0.0)
default_hooks = dict(checkpoint=None, logger=dict(type="LoggerHook", interval=50))
visualizer = dict(
    type="Visualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)
# No flips: a mirrored character is another one.
search_transform = dict(
    input_size=(3, 64, 64),
    is_training=True,
    scale=(0.8, 1.0),
    ratio=(0.9, 1.11),
    hflip=0.0,
    color_jitter=None,
    grayscale_prob=0.2,
    interpolation="bilinear",
)
search_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(type="EmbeddedCrops", split="train", transform=search_transform),
)

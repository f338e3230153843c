"""How crops of characters are trained on. No flips: a mirrored character is another one."""

crop_transform = dict(
    input_size=(3, 64, 64),
    is_training=True,
    scale=(0.8, 1.0),
    ratio=(0.9, 1.11),
    hflip=0.0,
    color_jitter=None,
    grayscale_prob=0.2,
    interpolation="bilinear",
)

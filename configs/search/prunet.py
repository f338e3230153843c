"""The full space, on crops of single glyphs: for a GPU, where five budgets take some minutes.

    python tools/search_backbone.py configs/search/prunet.py --budget-ms 0.5 0.65 0.83 1.09 1.8 \\
        --device v100 --batch 1 --input-size 512 --seed 0 --amp --out work_dirs/prunet

The frame (widths, strides, greatest depths) is that of the published PruNets, which are points of
the space; `--cfg-options space.width_factor=0.5` halves its outer widths for smaller budgets. Its
supernet has 717 million weights, 14 GB with moments, averages and gradients.
"""

_base_ = ["../_base_/search.py"]

space = dict(
    stem=32,
    tail=1984,
    hidden_step=32,
    most_expansion=8,
    kinds=("irb", "fused_irb"),
    kernels=(3, 5),
    acts=("relu",),
    se=(False,),
    width_factor=1.0,
    stages=[
        dict(width=32, depth=2, stride=1, kinds=("conv",)),
        dict(width=64, depth=3, stride=2, first_kinds=("conv",)),
        dict(width=96, depth=3, stride=2),
        dict(width=256, depth=3, stride=2),
        dict(width=704, depth=4, stride=2),
        dict(width=704, depth=1, stride=2),
    ],
)
data = dict(
    dataset=dict(
        name="single_glyphs",
        data_root="data/single_glyphs/",
        transform=dict(input_size=(3, 64, 64)),
    ),
    span=(0.0, 0.8),  # judge_glyphs.py scores on the rest, which chooses nothing here
)
search = dict(
    warmup=600,
    warmup_batch=128,
    paths=1000,
    tiers=250,
    batch=64,
    draws_batch=256,
    score_images=1024,
    checkpoint_interval=2000,  # 12 GB before candidates leave
)
finalists = dict(iterations=(150, 500), kept=(1,), evolved=2, random=1, proposed=1)
recipe = dict(batch_size=128, weight_decay=0.05, ema=0.99, norm_batches=20, capture=True)

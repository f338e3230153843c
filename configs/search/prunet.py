"""The full space, on the crops of the glyphs: for a GPU.

    python tools/search_backbone.py configs/search/prunet.py --budget-ms 0.83 --device v100 \\
        --batch 1 --input-size 512 --seed 0 --amp --out work_dirs/prunet

The frame (widths, strides, greatest depths) is that of the published PruNets, which are points of
the space; `--cfg-options space.width_factor=0.5` halves its outer widths for smaller budgets.
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
warmup, steps = 600, 1800
search = dict(warmup=warmup, steps=steps, temperature=(2.0, 0.3), checkpoint_interval=300)
# From scratch: the last tier's trainings, and those by which `compare` judges.

finals = dict(iterations=300)
search_dataloader = dict(
    batch_size=128,
    num_workers=12,
    dataset=dict(name="glyphs", data_root="data/glyphs/"),
)

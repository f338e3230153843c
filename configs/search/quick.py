"""A small search on the crops of the digits: about 5 minutes on 2 CPU cores.

    python tools/search_backbone.py configs/search/quick.py --budget-ms 0.65 --device v100 \\
        --batch 1 --input-size 512 --seed 0 --out work_dirs/quick

Its space reaches 0.24 to 1.30 ms on a V100 at 512 px, whatever the size of the crops that it trains
on (24 px).
"""

_base_ = ["../_base_/search.py"]

space = dict(
    stem=24,
    tail=256,
    hidden_step=16,
    stages=[
        dict(width=24, depth=1, stride=1, kinds=("conv",)),
        dict(width=40, depth=3, stride=2),
        dict(width=64, depth=4, stride=2),
        dict(width=128, depth=4, stride=2),
    ],
)
warmup, steps = 60, 240
search = dict(
    warmup=warmup,
    steps=steps,
    temperature=(2.0, 0.3),
    checkpoint_interval=85,
    # Cheaper steps than the full search's: narrower first pairs, operators chosen earlier.
    expansion=2.5,
    rule=dict(start=0.19),
    tiers=dict(blocks_begin=0.02, blocks_end=0.42),
)
# From scratch: the last tier's trainings, and those by which `compare` judges.
recipe = "../classification/digits_short.py"
finals = dict(iterations=80)
compare_recipe = "../classification/digits_compare.py"
search_dataloader = dict(
    batch_size=32,
    dataset=dict(name="digits", data_root="data/digits/", transform=dict(input_size=(3, 24, 24))),
)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
_base_.param_scheduler[0].update(start_factor=0.05, end=30)
_base_.param_scheduler[1].begin = 30

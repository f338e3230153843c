"""The zoo's prunet_n, t, s, m and l: one search for their five budgets, on two CPU cores.

    python tools/search_backbone.py configs/search/zoo.py --budget-ms 0.5 0.65 0.83 1.09 1.8 \\
        --device v100 --batch 1 --input-size 512 --seed 0 --out work_dirs/zoo \\
        --names prunet_n prunet_t prunet_s prunet_m prunet_l

The frame has the strides 2 to 32 that detectors take features at. It reaches from 0.27 to 2.9 ms:
at 0.5 ms random networks have two blocks a stage, of three times their input's width, and at 1.8 ms
four, of seven times. `tools/regenerate_zoo.sh` runs the command and replaces the zoo's files.
"""

_base_ = ["../_base_/search.py"]

space = dict(
    stem=32,
    tail=768,
    hidden_step=16,
    least_expansion=2,  # a narrow strided block is a bottleneck that nothing mends
    most_expansion=8,
    stages=[
        dict(width=32, depth=1, stride=1, kinds=("conv",)),
        dict(width=48, depth=3, stride=2),
        dict(width=88, depth=4, stride=2),
        dict(width=176, depth=6, stride=2),
        dict(width=320, depth=5, stride=2, kernels=(3,)),
    ],
)
data = dict(
    dataset=dict(
        name="single_digits",
        data_root="data/single_digits/",
        transform=dict(input_size=(3, 32, 32)),
    )
)
search = dict(
    warmup_batch=32,
    paths=500,
    tiers=120,
    batch=16,
    draws=6,
    draws_batch=48,
    score_images=128,
)
evolution = dict(evaluations=80)
finalists = dict(iterations=(), kept=())
optim_wrapper = dict(optimizer=dict(lr=3e-3))

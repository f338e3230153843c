"""The zoo's prunet_n, t, s, m and l as two CPU cores can search them, on 32 px crops of the digits.

    python tools/search_backbone.py configs/search/zoo.py --budget-ms 0.5 --device v100 --batch 1 \\
        --input-size 512 --seed 0 --cfg-options space.width_factor=0.375 --out work_dirs/prunet_n

The frame is the full space's (`prunet.py`), its outer widths scaled to the budget; to save time,
kernel 3 only in the two widest stages, inner widths up to 6 times the input, and no last tier.
"""

_base_ = ["quick.py"]

space = dict(
    _delete_=True,
    stem=32,
    tail=1280,
    hidden_step=16,
    most_expansion=6,
    width_factor=0.5,
    stages=[
        dict(width=32, depth=2, stride=1, kinds=("conv",)),
        dict(width=64, depth=3, stride=2, first_kinds=("conv",)),
        dict(width=96, depth=3, stride=2),
        dict(width=256, depth=3, stride=2),
        dict(width=704, depth=4, stride=2, kernels=(3,)),
        dict(width=704, depth=1, stride=2, kernels=(3,)),
    ],
)
finals = dict(iterations=0)
search_transform = dict(input_size=(3, 32, 32))
search_dataloader = dict(batch_size=24, dataset=dict(transform=search_transform))

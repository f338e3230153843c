"""The zoo's prunet_n, t, s, m and l, as two CPU cores search them: a short search on digit crops.

    python tools/search_backbone.py configs/search/zoo.py --budget-ms 0.5 --device v100 --batch 1 \\
        --input-size 512 --seed 0 --name prunet_n --cfg-options space.width_factor=0.75 --out DIR

The frame has the strides 2 to 32 that detectors take features at, and is narrower and deeper than
that of the published PruNets (`prunet.py`), which takes a GPU. `tools/regenerate_zoo.sh` holds the
five commands.
"""

_base_ = ["quick.py"]

space = dict(
    _delete_=True,
    stem=24,
    tail=768,
    hidden_step=16,
    least_expansion=2,  # a narrow strided block is a bottleneck that nothing mends
    most_expansion=6,
    stages=[
        dict(width=24, depth=1, stride=1, kinds=("conv",)),
        dict(width=40, depth=3, stride=2),
        dict(width=64, depth=3, stride=2),
        dict(width=112, depth=4, stride=2),
        dict(width=192, depth=4, stride=2, kernels=(3,)),
    ],
)
warmup, steps = 30, 120
search = dict(warmup=warmup, steps=steps, checkpoint_interval=150)
finals = dict(iterations=0)
search_dataloader = dict(batch_size=16, dataset=dict(transform=dict(input_size=(3, 32, 32))))

"""A search on a detector's own loss: some 20 minutes a budget on 2 CPU cores.

    python tools/search_backbone.py configs/search/effdet.py --budget-ms 1.05 1.2 \\
        --detector configs/prunet_effdet.py --scope detector --device v100

Data, augmentation, losses, neck and head are the detector's own; `--data DIR` is its `--data-root`,
and `--detector-options` override its settings. The last tier's trainings are the detector's recipe,
shortened.
"""

_base_ = ["../_base_/search.py"]

# The frame of prunet_demo, with more layers to choose from.
space = dict(
    stem=16,
    tail=256,
    hidden_step=16,
    stages=[
        dict(width=16, depth=1, stride=1, kinds=("conv",)),
        dict(width=32, depth=2, stride=2),
        dict(width=48, depth=3, stride=2),
        dict(width=96, depth=4, stride=2),
        dict(width=160, depth=3, stride=2),
    ],
)
search = dict(
    warmup=150,
    warmup_loss=0.7,
    warmup_batch=4,
    paths=250,
    tiers=60,
    batch=4,
    draws=6,
    draws_batch=8,
    score_images=48,
    checkpoint_interval=25,
)
evolution = dict(evaluations=40)
# Trainings go on from the supernet's weights, so that few iterations tell much.
finalists = dict(iterations=(100, 300), kept=(1,), evolved=1, random=1, proposed=0)

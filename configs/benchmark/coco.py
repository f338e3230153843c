"""COCO 2017 at 512 px, for whoever has it and the GPUs.

    python tools/benchmark.py --suite configs/benchmark/coco.py --data-root DIR --seeds 1 --out DIR

Detector and recipe are those of prunet_effdet_coco.py, 300 epochs; only the backbone differs. It
has been tried on a small folder in COCO format, never on COCO: a recipe, not a result. Its learning
rate is for a batch of 128; one process has 16 images, so it is scaled down here. All weights are
random at the start.
"""

config = "configs/prunet_effdet_coco.py"
options = {"optim_wrapper.optimizer.lr": 0.02}
seeds = 3
amp = True
learning_rates = [0.01, 0.02, 0.04]
models = dict(
    prunet=[(f"prunet_{n}", 512) for n in ("n", "t", "s", "m", "l", "p0", "p1")],
    gpunet=[(f"gpunet_{n}", 512) for n in ("0", "1", "2", "d1", "d2")],
    efficientnet=[(f"efficientnet_b{n}", 512) for n in (0, 1, 2)],
)

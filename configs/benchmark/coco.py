"""COCO 2017 at 512 px, for whoever has it and the GPUs.

    python tools/benchmark.py --suite configs/benchmark/coco.py --data-root DIR --seeds 1 --out DIR

Detector and recipe are those of prunet_effdet_coco.py, 300 epochs; only the backbone differs. It
has been tried on a small folder in COCO format, never on COCO: a recipe, not a result. Its learning
rate is for a batch of 128; one process has 16 images, so it is scaled down here. All weights are
random at the start.
"""

_base_ = ["glyphs.py"]

config = "configs/prunet_effdet_coco.py"
options = {"optim_wrapper.optimizer.lr": 0.02}
learning_rates = [0.01, 0.02, 0.04]

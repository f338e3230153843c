"""The embedded digits on a CPU: three points a family, each run within four minutes.

    python tools/benchmark.py --suite configs/benchmark/digits.py --seeds 2 --jobs 2 --out DIR

Detector and recipe are those of prunet_effdet.py, shortened; only the backbone and the input size
differ. All weights are random at the start: no pretrained ones exist here for any of the families.
"""

config = "configs/prunet_effdet.py"
max_iters = 400
options = {"train_dataloader.batch_size": 4}
seeds = 2
threads = 1
learning_rates = [0.005, 0.01, 0.02]
models = dict(
    prunet=[("prunet_demo", 128), ("prunet_demo", 160), ("prunet_demo", 192)],
    gpunet=[("gpunet_0", 128), ("gpunet_0", 160), ("gpunet_0", 192)],
    efficientnet=[("efficientnet_b0", 128), ("efficientnet_b0", 160), ("efficientnet_b0", 192)],
)

"""The embedded digits on a CPU: three points a family, each run within four minutes on one thread.

    python tools/benchmark.py --suite configs/benchmark/digits.py --seeds 2 --jobs 2 --out DIR

Detector and recipe are those of prunet_effdet.py, shortened and at 128 px; only the backbone
differs. GPUNet-0 and EfficientNet-B0 are too large to learn anything here in four minutes, so they
come at a part of their width (prunet_det/benchmark/narrow.py): this suite shows that the benchmark
works, and says nothing about the published networks. All weights are random at the start.
"""

_networks = "configs/benchmark/networks"
config = "configs/prunet_effdet.py"
max_iters = 800
crop = 0.5
options = {"train_dataloader.batch_size": 8}
seeds = 2
threads = 1
learning_rates = [0.005, 0.01, 0.02]
models = dict(
    prunet=[("prunet_demo", 192), ("prunet_demo", 224), ("prunet_demo", 256)],
    gpunet=[(f"{_networks}/gpunet_0_w{w}.json", 256) for w in (250, 300, 375)],
    efficientnet=[(f"{_networks}/efficientnet_b0_w{w}.json", 256) for w in (375, 500, 625)],
)

"""The embedded digits on a CPU: three points a family, each run within four minutes on one thread.

    python tools/benchmark.py --suite configs/benchmark/digits.py --seeds 2 --jobs 2 --out DIR

Detector and recipe are those of prunet_effdet.py with fewer iterations and images; only the
backbone differs. GPUNet-0 and EfficientNet-B0 are too large to learn anything here in four minutes,
so they come at a part of their width (prunet_det/benchmark/narrow.py): this suite shows that the
benchmark works, and says nothing about the published networks. All weights are random at the start:
no pretrained ones exist here for any of the families.
"""

_networks = "configs/benchmark/networks"
config = "configs/prunet_effdet.py"
max_iters = 400
options = {
    "train_dataloader.batch_size": 4,
    "param_scheduler.0.end": 40,  # a warm-up of a tenth
    "param_scheduler.1.begin": 40,
}
seeds = 2
threads = 1
learning_rates = [0.01, 0.02]
models = dict(
    prunet=[("prunet_demo", 192), ("prunet_demo", 224), ("prunet_demo", 256)],
    gpunet=[(f"{_networks}/gpunet_0_w{w}.json", 256) for w in (200, 250, 300)],
    efficientnet=[(f"{_networks}/efficientnet_b0_w{w}.json", 256) for w in (250, 375, 500)],
)

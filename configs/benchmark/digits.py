"""The embedded digits on a CPU: three input sizes a family, each within four minutes on one thread.

    python tools/benchmark.py --suite configs/benchmark/digits.py --seeds 2 --jobs 2 --out DIR

Detector and recipe are those of prunet_effdet.py at about half its input size, without P6, with
one cell in the neck, one convolution in the head, and fewer iterations; only the backbone
differs. Networks of the zoo are too large to learn anything here in four minutes, so one of each
family comes at a part of its width (tools/experiments/narrow_networks.py): this suite shows that
the benchmark works, and says nothing about the networks in full. All weights are random at the
start: no pretrained ones exist here for any of the families.
"""

config = "configs/prunet_effdet.py"
max_iters = 480
options = {
    "model.neck.num_cells": 1,
    "model.neck.num_levels": 3,
    "model.bbox_head.repeats": 1,
    "model.test_cfg.max_points": 1000,
    "optim_wrapper.optimizer.lr": 0.04,
    "param_scheduler.0.end": 48,  # a warm-up of a tenth
    "param_scheduler.1.begin": 48,
}
seeds = 2
threads = 1
learning_rates = [0.02, 0.04]
_networks = dict(
    prunet="prunet_n_w625",
    gpunet="gpunet_0_w300",
    efficientnet="efficientnet_b0_w250",
)
models = {
    family: [(f"configs/benchmark/networks/{name}.json", size) for size in (112, 128, 144)]
    for family, name in _networks.items()
}

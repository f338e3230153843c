"""The embedded digits on a CPU: three widths a family, 3 to 7 minutes a run on one thread.

    python tools/benchmark.py --suite configs/benchmark/digits.py --jobs 2 --out DIR

Detector and data are those of prunet_effdet.py at 192 px, lighter: without P6, with one cell of 48
channels in the neck and one convolution in the head. An iteration has 4 images: as many pixels in
smaller images, or in fewer and larger batches, gave less mAP. In such batches the norms' statistics
differ from batch to batch, and an EfficientNet scored worse by averaged ones than by the batch's:
they are fixed before the end, for all families.

Networks of the zoo are too large for so short a training: the smallest of each family comes at
three parts of its width, EfficientNet's at half its depth too, which are predicted to take about
1.6, 3.1 and 4.9 ms in all families (tools/experiments/narrow_networks.py). So the suite says which
blocks are worth their milliseconds in small networks on a CPU, and nothing about the networks in
full. Its recipe was chosen on a tenth of the training images that was kept from training; the test
images were not looked at.
All weights are random at the start: no pretrained ones exist here for any of the families.
"""

config = "configs/prunet_effdet.py"
max_iters = 2400
_average = dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.005, gamma=200, priority=49)
options = {
    "train_dataloader.batch_size": 4,
    "train_dataloader.num_workers": 0,  # a run is one process, on one core
    "train_dataloader.persistent_workers": False,
    "test_dataloader.num_workers": 0,
    "test_dataloader.persistent_workers": False,
    "model.neck.num_cells": 1,
    "model.neck.channels": 48,
    "model.neck.num_levels": 3,
    "model.bbox_head.repeats": 1,
    "model.test_cfg.max_points": 1000,
    "optim_wrapper.optimizer.lr": 0.02,
    "param_scheduler.0.end": 240,  # a warm-up of a tenth
    "param_scheduler.1.begin": 240,
    "custom_hooks": [_average, dict(type="FreezeNormsHook", begin=0.6)],
}
seeds = 3
threads = 1
learning_rates = [0.01, 0.02, 0.04]
_shares = dict(
    prunet=("prunet_n", (250, 375, 525)),
    gpunet=("gpunet_0", (200, 325, 375)),
    efficientnet=("efficientnet_b0", ("350_d500", "630_d500", "860_d500")),
)
models = {
    family: [(f"configs/benchmark/networks/{name}_w{share}.json", 192) for share in shares]
    for family, (name, shares) in _shares.items()
}

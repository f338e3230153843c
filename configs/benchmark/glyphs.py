"""The embedded glyphs on a GPU, at 320 px in mixed precision: a minute or two a training.

    python tools/benchmark.py --suite configs/benchmark/glyphs.py --out DIR [--max-minutes 10]

Detector and data are those of prunet_effdet_glyphs.py; only the backbone differs. 500 iterations of
64 images are 4 epochs, with learning rate and average scaled as docs/training.md says. The first
networks of the families come first, with each seed, so that whenever the time is over families have
as many runs, but for the last. All weights are random at the start: no pretrained ones exist here
for any of the families. No GPU has run it yet. Without CUDA it runs in single precision, as another
recipe, and takes days.
"""

config = "configs/prunet_effdet_glyphs.py"
max_iters = 500
_average = dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.004, gamma=100, priority=49)
options = {
    "train_dataloader.batch_size": 64,
    "optim_wrapper.optimizer.lr": 0.02,
    "param_scheduler.0.end": 50,  # a warm-up of a tenth
    "param_scheduler.1.begin": 50,
    "custom_hooks": [_average],
}
seeds = 3
amp = True
learning_rates = [0.01, 0.02, 0.04]
models = dict(
    prunet=[(f"prunet_{n}", 320) for n in ("s", "m", "p0", "n")],
    gpunet=[(f"gpunet_{n}", 320) for n in ("0", "1")],
    efficientnet=[(f"efficientnet_b{n}", 320) for n in (0, 1)],
)

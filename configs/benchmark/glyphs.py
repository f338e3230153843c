"""The embedded glyphs on a GPU: the whole zoo beside EfficientNet, at 512 px, in mixed precision.

    python tools/benchmark.py --suite configs/benchmark/glyphs.py --seeds 3 --out DIR

Detector and recipe are those of prunet_effdet_glyphs.py; only the backbone differs. All weights are
random at the start: no pretrained ones exist here for any of the families. Without CUDA it runs in
single precision, as another recipe, and takes days.
"""

config = "configs/prunet_effdet_glyphs.py"
seeds = 3
amp = True
learning_rates = [0.005, 0.01, 0.02]
models = dict(
    prunet=[(f"prunet_{n}", 512) for n in ("n", "t", "s", "m", "l", "p0", "p1")],
    gpunet=[(f"gpunet_{n}", 512) for n in ("0", "1", "2", "d1", "d2")],
    efficientnet=[(f"efficientnet_b{n}", 512) for n in (0, 1, 2)],
)

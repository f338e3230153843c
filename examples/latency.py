# %% [markdown]
# # Latency
#
# Milliseconds mean something only together with their conditions. A `Latency` holds both, whether
# it was predicted for a device that is not here or measured on this one.

# %%
import os

from prunet_det.latency import predict, spec_kernels
from prunet_det.latency.measure import local_conditions, measure
from prunet_det.latency.predict import predict_named
from prunet_det.runtime.subject import load_subject

quick = bool(os.environ.get("QUICK"))  # the tests run this page small

# %% [markdown]
# ## Predicted
#
# What does PruNet-P0 take as a backbone at 512 px, on a V100 with TensorRT in FP16? The band is the
# worst error on networks that the device's constants were not fitted to.

# %%
found = predict("prunet_p0", "v100", batch=1, input_size=512)
print(found.latency.conditions)
print(f"{found.latency.ms:.3f} ms, between {found.latency.low:.3f} and {found.latency.high:.3f}")
for part, ms in found.breakdown.items():
    print(f"  {part}: {ms:.3f} ms")

# %% [markdown]
# Any network of timm can be priced, too: it is traced, not run. A warning says where it is unlike
# those that the device was calibrated on.

# %%
for name in (
    ("prunet_p0", "gpunet_1") if quick else ("prunet_p0", "gpunet_1", "resnet50", "efficientnet_b0")
):
    prediction = predict_named(name, "v100")
    print(f"{name}: {prediction.latency}", *prediction.warnings)

# %% [markdown]
# A network is a list of kernels, and its time is mostly theirs. These have the most arithmetic:

# %%
from prunet_det import load_spec

kernels = spec_kernels(load_spec("prunet_p0"), 512)
for kernel in sorted(kernels, key=lambda k: k.macs, reverse=True)[:3]:
    print(f"{kernel.name}: {kernel.macs / 1e9:.2f} GMACs")

# %% [markdown]
# ## Measured
#
# One stopwatch times several networks in turn, so that a drifting clock affects all alike. Before a
# network is timed, its outputs are held to those of eager PyTorch.

# %%
conditions = local_conditions(threads=1)
names = ["prunet_demo"] if quick else ["prunet_demo", "prunet_n", "efficientnet_b0"]
subjects = [load_subject(name, "backbone", 64 if quick else 256) for name in names]
print(conditions)
for measurement in measure(subjects, conditions, seconds=0.2 if quick else 2.0):
    print(f"{measurement.latency.model}: {measurement.latency}", measurement.latency.note)

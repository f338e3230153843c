# %% [markdown]
# # A backbone
#
# The networks are timm models: a classifier, a set of feature maps, or a file that you can edit.
# This page needs torch and timm alone.

# %%
import os

import timm
import torch

import prunet_det

size = 64 if os.environ.get("QUICK") else 224  # pixels; the tests run this page small
prunet_det.model_names()

# %% [markdown]
# ## A classifier
#
# Importing `prunet_det` has registered the networks with timm. No pretrained weights are shipped:
# these are random.

# %%
model = timm.create_model("prunet_p0", num_classes=10).eval()
images = torch.randn(2, 3, size, size)
with torch.no_grad():
    print(model(images).shape)  # (2, 10)

# %% [markdown]
# ## Feature maps
#
# `out_indices` counts from stride 2; P0 and P1 go down to stride 64.

# %%
features = timm.create_model("prunet_p0", features_only=True, out_indices=(2, 3, 4, 5)).eval()
with torch.no_grad():
    for stride, channels, feature in zip(
        features.feature_info.reduction(),
        features.feature_info.channels(),
        features(images),
        strict=True,
    ):
        print(f"stride {stride}: {channels} channels, {tuple(feature.shape)}")

# %% [markdown]
# ## An architecture is data
#
# An `ArchSpec` says what a network is, block by block. It goes to a JSON file and back, and a
# change of it is another network. Here every width of P0 is halved:

# %%
from dataclasses import replace

from prunet_det.arch.scaling import scale_width

spec = prunet_det.load_spec("prunet_p0")
narrow = replace(scale_width(spec, 0.5), name="narrow_p0")
narrow.save("narrow_p0.json")

network = prunet_det.create("narrow_p0.json", num_classes=10)
for name, net in (("prunet_p0", model), ("narrow_p0", network)):
    print(f"{name}: {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M parameters")

# %% [markdown]
# ## Weights
#
# `create` takes a file of weights in any usual container, and refuses one that does not fit.

# %%
from safetensors.torch import save_file

save_file(network.state_dict(), "narrow_p0.safetensors")
again = prunet_det.create("narrow_p0.json", checkpoint="narrow_p0.safetensors", num_classes=10)
assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))

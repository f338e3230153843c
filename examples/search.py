# %% [markdown]
# # A search
#
# Which network of a space is the best for 0.35 ms on a V100? The search trains all of them at once,
# in a supernet, and prunes: inner widths, kinds of blocks, layers. On crops of the embedded digits
# it takes some minutes on 2 cores.

# %%
import os

from prunet_det.search.session import SearchOptions, run_search

quick = bool(os.environ.get("QUICK"))  # the tests run this page small
small = {
    "search_dataloader.batch_size": 8,
    "search_dataloader.num_workers": 0,
    "search_dataloader.dataset.transform.input_size": (3, 16, 16),
    "search.warmup": 1,
    "search.steps": 4,
    "search.checkpoint_interval": 5,
    "param_scheduler": [],
}

# %% [markdown]
# The budget is a latency with its conditions: here predicted for the backbone at 512 px and batch
# 1. `device="here"` measures this machine first. `data="my_images"` searches on your own images, in
# one folder for each class under `my_images/train`.

# %%
options = SearchOptions(
    config="search/quick.py",
    budget_ms=0.35,
    device="v100",
    input_size=512,
    out="work_dirs/example_search",
    resume=True,  # goes on where it stopped
    no_finals=quick,
    cfg_options=small if quick else None,
)
result, folder = run_search(options, command="python examples/search.py")
print("\n".join(result.lines()))

# %% [markdown]
# `report.md` in the folder shows how it was found. The result is an architecture and the weights
# that it inherits from the supernet, and nothing of the search is needed to use them:

# %%
import prunet_det
from prunet_det.latency import predict

network = prunet_det.create(folder / "arch.json", checkpoint=folder / "weights.safetensors")
latency = predict(folder / "arch.json", "v100", input_size=512).latency
print(f"{latency.ms:.3f} ms, {latency.ms / options.budget_ms:.1%} of the budget")

# %% [markdown]
# In a detector:
#
#     prunet train prunet_effdet.py --cfg-options \
#         model.backbone.arch=work_dirs/example_search/arch.json \
#         model.backbone.checkpoint=work_dirs/example_search/weights.safetensors

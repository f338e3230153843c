# %% [markdown]
# # A search
#
# Which networks of a space are the best for 0.35 and 0.5 ms on a V100? The search trains all of
# them at once, in a supernet, and prunes: inner widths, kinds of blocks, layers. On crops of the
# embedded digits it takes some minutes on 2 cores.

# %%
import os

from prunet_det.search import SearchConfig, search

quick = bool(os.environ.get("QUICK"))  # the tests run this page small
small = {
    "search.warmup": 1,
    "search.paths": 1,
    "search.tiers": 2,
    "search.score_images": 16,
    "evolution.evaluations": 4,
    "finalists.iterations": (4,),
    "finalists.kept": (),
    "finalists.random": 1,
    "recipe.batch_size": 8,
    "data.classes": 2,
}

# %% [markdown]
# A budget is a latency with its conditions: here predicted for the backbone at 512 px and batch 1.
# `device="here"` measures this machine first. `data="my_images"` searches on your own images, in
# one folder for each class under `my_images/train`.

# %%
config = SearchConfig.from_file(
    "search/quick.py",
    budget_ms=[0.35, 0.5],
    device="v100",
    out="work_dirs/example_search",
    resume=True,  # goes on where it stopped
    options=small if quick else None,
)
result = search(config)
print("\n".join(result.lines))

# %% [markdown]
# `report.md` in the folder shows how they were found. A network is an architecture and the weights
# that it has from the search, and nothing of the search is needed to use them:

# %%
network = result.networks[0.5].build()

import prunet_det
from prunet_det.latency import predict

folder = "work_dirs/example_search/0.5ms"
same = prunet_det.create(f"{folder}/arch.json", checkpoint=f"{folder}/weights.safetensors")
latency = predict(f"{folder}/arch.json", "v100", input_size=512).latency
print(f"{latency.ms:.3f} ms, {latency.ms / 0.5:.1%} of the budget")

# %% [markdown]
# A further budget costs no training of the supernet:
#
#     search(SearchConfig.from_file("search/quick.py", budget_ms=0.42, device="v100",
#                                   out="work_dirs/example_search", resume=True))
#
# In a detector:
#
#     prunet train prunet_effdet.py --cfg-options \
#         model.backbone.arch=work_dirs/example_search/0.5ms/arch.json \
#         model.backbone.checkpoint=work_dirs/example_search/0.5ms/weights.safetensors

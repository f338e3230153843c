"""The recipe that networks of one latency are compared by: `digits_short.py` at half its learning
rate, where trainings of one network differ least.

python tools/search_backbone.py compare --config configs/search/quick.py --budget-ms 0.5 --out DIR
"""

_base_ = ["digits_short.py"]

optim_wrapper = dict(optimizer=dict(lr=1.5e-3))

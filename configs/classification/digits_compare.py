"""The recipe of the first comparison of searches, by 200 steps: `digits_short.py` at half its
learning rate, where trainings of one network differ least. `configs/search/judge_quick.py` judges
now.
"""

_base_ = ["digits_short.py"]

optim_wrapper = dict(optimizer=dict(lr=1.5e-3))

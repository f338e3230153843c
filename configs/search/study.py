"""The search that docs/method.md compares with chance: `quick.py` on crops of 90 glyphs.

    python tools/search_backbone.py configs/search/study.py --budget-ms 0.5 0.83 --seed 0 \\
        --out work_dirs/study_0

It sees four fifths of the crops; `judge_quick.py` scores on the rest.
"""

_base_ = ["quick.py"]

data = dict(
    dataset=dict(name="single_glyphs", data_root="data/single_glyphs/"),
    span=(0.0, 0.8),
)
# The settings that were judged.
finalists = dict(iterations=(200, 800), random=4, proposed=3)

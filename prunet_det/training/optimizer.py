"""timm's optimizers that torch lacks, for mmengine's configs: `TimmMuon` and `TimmLamb`.

Muon orthogonalises the update of every weight matrix (a convolution is flattened to one) and leaves
norms and biases to AdamW, whose learning rate is of the same size (`match_rms_adamw`). Detectors
that start from random weights learn from it in far fewer iterations.
"""

from __future__ import annotations

from mmengine.registry import OPTIMIZERS
from timm.optim import Lamb, Muon

for _optimizer in (Lamb, Muon):
    OPTIMIZERS.register_module(module=_optimizer, name=f"Timm{_optimizer.__name__}")

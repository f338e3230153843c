"""timm's Muon for mmengine's configs, as `TimmMuon`.

Muon orthogonalises the update of every weight matrix (a convolution is flattened to one) and leaves
norms and biases to AdamW, whose learning rate is of the same size (`match_rms_adamw`). Detectors
that start from random weights learn from it in far fewer iterations.
"""

from __future__ import annotations

from mmengine.registry import OPTIMIZERS
from timm.optim import Muon

OPTIMIZERS.register_module(module=Muon, name="TimmMuon")

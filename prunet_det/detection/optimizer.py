"""timm's Muon for mmengine's configs, as `TimmMuon`.

Muon orthogonalises the update of every weight matrix (a convolution is flattened to one) and leaves
norms and biases to AdamW. From random weights the detector's loss after 300 iterations is what
AdamW needs about 850 for; the figures are in docs/training.md.
"""

from __future__ import annotations

from mmengine.registry import OPTIMIZERS
from timm.optim import Muon

OPTIMIZERS.register_module(module=Muon, name="TimmMuon")

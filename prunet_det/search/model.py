"""A supernet under mmengine's contract."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from prunet_det.search.layer import LayerMixture
from prunet_det.search.old_supernet import SuperNet


@MODELS.register_module()
class SearchModel(BaseModel):
    """A supernet under mmengine's contract.

    Args:
        supernet: The network.
        channels_last: Run it in channels-last memory format.
        label_smoothing: Of the cross-entropy.
    """

    def __init__(
        self, supernet: SuperNet, channels_last: bool = True, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.supernet = supernet
        self.channels_last = channels_last
        self.criterion = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def forward(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor | None = None,
        mode: str = "loss",
        mixtures: list[LayerMixture | None] | None = None,
    ) -> Any:
        """The loss of a batch under a mixture a layer (`loss`), or the logits (`tensor`)."""
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        logits = self.supernet(inputs, mixtures or [])
        if mode == "tensor":
            return logits
        assert labels is not None, "a loss needs labels"
        return {"loss": self.criterion(logits, labels)}

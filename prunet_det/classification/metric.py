"""Top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS


@METRICS.register_module()
class TopKAccuracy(BaseMetric):
    """Shares of images whose class is among the k likeliest, for k of 1 and 5.

    Reports `accuracy/top1` and, with more than five classes, `accuracy/top5`, in 0..1.
    """

    default_prefix = "accuracy"

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Notes how many classes were thought at least as likely as the true one.

        Ties count against the network, so that one which says the same of every class scores 0.

        Args:
            data_batch: Not used.
            data_samples: Dicts with `scores`, (classes,), and `label`.
        """
        for sample in data_samples:
            scores, label = sample["scores"], int(sample["label"])
            finite = bool(scores.isfinite().all())
            rank = int((scores >= scores[label]).sum()) - 1 if finite else len(scores)
            self.results.append((rank, len(scores)))

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        """Over the results of all processes."""
        ks = (1, 5) if results[0][1] > 5 else (1,)
        return {f"top{k}": sum(rank < k for rank, _ in results) / len(results) for k in ks}

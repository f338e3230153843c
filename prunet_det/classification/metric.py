"""Top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS


@METRICS.register_module()
class TopKAccuracy(BaseMetric):
    """Fraction of images, 0..1, whose class is among the k classes with the highest scores.

    Reports `accuracy/top1` and, with more than five classes, `accuracy/top5`.
    """

    default_prefix = "accuracy"

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Stores the rank of the true class of each image.

        Ties count against the network, so that equal scores for all classes give an accuracy of 0;
        scores that are not finite count as wrong.

        Args:
            data_batch: Not used.
            data_samples: One dict per image, with `scores`, (num_classes,), and `label`.
        """
        for sample in data_samples:
            scores, label = sample["scores"], int(sample["label"])
            finite = bool(scores.isfinite().all())
            rank = int((scores >= scores[label]).sum()) - 1 if finite else len(scores)
            self.results.append((rank, len(scores)))

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        """Computes the accuracies from the (rank, number of classes) of all images."""
        ks = (1, 5) if results[0][1] > 5 else (1,)
        return {f"top{k}": sum(rank < k for rank, _ in results) / len(results) for k in ks}

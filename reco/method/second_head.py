"""A control for ReCo: the same head on the same pixels, with a plain cross-entropy as its loss.

It answers whether a gain is ReCo's, or that of any second loss on hard pixels of all classes alike:
`configs/studies/second_loss.yaml`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reco import IGNORE, distributed
from reco.loss import (
    ReCoOptions,
    ReCoStatistics,
    class_means,
    label_confidence,
    relation_graph,
    sample_queries,
    sort_pixels,
)


class SampledCrossEntropy(nn.Module):
    """Cross-entropy of the second head on the queries that ReCo would sample, averaged as Eq. 1 is.

    Args:
        options: of the queries; those of keys and temperatures have no effect.
    """

    def __init__(self, options: ReCoOptions) -> None:
        super().__init__()
        self.options = options

    def with_statistics(
        self,
        representations: Tensor,
        logits: Tensor,
        labels: Tensor,
        *,
        valid: Tensor,
        key_pixels: Tensor | None = None,
    ) -> tuple[Tensor, ReCoStatistics]:
        """The loss of one batch, and statistics of it; those of similarities are NaN.

        Args:
            representations: ``(B, C, h, w)``: the second head has an output for each class.
            logits: ``(B, C, h, w)`` of the first head, by which hard pixels are found.
            labels: ``(B, h, w)`` int64, IGNORE where unknown.
            valid: ``(B, h, w)`` bool: pixels that take part.
            key_pixels: has no effect, since there are no keys.
        """
        num_classes, num_queries = logits.shape[1], self.options.num_queries
        with torch.no_grad():
            classes = torch.where(valid & (labels != IGNORE), labels, num_classes)
            hard = label_confidence(logits, classes) <= self.options.strong_threshold
            table = sort_pixels(classes.flatten(), hard.flatten(), num_classes)
            counts = table.bucket_counts().sum(1)
            positions, has_queries = sample_queries(
                table, num_queries, query_sampling=self.options.query_sampling
            )
            rows, here = table.locate(positions)  # (C, Q)
            counted = here & has_queries[:, None]
            graph = relation_graph(class_means(representations.detach(), classes, counts))

        pixels = representations.permute(0, 2, 3, 1).flatten(0, 2).float()
        scores = pixels.index_select(0, rows.flatten())
        owners = torch.arange(num_classes, device=rows.device).repeat_interleave(num_queries)
        terms = F.cross_entropy(scores, owners, reduction="none").view_as(rows)
        present = counts > 0
        total = torch.where(counted, terms, 0.0).sum() / num_queries
        loss = total / present.sum().clamp(min=1) * distributed.world_size()

        with torch.no_grad():
            sampled = torch.zeros(classes.numel() + 1, dtype=torch.bool, device=rows.device)
            sampled[torch.where(counted, rows, classes.numel())] = True
            valid_pixels = (classes < num_classes).sum()
            nothing = loss.new_full((), torch.nan)
            statistics = ReCoStatistics(
                relation_graph=torch.where(present[:, None] & present, graph, torch.nan),
                present=present,
                hard_share=table.bucket_counts()[:, 0] / counts,
                sampled_share=sampled[:-1].sum() / valid_pixels.clamp(min=1),
                valid_pixels=valid_pixels,
                labels_out_of_range=torch.zeros_like(valid_pixels),
                positive_similarity=nothing,
                negative_similarity=nothing,
            )
        return loss, statistics

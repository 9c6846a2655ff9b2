"""Eq. 1-4 of the paper as loops over classes and queries, without code of `loss.py`.

The tests compare :class:`reco.loss.ReCoLoss` with it, given the same pixels, and the benchmark
measures how much faster the loss is.

Shapes:
    B images; C classes; D representation channels; h x w feature map; H x W label size;
    Q queries per class and K negatives per query. A pixel is named by its row
    ``(image * h + y) * w + x``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reco import IGNORE
from reco.loss import ReCoOptions


def reference_loss(
    representations: Tensor,
    logits: Tensor,
    labels: Tensor,
    options: ReCoOptions = ReCoOptions(),
    *,
    valid: Tensor | None = None,
    key_pixels: Tensor | None = None,
    negative_classes: Collection[int] | None = None,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = IGNORE,
    query_rows: Mapping[int, Tensor] | None = None,
    key_rows: Mapping[int, Tensor] | None = None,
    **changes: Any,
) -> Tensor:
    """The ReCo loss; arguments as for ``ReCoLoss``.

    Negatives are sampled for each query, whatever ``options.negatives`` says.

    Args:
        query_rows: for each class with queries the pixels ``(Q,)`` to take, instead of random ones.
        key_rows: for each such class the negatives ``(Q, K)`` to take, likewise.

    Returns:
        A scalar; 0 without a graph where no class has both queries and negatives.
    """
    options = replace(options, **changes)
    _, dimension, height, width = representations.shape
    pixels = representations.permute(0, 2, 3, 1).reshape(-1, dimension)
    labels = _nearest(labels, height, width).flatten()
    if valid is not None:
        labels = torch.where(_nearest(valid, height, width).flatten(), labels, ignore_index)
    if logits.shape[2:] != (height, width):
        logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
    num_classes = logits.shape[1]
    probabilities = logits.detach().softmax(1).permute(0, 2, 3, 1).reshape(-1, num_classes)

    members, key_members = {}, {}  # pixels of a class, and those that keys come from
    for c in range(num_classes):
        if c != ignore_index and (labels == c).any():
            members[c] = (labels == c).nonzero()[:, 0]
            key_members[c] = members[c]
            if key_pixels is not None:
                may_be_key = _nearest(key_pixels, height, width).flatten()
                key_members[c] = members[c][may_be_key[members[c]]]
    key_members = {c: rows for c, rows in key_members.items() if len(rows)}
    means = {}
    for c, rows in key_members.items():
        mean = pixels[rows].mean(0)
        means[c] = mean if options.gradient_through_means else mean.detach()

    loss = representations.new_zeros(())
    total_weight = 0.0
    for c, rows in members.items():
        weight = 1.0 if class_weights is None else float(class_weights[c])
        total_weight += weight

        # R_q^c (Eq. 4)
        confidence = probabilities[rows, c]
        if options.query_sampling == "hard":
            candidates = rows[confidence <= options.strong_threshold]
        elif options.query_sampling == "easy":
            candidates = rows[confidence > options.strong_threshold]
        else:
            candidates = rows
        # The classes of R_k^c, and how likely each is (Eq. 3)
        others = [j for j in key_members if j != c]
        if negative_classes is not None:
            others = [j for j in others if j in negative_classes]
        if len(candidates) == 0 or len(others) == 0 or c not in key_members:
            continue
        if options.key_sampling == "active":
            cosines = [F.cosine_similarity(means[c], means[j], dim=0).detach() for j in others]
            chances = (torch.stack(cosines) / options.relation_temperature).softmax(0)
        else:
            chances = torch.tensor([float(len(key_members[j])) for j in others])

        if query_rows is None:
            chosen = candidates[torch.randint(len(candidates), (options.num_queries,))]
        else:
            chosen = query_rows[c]
            assert torch.isin(chosen, candidates).all(), "a query outside R_q^c"
        queries = pixels[chosen]

        # Eq. 1
        class_loss = representations.new_zeros(())
        for q, query in enumerate(queries):
            if key_rows is None:
                sampled = torch.multinomial(chances, options.num_negatives, replacement=True)
                negatives = []
                for i, j in enumerate(others):
                    picks = torch.randint(len(key_members[j]), (int((sampled == i).sum()),))
                    negatives.append(key_members[j][picks])
                keys = pixels[torch.cat(negatives)].detach()
            else:
                allowed = torch.cat([key_members[j] for j in others])
                assert torch.isin(key_rows[c][q], allowed).all(), "a negative outside R_k^c"
                keys = pixels[key_rows[c][q]].detach()
            positive = (F.cosine_similarity(query, means[c], dim=0) / options.temperature).exp()
            negative = (F.cosine_similarity(query[None], keys, dim=1) / options.temperature).exp()
            class_loss = class_loss - (positive / (positive + negative.sum())).log()
        loss = loss + weight * class_loss / options.num_queries
    return loss / total_weight if total_weight else loss


def _nearest(tensor: Tensor, height: int, width: int) -> Tensor:
    """``(B, H, W)`` to ``(B, h, w)``: each cell takes the pixel under its centre."""
    ys = ((torch.arange(height) + 0.5) * tensor.shape[1] / height).long()
    xs = ((torch.arange(width) + 0.5) * tensor.shape[2] / width).long()
    return tensor[:, ys][:, :, xs]

"""Batches for the tests of the loss, and the pixels that a call of it sampled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from reco import IGNORE
from reco import loss as module
from reco.loss import ReCoStatistics, reco_loss_with_statistics

Batch = tuple[Tensor, Tensor, Tensor]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(
    *,
    batch: int = 2,
    classes: int = 4,
    channels: int = 6,
    size: tuple[int, int] = (7, 9),
    label_size: tuple[int, int] | None = None,
    logit_size: tuple[int, int] | None = None,
    ignored: float = 0.1,
    channels_last: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Batch:
    """Representations, logits of mixed confidence and labels, some of them IGNORE."""
    generator = seeded(seed)
    representations = torch.randn(batch, *size, channels, generator=generator, dtype=dtype)
    # A mean far from zero, so that the relation graph is more than noise.
    representations = (representations + 0.3).permute(0, 3, 1, 2)
    if not channels_last:
        representations = representations.contiguous()
    shape = (batch, classes, *(logit_size or size))
    logits = 2 * torch.randn(shape, generator=generator, dtype=dtype)
    labels = torch.randint(classes, (batch, *(label_size or size)), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = IGNORE
    # About half of the pixels have a confidence above 0.97.
    sure = torch.rand(batch, *(logit_size or size), generator=generator) < 0.5
    if shape[2:] == labels.shape[1:]:
        one_hot = (labels[:, None] == torch.arange(classes)[:, None, None]).to(dtype)
        logits = logits + 15 * one_hot * sure[:, None]
    return representations.requires_grad_(), logits, labels


def loss_and_rows(
    monkeypatch: pytest.MonkeyPatch,
    batch: Batch,
    *,
    num_queries: int,
    num_negatives: int,
    **arguments: Any,
) -> tuple[Tensor, ReCoStatistics, Tensor, Tensor]:
    """The loss, its statistics, and the rows of the queries (C, Q) and of their keys (C, Q, K)."""
    seen: list[Tensor] = []
    take = module._take

    def spy(representations: Tensor, rows: Tensor) -> Tensor:
        seen.append(rows)
        return take(representations, rows)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_take", spy)
        value, statistics = reco_loss_with_statistics(
            *batch, num_queries=num_queries, num_negatives=num_negatives, **arguments
        )
    query_rows, *chunks = seen
    key_rows = torch.cat(chunks)  # (C, K) or (C * Q, K)
    key_rows = key_rows.view(len(query_rows), -1, num_negatives)
    return value, statistics, query_rows, key_rows.expand(-1, num_queries, -1)


def chi_square_p(counts: Tensor, expected: Tensor) -> float:
    """How likely counts at least as far from ``expected`` are, by Pearson's chi-square test."""
    expected = expected.double() * counts.sum() / expected.sum()
    possible = expected > 0
    if counts[~possible].any():
        return 0.0
    counts, expected = counts[possible].double(), expected[possible]
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))

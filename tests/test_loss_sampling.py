"""Which pixels the loss samples, by chi-square; each test must also catch mutants of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from loss_batches import Batch, chi_square_p, loss_and_rows, make_batch, seeded
from torch import Tensor

from reco import IGNORE
from reco import loss as module
from reco.loss import KeySampling, Negatives, QuerySampling, reco_loss_with_statistics

# Correct sampling fails once in a hundred thousand tests, and the seeds are fixed. Mutants give far
# smaller p-values.
LIKELY = 1e-5
CLASSES = 5
SEEDS = range(8)
Patch = tuple[str, Callable[..., object]]


def uneven_batch() -> Batch:
    """Classes of very different size and likeness; 3 is absent, 4 has no hard pixel."""
    representations, logits, labels = make_batch(classes=CLASSES, size=(9, 11), channels=4)
    labels[labels == 3] = 0
    labels[(labels == 1) & (torch.rand(labels.shape, generator=seeded(5)) < 0.7)] = 2
    logits[:, 4][labels == 4] = 60.0
    centres = 2 * torch.randn(256, 4, generator=seeded(6))
    return representations.detach() + centres[labels].permute(0, 3, 1, 2), logits, labels


def hard_pixels(batch: Batch) -> Tensor:
    """``(N,)`` bool."""
    _, logits, labels = batch
    labels = labels.flatten()
    probabilities = logits.softmax(1).permute(0, 2, 3, 1).reshape(-1, CLASSES)
    return probabilities.gather(1, labels.clamp(max=CLASSES - 1)[:, None])[:, 0] <= 0.97


# --- queries ------------------------------------------------------------------------------------


def query_p_values(
    monkeypatch: pytest.MonkeyPatch, query_sampling: QuerySampling, negatives: Negatives = "shared"
) -> list[float]:
    """Chi-square of the query pixels of each class, against uniform over R_q^c."""
    batch = uneven_batch()
    labels, hard = batch[2].flatten(), hard_pixels(batch)
    eligible = {"hard": hard, "easy": ~hard, "random": torch.ones_like(hard)}[query_sampling]
    counts = torch.zeros(CLASSES, len(labels), dtype=torch.int64)
    for seed in SEEDS:
        _, statistics, query_rows, _ = loss_and_rows(
            monkeypatch,
            batch,
            num_queries=500,
            num_negatives=1,
            query_sampling=query_sampling,
            negatives=negatives,
            generator=seeded(seed),
        )
        assert not statistics.present[3]
        for c in range(CLASSES):
            counts[c] += query_rows[c].bincount(minlength=len(labels))
    values = []
    for c in (0, 1, 2, 4):
        expected = (labels == c) & eligible
        if expected.any():
            values.append(chi_square_p(counts[c], expected))
    assert len(values) == (3 if query_sampling == "hard" else 4)
    return values


@pytest.mark.parametrize("query_sampling", ["hard", "easy", "random"])
def test_queries_are_uniform_over_their_pixels(
    monkeypatch: pytest.MonkeyPatch, query_sampling: QuerySampling
) -> None:
    assert min(query_p_values(monkeypatch, query_sampling)) > LIKELY


def biased_pick(uniform: Tensor, count: Tensor) -> Tensor:
    """The first pixels a little more often than the last."""
    return (uniform**1.2 * count).long().minimum((count - 1).clamp(min=0))


def rounding_pick(uniform: Tensor, count: Tensor) -> Tensor:
    """The ends half as often as the others."""
    return (uniform * (count - 1).clamp(min=0)).round().long()


def short_pick(uniform: Tensor, count: Tensor) -> Tensor:
    """Never the last pixel."""
    return (uniform * (count - 1)).clamp(min=0).long()


def easier_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """The confidence of the most probable class, not of the label."""
    return logits.softmax(1).amax(1)


@pytest.mark.parametrize(
    "mutant",
    [
        ("_pick", biased_pick),
        ("_pick", rounding_pick),
        ("_pick", short_pick),
        ("label_confidence", easier_confidence),
    ],
    ids=lambda mutant: mutant[1].__name__,
)
def test_query_mutants_are_caught(monkeypatch: pytest.MonkeyPatch, mutant: Patch) -> None:
    monkeypatch.setattr(module, *mutant)
    assert min(query_p_values(monkeypatch, "hard")) < LIKELY / 1000


# --- negatives ----------------------------------------------------------------------------------


def expected_classes(batch: Batch, c: int, key_sampling: KeySampling, temperature: float) -> Tensor:
    """Chances of the classes of R_k^c: the softmax below Eq. 3, or by size."""
    labels = batch[2].flatten()
    pixels = batch[0].detach().permute(0, 2, 3, 1).reshape(len(labels), -1)
    chances = torch.zeros(CLASSES)
    for j in (0, 1, 2, 4):
        if j != c:
            mean, other = pixels[labels == c].mean(0), pixels[labels == j].mean(0)
            cosine = F.cosine_similarity(mean, other, dim=0)
            active = math.exp(cosine.item() / temperature)
            chances[j] = active if key_sampling == "active" else int((labels == j).sum())
    return chances / chances.sum()


def key_p_values(
    monkeypatch: pytest.MonkeyPatch,
    key_sampling: KeySampling,
    negatives: Negatives,
    temperature: float = 0.3,
) -> tuple[float, float]:
    """Least chi-square of the classes of negatives, and of the pixels within those classes."""
    batch = uneven_batch()
    labels = batch[2].flatten()
    counts = torch.zeros(CLASSES, len(labels), dtype=torch.int64)
    queries, keys = (20, 25) if negatives == "per_query" else (1, 500)
    for seed in SEEDS:
        _, _, _, key_rows = loss_and_rows(
            monkeypatch,
            batch,
            num_queries=queries,
            num_negatives=keys,
            key_sampling=key_sampling,
            relation_temperature=temperature,
            negatives=negatives,
            generator=seeded(seed),
        )
        for c in range(CLASSES):
            counts[c] += key_rows[c].flatten().bincount(minlength=len(labels))
    of_classes, of_pixels = [], []
    for c in (0, 1, 2):
        assert not counts[c][labels == IGNORE].any()
        assert counts[c].sum() == 500 * len(SEEDS)
        sampled = torch.stack([counts[c][labels == j].sum() for j in range(CLASSES)])
        expected = expected_classes(batch, c, key_sampling, temperature)
        of_classes.append(chi_square_p(sampled, expected))
        for j in expected.nonzero()[:, 0]:
            members = counts[c][labels == j]
            of_pixels.append(chi_square_p(members, torch.ones_like(members)))
    return min(of_classes), min(of_pixels)


@pytest.mark.parametrize("negatives", ["shared", "per_query"])
@pytest.mark.parametrize("key_sampling", ["active", "random"])
def test_negatives_follow_the_relation_graph_and_are_uniform_within_a_class(
    monkeypatch: pytest.MonkeyPatch, key_sampling: KeySampling, negatives: Negatives
) -> None:
    of_classes, of_pixels = key_p_values(monkeypatch, key_sampling, negatives)
    assert of_classes > LIKELY
    assert of_pixels > LIKELY


def uniform_classes(graph: Tensor, counts: Tensor, **_: object) -> Tensor:
    allowed = (counts > 0) & ~torch.eye(len(counts), dtype=torch.bool)
    return allowed / allowed.sum(1, keepdim=True)


def with_itself(graph: Tensor, counts: Tensor, *, temperature: float, **_: object) -> Tensor:
    return (graph / temperature).masked_fill(counts == 0, -torch.inf).softmax(1)


def without_temperature(graph: Tensor, counts: Tensor, **_: object) -> Tensor:
    return negative_class_probabilities(graph, counts)


negative_class_probabilities = module.negative_class_probabilities


@pytest.mark.parametrize("negatives", ["shared", "per_query"])
@pytest.mark.parametrize("mutant", [uniform_classes, with_itself, without_temperature])
def test_class_mutants_are_caught(
    monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., Tensor], negatives: Negatives
) -> None:
    monkeypatch.setattr(module, "negative_class_probabilities", mutant)
    of_classes, _ = key_p_values(monkeypatch, "active", negatives)
    assert of_classes < LIKELY / 1000


@pytest.mark.parametrize("mutant", [biased_pick, short_pick])
def test_key_pixel_mutants_are_caught(
    monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., Tensor]
) -> None:
    monkeypatch.setattr(module, "_pick", mutant)
    _, of_pixels = key_p_values(monkeypatch, "active", "shared")
    assert of_pixels < LIKELY / 1000


def test_random_keys_are_not_active_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module,
        "negative_class_probabilities",
        lambda graph, counts, *, temperature, **_: negative_class_probabilities(
            graph, counts, temperature=temperature
        ),
    )
    assert key_p_values(monkeypatch, "random", "shared")[0] < LIKELY / 1000


def test_only_the_given_classes_give_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = uneven_batch()
    allowed = torch.tensor([True, False, False, True, True])  # 3 is absent
    for negatives in ("shared", "per_query"):
        _, _, _, key_rows = loss_and_rows(
            monkeypatch,
            batch,
            num_queries=8,
            num_negatives=50,
            negatives=negatives,
            negative_classes=allowed,
        )
        labels = batch[2].flatten()[key_rows]
        assert set(labels[1].flatten().tolist()) == {0, 4}
        assert set(labels[0].flatten().tolist()) == {4}


def test_samples_of_different_classes_and_queries_are_independent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, _, query_rows, key_rows = loss_and_rows(
        monkeypatch, uneven_batch(), num_queries=6, num_negatives=40, negatives="per_query"
    )
    sets = {tuple(rows.tolist()) for rows in key_rows[:3].flatten(0, 1)}
    assert len(sets) == 18
    assert len({tuple(rows.tolist()) for rows in query_rows[:3]}) == 3


# --- shared and per_query -----------------------------------------------------------------------


def exact_expectation(batch: Batch, temperature: float) -> float:
    """Mean of Eq. 1 over all hard queries and single negatives, by their probabilities."""
    labels, hard = batch[2].flatten(), hard_pixels(batch)
    pixels = batch[0].detach().permute(0, 2, 3, 1).reshape(len(labels), -1)
    units = F.normalize(pixels, dim=1)
    total = 0.0
    for c in (0, 1, 2):
        queries = units[(labels == c) & hard]
        mean = F.normalize(pixels[labels == c].mean(0), dim=0)
        positive = (queries @ mean / temperature).exp()
        chances = expected_classes(batch, c, "active", 1.0)
        for j in (0, 1, 2, 4):
            if j != c:
                negative = (queries @ units[labels == j].T / temperature).exp()
                terms = -(positive[:, None] / (positive[:, None] + negative)).log()
                total += float(chances[j] * terms.mean())
    return total / 4  # class 4 is present, and has no query


def deviation(batch: Batch, expected: float, **arguments: object) -> float:
    """Standard errors between the mean over 150 seeds and ``expected``."""
    values = torch.stack(
        [
            reco_loss_with_statistics(
                *batch, num_negatives=1, temperature=0.3, generator=seeded(seed), **arguments
            )[0].detach()
            for seed in range(150)
        ]
    )
    return float((values.mean() - expected).abs() / values.std() * math.sqrt(len(values)))


def test_shared_and_per_query_have_the_same_expectation() -> None:
    batch = uneven_batch()
    expected = exact_expectation(batch, 0.3)
    assert deviation(batch, expected, num_queries=64, negatives="shared") < 4
    assert deviation(batch, expected, num_queries=64, negatives="per_query") < 4
    # The test can tell: keys by class size have another expectation.
    other = deviation(batch, expected, num_queries=64, negatives="per_query", key_sampling="random")
    assert other > 6

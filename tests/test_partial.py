"""Partial labels against a literal loop of dilations."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from reco import IGNORE
from reco.data.partial import partial_labels

BUDGETS = ("pixel", 0.01, 0.05, 0.25)

RECORDED_PIXELS = [204, 242, 786, 1793, 2558, 2801, 3253, 3463, 4703]
RECORDED_DIGEST = "717e79d14a01cdc4"


def random_labels(seed: int, size=(41, 57)) -> torch.Tensor:
    """Blobs of a few classes, some of them in several pieces, with void between."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    labels = np.full(size, IGNORE, np.uint8)
    for _ in range(25):
        row, column = rng.integers(size[0]), rng.integers(size[1])
        height, width = rng.integers(1, 14, 2)
        inside = (abs(rows - row) <= height) & (abs(columns - column) <= width)
        labels[inside] = rng.choice([0, 1, 2, 5, 254, IGNORE])
    return torch.from_numpy(labels)


def dilate(region: np.ndarray) -> np.ndarray:
    """5x5 dilation, literally: a pixel is in if any of the 25 around it was."""
    padded = np.pad(region, 2)
    height, width = region.shape
    grown = np.zeros_like(region)
    for dy in range(5):
        for dx in range(5):
            grown |= padded[dy : dy + height, dx : dx + width]
    return grown


def grow_literally(of_class: np.ndarray, start: np.ndarray, share: float) -> np.ndarray:
    region = start
    while (region & of_class).sum() < share * of_class.sum() - 1e-9:
        region = dilate(region)
    return region & of_class


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.6, 1.0])
def test_equals_repeated_dilation(seed, share):
    labels = random_labels(seed)
    single = partial_labels(labels, "pixel", seed=seed, id="a").numpy()
    grown = partial_labels(labels, share, seed=seed, id="a").numpy()
    full = labels.numpy()
    expected = np.full_like(full, IGNORE)
    for c in set(np.unique(full).tolist()) - {IGNORE}:
        expected[grow_literally(full == c, single == c, share)] = c
    assert np.array_equal(grown, expected)


@pytest.mark.parametrize("seed", range(20))
def test_properties(seed):
    labels = random_labels(seed)
    before = labels.clone()
    parts = {b: partial_labels(labels, b, seed=seed, id="city/a") for b in BUDGETS}
    assert torch.equal(labels, before)
    assert parts["pixel"].dtype == torch.uint8
    for c in set(labels.unique().tolist()) - {IGNORE}:
        of_class = labels == c
        assert (parts["pixel"] == c).sum() == 1
        smaller = parts["pixel"] == c
        for share in BUDGETS[1:]:
            known = parts[share] == c
            assert (of_class | ~known).all()  # never leaves the class
            assert known.sum() >= share * of_class.sum() - 1e-6  # covers the share ...
            assert (known | ~smaller).all()  # ... and more of a larger one
            smaller = known
    for part in parts.values():
        assert (part[labels == IGNORE] == IGNORE).all()


def test_at_most_one_ring_too_much():
    # One class everywhere: the squares can be counted by hand.
    labels = torch.zeros(101, 101, dtype=torch.uint8)
    for seed in range(20):
        known = partial_labels(labels, 0.05, seed=seed, id="a") == 0
        rows, columns = known.any(1).nonzero(), known.any(0).nonzero()
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert known.sum() == height * width >= 511
        # Without its last ring (two pixels on each side) the square would not do.
        assert (height - 4) * (width - 4) < 511


def test_seed_and_id_decide():
    labels = random_labels(0)
    first = partial_labels(labels, 0.05, seed=0, id="a")
    assert torch.equal(first, partial_labels(labels, 0.05, seed=0, id="a"))
    assert not torch.equal(first, partial_labels(labels, 0.05, seed=1, id="a"))
    assert not torch.equal(first, partial_labels(labels, 0.05, seed=0, id="b"))
    # Neither the order of images nor torch's generator does.
    partial_labels(labels, 0.05, seed=0, id="b")
    torch.manual_seed(7)
    assert torch.equal(first, partial_labels(labels, 0.05, seed=0, id="a"))


def test_the_same_pixels_on_every_machine():
    """Recorded once. A change here makes earlier partial labels irreproducible."""
    labels = (torch.arange(60)[:, None] // 20 * 3 + torch.arange(80) // 30).to(torch.uint8)
    single = partial_labels(labels, "pixel", seed=0, id="0001TP_006690")
    assert (single.flatten() != IGNORE).nonzero().flatten().tolist() == RECORDED_PIXELS
    grown = partial_labels(labels, 0.05, seed=0, id="0001TP_006690").numpy()
    assert hashlib.sha256(grown.tobytes()).hexdigest()[:16] == RECORDED_DIGEST


def test_every_pixel_of_a_class_can_be_the_one():
    labels = torch.full((4, 6), IGNORE, dtype=torch.uint8)
    labels[1:3, 1:5] = 2
    hits = torch.zeros(4, 6)
    for seed in range(1600):
        hits += partial_labels(labels, "pixel", seed=seed, id="a") == 2
    assert (hits[labels == 2] > 0).all()
    # 8 pixels, 200 expected each: chi-square with 7 degrees of freedom, 24.3 at 0.1 %.
    assert ((hits[labels == 2] - 200) ** 2 / 200).sum() < 24.3


def test_nothing_to_keep():
    labels = torch.full((5, 5), IGNORE, dtype=torch.uint8)
    for budget in BUDGETS:
        assert torch.equal(partial_labels(labels, budget, seed=0, id="a"), labels)
    labels[2, 2] = 7  # a class of one pixel is kept by every budget
    for budget in BUDGETS:
        assert torch.equal(partial_labels(labels, budget, seed=0, id="a"), labels)


@pytest.mark.parametrize("budget", [0.0, -0.1, 1.01, "pixels"])
def test_wrong_budget(budget):
    with pytest.raises(ValueError, match=r"dataset.partial_labels = .*pixel, or a share in \(0, 1"):
        partial_labels(random_labels(0), budget, seed=0, id="a")

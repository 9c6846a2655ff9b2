"""Figures from the confusion matrix against counts written out, and against torchmetrics."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from reco import IGNORE
from reco.classes import DatasetSpec, default_palette
from reco.metrics import ConfusionMatrix, format_table, near_boundary

C = 6


def random_maps(seed: int, batches: int = 3):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(batches):
        labels = torch.randint(C, (2, 17, 23), generator=generator)
        predictions = torch.where(
            torch.rand(labels.shape, generator=generator) < 0.6,
            labels,
            torch.randint(C, labels.shape, generator=generator),
        )
        labels[torch.rand(labels.shape, generator=generator) < 0.1] = IGNORE
        yield predictions, labels


def test_matrix_is_a_plain_count():
    confusion, expected = ConfusionMatrix(C), np.zeros((C, C), dtype=np.int64)
    for predictions, labels in random_maps(0):
        confusion.update(predictions, labels.to(torch.uint8))
        for true, predicted in zip(
            labels.flatten().tolist(), predictions.flatten().tolist(), strict=True
        ):
            if true != IGNORE:
                expected[true, predicted] += 1
    assert confusion.matrix.dtype == torch.int64
    assert np.array_equal(confusion.matrix.numpy(), expected)
    for c in range(C):
        hit = expected[c, c]
        union = expected[c].sum() + expected[:, c].sum() - hit
        assert confusion.iou()[c].item() == pytest.approx(hit / union)
        assert confusion.class_accuracy()[c].item() == pytest.approx(hit / expected[c].sum())
    assert confusion.pixel_accuracy() == pytest.approx(np.trace(expected) / expected.sum())
    weights = expected.sum(1) / expected.sum()
    assert confusion.frequency_weighted_iou() == pytest.approx(
        (confusion.iou().numpy() * weights).sum()
    )


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_torchmetrics(seed):
    classification = pytest.importorskip("torchmetrics.classification")
    confusion = ConfusionMatrix(C)
    ious = {
        average: classification.MulticlassJaccardIndex(C, average=average, ignore_index=IGNORE)
        for average in ("none", "macro")
    }
    for predictions, labels in random_maps(seed):
        confusion.update(predictions, labels)
        for metric in ious.values():
            metric.update(predictions, labels)
    torch.testing.assert_close(confusion.iou().float(), ious["none"].compute(), rtol=0, atol=1e-6)
    assert confusion.mean_iou() == pytest.approx(ious["macro"].compute().item(), abs=1e-6)


def test_absent_class_is_left_out_even_where_it_is_predicted():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([[[0, 0, 2, 1]]]), torch.tensor([[[0, 0, 0, 1]]]))
    assert confusion.absent_classes() == [2]
    assert math.isnan(confusion.iou()[2])
    assert confusion.mean_iou() == pytest.approx((2 / 3 + 1) / 2)
    assert math.isnan(ConfusionMatrix(3).mean_iou())


def test_torchmetrics_scores_a_class_that_is_only_predicted_zero_and_we_do_not():
    """The one point where the two differ: here such a class is left out, and named."""
    classification = pytest.importorskip("torchmetrics.classification")
    predictions, labels = torch.tensor([[[0, 0, 2, 1]]]), torch.tensor([[[0, 0, 0, 1]]])
    torchmetrics_iou = classification.MulticlassJaccardIndex(3, average="none", ignore_index=IGNORE)
    torchmetrics_iou.update(predictions, labels)
    matrix = ConfusionMatrix(3)
    matrix.update(predictions, labels)
    assert torchmetrics_iou.compute()[2] == 0
    torch.testing.assert_close(
        matrix.iou()[:2].float(), torchmetrics_iou.compute()[:2], rtol=0, atol=1e-6
    )


def test_json_holds_no_nan():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 1]]]))
    for figures in (confusion.compute(), ConfusionMatrix(3).compute()):
        assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert confusion.compute()["iou"] == [1.0, 1.0, None]


def test_classes_outside_the_matrix_are_refused():
    inside, outside = torch.tensor([[[0, 1]]]), torch.tensor([[[0, 2]]])
    with pytest.raises(ValueError, match=r"predictions holds classes 0 \.\. 2: expected 0 \.\. 1"):
        ConfusionMatrix(2).update(outside, inside)
    with pytest.raises(ValueError, match=r"labels holds classes 0 \.\. 2"):
        ConfusionMatrix(2).update(inside, outside)
    confusion = ConfusionMatrix(2)
    confusion.update(outside, torch.tensor([[[0, IGNORE]]]))  # ignored, so it does not matter
    assert confusion.matrix.tolist() == [[1, 0], [0, 0]]


def test_counting_never_waits_for_the_device():
    """Meta tensors hold no values: reading one, or a shape that depends on them, fails."""
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8, device="meta")
    confusion = ConfusionMatrix(C, device="meta")
    confusion.update(labels.long(), labels, near_boundary(labels, 3))
    assert confusion.matrix.shape == (C, C)


def test_only_pixels_asked_for_are_counted():
    predictions, labels = next(random_maps(1))
    where = torch.rand(labels.shape) < 0.5
    confusion, expected = ConfusionMatrix(C), ConfusionMatrix(C)
    confusion.update(predictions, labels, where)
    expected.update(predictions, labels.masked_fill(~where, IGNORE))
    assert torch.equal(confusion.matrix, expected.matrix)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"predictions is \(1, 2, 2\), labels is \(1, 4, 4\)"):
        ConfusionMatrix(2).update(torch.zeros(1, 2, 2), torch.zeros(1, 4, 4))


@pytest.mark.parametrize("width", [1, 3])
def test_near_boundary_by_hand(width):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (1, 5, 6), generator=generator).repeat_interleave(5, 1)
    labels = labels.repeat_interleave(5, 2)
    labels[0, 3:9, 7:20] = IGNORE
    near = near_boundary(labels, width)
    height, breadth = labels.shape[1:]
    for y in range(height):
        for x in range(breadth):
            window = labels[
                0,
                max(0, y - width) : y + width + 1,
                max(0, x - width) : x + width + 1,
            ]
            classes = set(window.flatten().tolist()) - {IGNORE}
            assert near[0, y, x] == (labels[0, y, x] != IGNORE and len(classes) > 1)


def test_table_shows_every_class_and_column():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 0, 0, 1]]]))
    both = {"student": confusion, "teacher": confusion}
    table = format_table(both, both, ["road", "car", "tram"])
    lines = table.splitlines()
    assert lines[0].split()[-2:] == ["student", "teacher"]
    assert lines[2].split() == ["road", "75.00", "66.67", "66.67"]
    assert lines[4].split() == ["tram", "0.00", "-", "-"]
    assert next(line for line in lines if line.startswith("mIoU ")).split()[-1] == "58.33"
    assert lines[-1].endswith("left out of the means: tram")


def test_more_classes_than_labels_can_tell_from_ignore():
    assert ConfusionMatrix(IGNORE).num_classes == 255
    with pytest.raises(ValueError, match="num_classes = 256: expected at most 255"):
        ConfusionMatrix(256)
    names = tuple(str(c) for c in range(256))
    with pytest.raises(ValueError, match="many: 256 classes: expected at most 255"):
        DatasetSpec("many", names, default_palette(256))

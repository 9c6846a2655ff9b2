"""Pictures of labels, errors and confidence."""

from __future__ import annotations

import numpy as np

from reco import IGNORE
from reco.classes import DatasetSpec
from reco.panels import PredictedImage, colourise, confidence_map, error_map, overlay, panel

SPEC = DatasetSpec("two", ("road", "car"), ((10, 20, 30), (200, 100, 0)))
LABELS = np.array([[0, 1], [IGNORE, 0]], dtype=np.uint8)


def test_colours_are_the_palettes():
    expected = [[(10, 20, 30), (200, 100, 0)], [(0, 0, 0), (10, 20, 30)]]
    assert colourise(LABELS, SPEC.palette).tolist() == np.array(expected).tolist()


def test_overlay_leaves_ignored_pixels_alone():
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    mixed = overlay(image, LABELS, SPEC.palette, opacity=0.5)
    assert mixed[0, 0].tolist() == [55, 60, 65]
    assert mixed[1, 0].tolist() == [100, 100, 100]


def test_confidence_is_ordered_in_lightness():
    ramp = confidence_map(np.linspace(0, 1, 50, dtype=np.float32)[None])
    lightness = ramp[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > 0).all()


def test_errors_are_where_truth_and_prediction_differ():
    wrong = error_map(LABELS, np.zeros((2, 2), dtype=np.uint8))
    assert wrong[0, 1].tolist() == [200, 30, 30]
    assert wrong[0, 0].tolist() == wrong[1, 1].tolist() == [222, 222, 222]
    assert wrong[1, 0].tolist() == [0, 0, 0]


def test_small_images_are_shown_larger():
    row = PredictedImage(
        np.zeros((6, 40, 3), np.uint8),
        np.zeros((6, 40), np.uint8),
        np.zeros((6, 40), np.uint8),
        np.zeros((6, 40), np.float32),
    )
    picture = np.array(panel([row], SPEC))
    assert ((picture == SPEC.palette[0]).all(2)).sum() >= 2 * 36 * 240


def test_panel_holds_every_picture_and_the_legend():
    generator = np.random.default_rng(0)
    rows = [
        PredictedImage(
            generator.integers(0, 256, (h, w, 3), dtype=np.uint8),
            generator.integers(0, 2, (h, w), dtype=np.uint8),
            generator.integers(0, 2, (h, w), dtype=np.uint8),
            generator.random((h, w), dtype=np.float32),
        )
        for h, w in ((40, 250), (30, 230))
    ]
    canvas = np.array(panel(rows, SPEC, title="after 100 iterations"))
    for row in rows:
        h, w = row.truth.shape
        for picture in (
            row.image,
            colourise(row.truth, SPEC.palette),
            colourise(row.prediction, SPEC.palette),
            error_map(row.truth, row.prediction),
            confidence_map(row.confidence),
        ):
            windows = np.lib.stride_tricks.sliding_window_view(canvas[:, :, 0], (h, w))
            first = (windows[:, :, 0, 0] == picture[0, 0, 0]) & (
                windows[:, :, -1, -1] == picture[-1, -1, 0]
            )
            places = np.argwhere(first)
            assert any((canvas[y : y + h, x : x + w] == picture).all() for y, x in places)
    for colour in SPEC.palette:  # the legend, below the pictures
        assert (canvas[130:] == colour).all(2).sum() > 100

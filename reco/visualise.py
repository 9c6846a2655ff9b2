"""Pictures of predictions, made with PIL alone.

Shapes: image (H, W, 3) uint8; labels and predictions (H, W) uint8 with IGNORE; confidence (H, W)
in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from reco.data.spec import DatasetSpec
from reco.loss import IGNORE

Pixels = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]

_IGNORED = (0, 0, 0)
_RIGHT, _WRONG = (222, 222, 222), (200, 30, 30)
# Dark blue to yellow: ordered in lightness, and the same order to colour-blind eyes.
_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_GAP = 8


class PanelRow(NamedTuple):
    """One image of a panel, with what there is to say about it."""

    image: Pixels  # (H, W, 3)
    truth: Pixels  # (H, W)
    prediction: Pixels  # (H, W)
    confidence: Plane  # (H, W)


def colourise(labels: Pixels, palette: Sequence[tuple[int, int, int]]) -> Pixels:
    """``(H, W, 3)``: each class in its colour, IGNORE black."""
    table = np.full((IGNORE + 1, 3), _IGNORED, dtype=np.uint8)
    table[: len(palette)] = palette
    coloured: Pixels = table[labels]
    return coloured


def overlay(
    image: Pixels, labels: Pixels, palette: Sequence[tuple[int, int, int]], opacity: float = 0.5
) -> Pixels:
    """``(H, W, 3)``: the image under the classes' colours; untouched where IGNORE."""
    mixed = (1 - opacity) * image + opacity * colourise(labels, palette)
    known = (labels != IGNORE)[:, :, None]
    covered: Pixels = np.where(known, mixed.round().astype(np.uint8), image)
    return covered


def confidence_map(confidence: Plane) -> Pixels:
    """``(H, W, 3)``: 0 dark blue to 1 yellow."""
    at = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(confidence, at, channel) for channel in zip(*_RAMP, strict=True)]
    picture: Pixels = np.stack(channels, axis=2).round().astype(np.uint8)
    return picture


def error_map(truth: Pixels, prediction: Pixels) -> Pixels:
    """``(H, W, 3)``: grey where right, red where wrong, black where the truth is IGNORE."""
    picture = np.where((truth == prediction)[:, :, None], _RIGHT, _WRONG)
    return np.where((truth == IGNORE)[:, :, None], _IGNORED, picture).astype(np.uint8)


def panel(rows: Sequence[PanelRow], spec: DatasetSpec, *, title: str = "") -> Image.Image:
    """Image, truth, prediction, errors and confidence side by side, one image a row.

    Args:
        rows: at least one.
        spec: names and colours of the legend below.
        title: a line above.
    """
    titles = ("image", "truth", "prediction", "errors", "confidence 0 to 1")
    pictures = [
        (
            row.image,
            colourise(row.truth, spec.palette),
            colourise(row.prediction, spec.palette),
            error_map(row.truth, row.prediction),
            confidence_map(row.confidence),
        )
        for row in rows
    ]
    font = ImageFont.load_default(size=14)
    width = max(max(120, row.image.shape[1]) for row in rows) + _GAP
    line = 22
    legend = _legend_places(spec.class_names, font, width * len(titles) - _GAP)
    top = 2 * line if title else line
    body = sum(row.image.shape[0] + _GAP for row in rows)
    bottom = legend[-1][1] + line
    canvas = Image.new("RGB", (width * len(titles) + _GAP, top + body + bottom), "white")
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((_GAP, 3), title, fill="black", font=font)
    for column, text in enumerate(titles):
        draw.text((_GAP + column * width, top - line + 2), text, fill="black", font=font)
    y = top
    for row in pictures:
        for column, picture in enumerate(row):
            canvas.paste(Image.fromarray(picture), (_GAP + column * width, y))
        y += row[0].shape[0] + _GAP
    for (x, below), name, colour in zip(legend, spec.class_names, spec.palette, strict=True):
        draw.rectangle((_GAP + x, y + below, _GAP + x + 13, y + below + 13), colour, "black")
        draw.text((_GAP + x + 19, y + below - 2), name, fill="black", font=font)
    return canvas


def _legend_places(
    names: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[tuple[int, int]]:
    """Upper left corner of each legend entry, in lines no wider than ``width``."""
    places, x, y = [], 0, 0
    for name in names:
        extent = 19 + int(font.getlength(name)) + 18
        if x and x + extent > width:
            x, y = 0, y + 22
        places.append((x, y))
        x += extent
    return places

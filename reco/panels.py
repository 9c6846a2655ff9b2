"""Pictures of labels and predictions, made with PIL alone.

Shapes: image (H, W, 3) uint8; labels and predictions (H, W) uint8 with IGNORE; confidence (H, W)
in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from reco import IGNORE
from reco.classes import DatasetSpec
from reco.config import DatasetConfig
from reco.data.datasets.reader import FileReader, Reader
from reco.data.loading import EvalDataset
from reco.data.partial import partial_labels
from reco.data.reading.images import to_rgb
from reco.data.reading.mask_classes import ClassTable

Pixels = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]

_IGNORED = (0, 0, 0)
_RIGHT, _WRONG = (222, 222, 222), (200, 30, 30)
# Dark blue to yellow (viridis): ordered in lightness, also for the colour-blind.
_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_GAP = 8
_WIDTH = 240  # approximate least width of an image in a panel, in pixels
_MASK_WIDTH = 480  # greatest width in a panel of labels


class PredictedImage(NamedTuple):
    """An image with its truth, prediction and confidence."""

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


def panel(rows: Sequence[PredictedImage], spec: DatasetSpec, *, title: str = "") -> Image.Image:
    """Image, truth, prediction, errors and confidence side by side, one image a row.

    Args:
        rows: at least one.
        spec: names and colours of the legend below.
        title: a line above.
    """
    titles = ("image", "truth", "prediction", "errors", "confidence 0 to 1")
    pictures = [
        [
            row.image,
            colourise(row.truth, spec.palette),
            colourise(row.prediction, spec.palette),
            error_map(row.truth, row.prediction),
            confidence_map(row.confidence),
        ]
        for row in rows
    ]
    return _grid(pictures, titles, dict(zip(spec.class_names, spec.palette, strict=True)), title)


def label_panel(
    rows: Sequence[tuple[Pixels, Pixels]], table: ClassTable, *, title: str = ""
) -> Image.Image:
    """Images, the same under their masks, and the masks, with the values or colours of each class.

    Args:
        rows: image ``(H, W, 3)`` and its labels ``(H, W)``; at least one.
        table: classes, and their values or colours in the masks.
        title: a line above.
    """
    palette = table.spec.palette
    pictures = [
        [image, overlay(image, labels, palette), colourise(labels, palette)]
        for image, labels in rows
    ]
    legend = {
        f"{name}: {table.describe(label)}": colour
        for label, (name, colour) in enumerate(zip(table.spec.class_names, palette, strict=True))
    }
    legend[f"void: {table.describe(IGNORE) or 'nothing'}"] = _IGNORED
    return _grid(pictures, ("image", "under its mask", "mask"), legend, title)


def paint_masks(reader: FileReader, most: int = 4) -> Image.Image | None:
    """:func:`label_panel` of a few images with many classes, among the masks read so far.

    ``None`` if there are none.
    """
    left = {id: content.classes for id, content in sorted(reader.contents.items())}
    seen: set[int] = set()
    rows: list[tuple[Pixels, Pixels]] = []
    while left and len(rows) < most:
        id = max(left, key=lambda id: len(left[id] - seen))
        seen |= left.pop(id)
        try:
            image, labels = reader.image(id), reader.label(id)
        except ValueError:
            continue  # reported by the check
        pixels = Image.fromarray(to_rgb(image)) if isinstance(image, np.ndarray) else image
        size = (_MASK_WIDTH, max(1, round(pixels.height * _MASK_WIDTH / pixels.width)))
        if pixels.width > _MASK_WIDTH:
            pixels, labels = pixels.resize(size), labels.resize(size, Image.Resampling.NEAREST)
        rows.append((np.asarray(pixels), np.asarray(labels)))
    return label_panel(rows, reader.table, title=str(reader.root.resolve())) if rows else None


def _grid(
    rows: Sequence[Sequence[Pixels]],
    titles: Sequence[str],
    legend: Mapping[str, tuple[int, int, int]],
    title: str,
) -> Image.Image:
    """Pictures side by side, a title over each column, and a legend below."""
    widest = max(row[0].shape[1] for row in rows)
    zoom = max(1, round(_WIDTH / widest))  # small images are shown larger, pixel by pixel
    pictures = [
        [Image.fromarray(picture.repeat(zoom, 0).repeat(zoom, 1)) for picture in row]
        for row in rows
    ]
    font = ImageFont.load_default(size=14)
    width = max(120, zoom * widest) + _GAP
    line = 22
    places = _legend_places([*legend], font, width * len(titles) - _GAP)
    top = 2 * line if title else line
    body = sum(row[0].height + _GAP for row in pictures)
    bottom = places[-1][1] + line
    canvas = Image.new("RGB", (width * len(titles) + _GAP, top + body + bottom), "white")
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((_GAP, 3), title, fill="black", font=font)
    for column, text in enumerate(titles):
        draw.text((_GAP + column * width, top - line + 2), text, fill="black", font=font)
    y = top
    for row in pictures:
        for column, picture in enumerate(row):
            canvas.paste(picture, (_GAP + column * width, y))
        y += row[0].height + _GAP
    for (x, below), (name, colour) in zip(places, legend.items(), strict=True):
        draw.rectangle((_GAP + x, y + below, _GAP + x + 13, y + below + 13), colour, "black")
        draw.text((_GAP + x + 19, y + below - 2), name, fill="black", font=font)
    return canvas


def label_strip(
    image: Pixels, labels: Mapping[str, Pixels], palette: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """The image, then once for each entry of ``labels`` darkened under the labels that are known.

    Where only a few pixels are known, each is enlarged to a square, to be visible.

    Args:
        image: ``(H, W, 3)``.
        labels: title -> ``(H, W)``.
        palette: colour of each class.
    """
    height, width = image.shape[:2]
    font = ImageFont.load_default(size=14)
    canvas = Image.new("RGB", ((width + _GAP) * (len(labels) + 1) + _GAP, height + 30), "white")
    draw = ImageDraw.Draw(canvas)
    radius = max(2, height // 90)
    dark = (image // 3).astype(np.uint8)
    x = _GAP
    for title, known in [("image", None), *labels.items()]:
        draw.text((x, 2), title, fill="black", font=font)
        picture = image if known is None else overlay(dark, known, palette, opacity=1)
        canvas.paste(Image.fromarray(picture), (x, 22))
        places = [] if known is None else np.argwhere(known != IGNORE).tolist()
        if known is not None and len(places) <= len(palette):
            for row, column in places:
                corner = (x + column - radius, 22 + row - radius)
                end = (x + column + radius, 22 + row + radius)
                draw.rectangle((*corner, *end), palette[known[row, column]])
        x += width + _GAP
    return canvas


def paint_budgets(reader: Reader, config: DatasetConfig) -> Image.Image:
    """The four budgets of partial labels on the first training image."""
    id = reader.ids("train")[0]
    sample = EvalDataset(reader, [id], config.image_size)[0]
    budgets: dict[str, Literal["pixel"] | float] = {"one pixel per class": "pixel"}
    budgets |= {f"{share:.0%} of each class": share for share in (0.01, 0.05, 0.25)}
    labels = {
        title: partial_labels(sample.label, budget, seed=config.split_seed, id=id).numpy()
        for title, budget in budgets.items()
    }
    return label_strip(to_rgb(sample.image.permute(1, 2, 0).numpy()), labels, reader.spec.palette)


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

"""Figures of images: predictions, sampled pixels, representations (extra ``plot``).

Every function returns a ``matplotlib.figure.Figure``. Classes keep the colours of their data set.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reco.classes import DatasetSpec
from reco.panels import Pixels, PredictedImage, colourise, error_map
from reco.pictures.analysis import SampledPixels
from reco.pictures.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HARD, _EASY, _UNUSED = (213, 94, 0), (86, 180, 233), (90, 90, 90)
_MOST_POINTS = 64  # of each class in a picture of queries


def plot_comparison(
    predictions: Mapping[str, Sequence[PredictedImage]], spec: DatasetSpec
) -> Figure:
    """Several networks on the same images: truth, then each one's labels and errors.

    Args:
        predictions: by name of the network; the same images in the same order for all.
        spec: names and colours.
    """
    rows = []
    for of_image in zip(*predictions.values(), strict=True):
        image, truth, *_ = of_image[0]
        row = [("image", image), ("truth", colourise(truth, spec.palette))]
        for name, predicted in zip(predictions, of_image, strict=True):
            row.append((name, colourise(predicted.prediction, spec.palette)))
            row.append(("errors", error_map(truth, predicted.prediction)))
        rows.append(row)
    return _grid(rows, spec)


def plot_queries(image: PredictedImage, pixels: SampledPixels, spec: DatasetSpec) -> Figure:
    """Hard and easy pixels (Fig. 2 of the paper), sampled queries, and one class's negative keys.

    The class is the one with most hard pixels; at most 64 points of a class are shown.
    """
    table = np.array([_EASY, _HARD, _UNUSED], dtype=np.uint8)
    kinds = np.where(pixels.classes == spec.num_classes, 2, pixels.hard.astype(int))
    sizes = {c: int((pixels.hard & (pixels.classes == c)).sum()) for c in pixels.queries}
    owner = max(sizes, key=lambda c: sizes[c]) if sizes else None
    of_owner = "" if owner is None else f" of {spec.class_names[owner]} (dots: its queries)"
    figure = _grid(
        [
            [("image", image.image), ("truth", colourise(image.truth, spec.palette))],
            [
                ("hard (orange), easy (blue)", table[kinds]),
                ("sampled queries, by class", image.image),
            ],
            [("confidence", image.confidence), (f"negative keys{of_owner}", image.image)],
        ],
        spec,
    )
    axes = figure.axes
    for label, points in pixels.queries.items():
        _scatter(axes[3], points, spec.palette[label])
    if owner is not None:
        x, y = pixels.negatives[owner][:_MOST_POINTS].T
        axes[5].scatter(x, y, s=10, marker="x", color="#D55E00", linewidths=1)
        _scatter(axes[5], pixels.queries[owner], spec.palette[owner])
    return figure


def plot_representation(image: PredictedImage, colours: Pixels, spec: DatasetSpec) -> Figure:
    """Image, truth, prediction, and the representations by their three main axes as RGB."""
    return _grid(
        [
            [("image", image.image), ("truth", colourise(image.truth, spec.palette))],
            [
                ("prediction", colourise(image.prediction, spec.palette)),
                ("representations (PCA)", colours),
            ],
        ],
        spec,
    )


def _grid(rows: Sequence[Sequence[tuple[str, npt.NDArray[Any]]]], spec: DatasetSpec) -> Figure:
    """Titled pictures in rows, and the classes' colours; without colours, dark 0 to bright 1."""
    height, width = rows[0][0][1].shape[:2]
    columns = len(rows[0])
    size = min(4.5, 16 / columns)
    figure = new_figure(size * columns, (size * height / width + 0.25) * len(rows) + 0.6)
    all_axes = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (title, picture) in zip(
        all_axes.flatten(), itertools.chain.from_iterable(rows), strict=True
    ):
        axes.imshow(picture, interpolation="nearest", cmap="cividis", vmin=0, vmax=1)
        axes.set_title(title, fontsize=9 if columns < 5 else 7)
        axes.set_axis_off()
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=_share(colour), edgecolor="black", linewidth=0.5, label=name)
        for name, colour in zip(spec.class_names, spec.palette, strict=True)
    ]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=min(len(patches), 8), fontsize=7
    )
    return figure


def _scatter(axes: Any, points: npt.NDArray[np.float64], colour: tuple[int, int, int]) -> None:
    x, y = points[:_MOST_POINTS].T
    axes.scatter(x, y, s=18, color=_share(colour), edgecolors="white", linewidths=0.5)


def _share(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255

"""Roboflow's "Semantic Segmentation Masks": ``x.jpg``, ``x_mask.png`` and ``_classes.csv``.

They lie side by side in ``train``, ``valid`` and ``test``.
"""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

from reco.data.importers.source import (
    Annotated,
    Annotations,
    Images,
    ImportOptions,
    Rasterised,
    choose_classes,
    labels_by_value,
    split_of,
)
from reco.data.reading.masks import read_mask
from reco.paths import read_lines

_MASK_SUFFIX = "_mask"


def read_roboflow(source: Path, options: ImportOptions) -> Annotations:
    """The unpacked export, with all of its splits or one of them.

    Raises:
        ValueError: no ``_classes.csv``, or two that contradict each other.
    """
    tables = {path: _read_classes(path) for path in sorted(source.rglob("_classes.csv"))}
    if not tables:
        raise ValueError(f"{source}: no _classes.csv, expected one beside the images of each split")
    (first, values), *others = tables.items()
    for path, other in others:
        if other != values:
            raise ValueError(f"{path}: other classes than {first}: {other} and {values}")
    classes = choose_classes(values.values(), options, adds_background=False)
    class_of = {value: classes.class_of[name] for value, name in values.items()}
    images = Images(options.images or source)
    masks = {p.with_suffix("") for p in images.files if p.stem.endswith(_MASK_SUFFIX)}
    annotated, unlabelled = [], []
    used = set()
    for path in images.files:
        stem = path.with_suffix("")
        mask = stem.with_name(stem.name + _MASK_SUFFIX)
        if stem in masks:
            continue
        if mask in masks:
            used.add(mask)
            rasterise = partial(_rasterise, mask.with_name(mask.name + ".png"), class_of)
            split = split_of(path.parent, source)
            annotated.append(Annotated(path, images.name(path), rasterise, split))
        else:
            unlabelled.append((path, images.name(path)))
    left_out = [f"{mask}.png: no image of that name" for mask in sorted(masks - used)]
    return Annotations(classes.names, annotated, unlabelled, classes.notes, left_out)


def _read_classes(path: Path) -> dict[int, str]:
    """Mask value -> class name, from lines ``value, name`` below a header."""
    lines = csv.reader(read_lines(path), skipinitialspace=True)
    rows = [[value.strip() for value in row] for row in lines][1:]
    if not rows or any(len(row) < 2 or not row[0].isdigit() for row in rows):
        raise ValueError(f"{path}: expected lines such as `1, road` below `Pixel Value, Class`")
    values: dict[int, str] = {}
    for value, name, *_ in rows:
        if values.setdefault(int(value), name) != name:
            raise ValueError(f"{path}: value {value} is both {values[int(value)]} and {name}")
    return values


def _rasterise(path: Path, class_of: dict[int, int], _: tuple[int, int]) -> Rasterised:
    mask = read_mask(path)
    values = mask.values
    if mask.kind == "colour":  # a grey mask may have been saved as RGB
        values = values & 0xFF
        if (values * 0x010101 != mask.values).any():
            raise ValueError(f"{path}: is a mask of colours, expected the values of _classes.csv")
    stranger = "pixels of a value that _classes.csv does not have: void"
    return labels_by_value(values, class_of, stranger)

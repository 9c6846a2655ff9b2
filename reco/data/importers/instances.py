"""One mask file an object, as in the 2018 Data Science Bowl.

Each image has a folder with ``images/<name>.png`` and ``masks/*.png``; pixels of a mask other than
0, or than black in its palette, are the object, whatever their transparency. Folders without masks
hold unlabelled images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from reco.data.finding.patterns import MASK_ENDINGS
from reco.data.importers.source import (
    Annotated,
    Annotations,
    AreaMask,
    ImportOptions,
    Rasterised,
    colours_of,
    failure,
    find_images,
    paint,
    split_of,
)
from reco.data.reading.masks import read_mask


def read_instances(source: Path, options: ImportOptions) -> Annotations:
    """A folder of such folders. The classes are background and object, or ``class_names``.

    Raises:
        ValueError: no such folders, or other than two class names.
    """
    names = options.class_names or ("background", "object")
    if len(names) != 2:
        raise ValueError(
            f"classes {', '.join(names)}: expected two, for the background and for the objects"
        )
    annotated: list[Annotated] = []
    unlabelled: list[tuple[Path, PurePosixPath]] = []
    left_out: list[str] = []
    for folder in sorted(path.parent for path in source.rglob("images") if path.is_dir()):
        found = find_images(folder / "images")
        place = folder.relative_to(source)
        if len(found) == 1:
            name = PurePosixPath(place.as_posix())
            if not (folder / "masks").is_dir():
                unlabelled.append((found[0], name))
            else:
                masks = find_images(folder / "masks", MASK_ENDINGS)
                rasterise = partial(_rasterise, masks)
                annotated.append(Annotated(found[0], name, rasterise, split_of(folder, source)))
        else:
            left_out.append(f"{folder}: {len(found)} images in {folder / 'images'}, expected one")
    if not annotated:
        text = f"{source}: expected a folder for each image with images/<name>.png and masks/*.png"
        raise failure(text, [], left_out)
    return Annotations(tuple(names), annotated, unlabelled, [], left_out)


def _rasterise(paths: list[Path], size: tuple[int, int]) -> Rasterised:
    events: Counter[str] = Counter()

    def painted() -> Iterator[tuple[int, AreaMask]]:
        for path in paths:
            mask: AreaMask = np.asarray(colours_of(read_mask(path)) != 0)
            if mask.shape != (size[1], size[0]):
                raise ValueError(
                    f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                    f"{size[0]} x {size[1]}; expected one size"
                )
            yield 1, mask

    return paint(size, painted(), 0, events, "")

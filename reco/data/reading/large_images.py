"""An image file that is read in parts, to hold the pixels of a large one once.

Shapes: pixels (H, W, C) uint8. Pillow keeps the decoded file (at 20,000 x 20,000 pixels of RGB 1.6
GB); what it cannot read is kept as 8-bit pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from reco.data.reading.images import (
    ImageFormat,
    Pixels,
    all_tags,
    image_tensor,
    nodata_of,
    open_image,
    orientation_of,
    pillow_reads,
    pillow_values,
    read_pixels,
    to_8_bit,
    to_rgb,
    upright,
    with_channels,
)
from reco.data.reading.no_value import mark_no_value

# TIFF tags of the georeference: scale, tie points, transformation, keys.
_GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)


class LargeImage:
    """An image file, upright.

    Args:
        path: the file.
        format: channels and range of values.

    Raises:
        ValueError: it cannot be read; it is named.
    """

    def __init__(self, path: Path, format: ImageFormat) -> None:
        self._format = format
        self._image: Image.Image | None = None
        self._turn = 1
        try:
            image = open_image(path)
            whole = pillow_reads(image, format.channels)
        except Exception:  # perhaps readable by tifffile
            whole = False
        if not whole:
            self._pixels = read_pixels(path, format)
            self.size: tuple[int, int] = self._pixels.shape[:2]  # (height, width)
            return
        try:
            image.load()
        except Exception as error:  # a broken file makes decoders raise nearly anything
            raise ValueError(f"{path}: cannot be read as an image: {error}") from error
        self._nodata = nodata_of(image)
        self._image, self._turn = image, orientation_of(image)
        self.size = image.size if self._turn >= 5 else image.size[::-1]

    def read(self, rows: slice, columns: slice) -> Tensor:
        """``(C, h, w)`` of a part, which begins and ends at whole numbers."""
        return image_tensor(self.pixels(rows, columns))

    def pixels(self, rows: slice, columns: slice) -> Pixels:
        """``(h, w, C)`` of a part."""
        if self._image is None:
            return self._pixels[rows, columns]
        top, bottom = rows.start, rows.stop
        left, right = columns.start, columns.stop
        if self._turn in (3, 4, 7, 8):
            top, bottom = self.size[0] - bottom, self.size[0] - top
        if self._turn in (2, 3, 6, 7):
            left, right = self.size[1] - right, self.size[1] - left
        box = (left, top, right, bottom) if self._turn < 5 else (top, left, bottom, right)
        channels, value_range = self._format
        values = mark_no_value(pillow_values(self._image.crop(box), channels), self._nodata)
        values = with_channels(values, channels)
        return np.ascontiguousarray(upright(to_8_bit(values, value_range), self._turn))

    def reduced(self, step: int) -> Pixels:
        """``(h, w, 3)``: every ``step``-th pixel of every ``step``-th row, for a picture."""
        height, width = self.size
        rows = (self.pixels(slice(r, r + 1), slice(0, width)) for r in range(0, height, step))
        return np.concatenate([to_rgb(row)[:, ::step] for row in rows])


def georeference(path: Path) -> dict[int, tuple[object, ...] | str]:
    """The georeference tags of a GeoTIFF file; none of another file."""
    tags = all_tags(path)
    return {code: tags[code] for code in _GEOREFERENCE if code in tags}

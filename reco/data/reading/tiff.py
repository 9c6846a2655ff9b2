"""What a TIFF file's tags say of its pixels, and reading it by tifffile (extra ``tiff``).

Pillow reads one band of any depth it knows, and 8-bit colour. Of files with several bands of other
kinds it takes the first band, half of each value, or noise, without an error; which files these are
follows from the tags alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from reco.optional_packages import import_extra

ORIENTATION = 274  # EXIF has the same number
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _SAMPLES_PER_PIXEL = 258, 259, 262, 277
_PLANAR, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _GDAL_NODATA = 284, 338, 339, 42113
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_FAX = (2, 3, 4)
_LOSSY = (6, 7, 33003, 33004, 33005, 34712, 34892, 34927, 50001)  # JPEG, JPEG 2000, WebP
_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF


class TiffTags(NamedTuple):
    """The tags of a file's first image that say how its pixels lie."""

    bits: int  # of the deepest band
    bands: int
    separate: bool  # band after band, instead of pixel after pixel
    photometric: int
    signed: bool
    alpha: bool  # the last band is transparency
    fax: bool  # compressed by CCITT
    lossy: bool  # compressed in a way that may change values
    nodata: float | None  # the value of pixels without a value, by GDAL

    @classmethod
    def of(cls, tags: Mapping[int, Any]) -> TiffTags:
        """From the values of all tags by number."""

        def numbers(code: int, default: int) -> list[int]:
            return [int(v) for v in np.atleast_1d(tags.get(code, default)).tolist()]

        return cls(
            bits=max(numbers(_BITS_PER_SAMPLE, 1)),
            bands=numbers(_SAMPLES_PER_PIXEL, 1)[0],
            separate=numbers(_PLANAR, 1)[0] == 2,
            photometric=numbers(_PHOTOMETRIC, _WHITE_IS_ZERO)[0],
            signed=2 in numbers(_SAMPLE_FORMAT, 1),
            alpha=numbers(_EXTRA_SAMPLES, 0)[-1] in (1, 2),
            fax=numbers(_COMPRESSION, 1)[0] in _FAX,
            lossy=numbers(_COMPRESSION, 1)[0] in _LOSSY,
            nodata=_number(tags.get(_GDAL_NODATA)),
        )

    @property
    def pillow_reads(self) -> bool:
        """Whether Pillow reads the values of a file that it opens."""
        if self.bands == 1:
            return True
        if self.bits > 8:
            return False
        grey = self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
        return not grey or (self.bands == 2 and self.alpha and not self.separate)

    @property
    def pillow_inverts(self) -> bool:
        """Whether Pillow turns the values of a grey file around, since the highest is black."""
        return self.photometric == _WHITE_IS_ZERO and self.bands == 1 and self.bits <= 8

    @property
    def is_rgb(self) -> bool:
        """Red, green, blue and perhaps more."""
        return self.photometric == _RGB and self.bands >= 3


def tiff_tags(image: Image.Image) -> TiffTags | None:
    """Of a file opened by Pillow; ``None`` if it is no TIFF file."""
    tags = getattr(image, "tag_v2", None)
    return TiffTags.of(tags) if image.format == "TIFF" and tags is not None else None


def is_tiff(path: str | Path) -> bool:
    """By the first bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in _STARTS
    except OSError:
        return False


def open_tiff(path: str | Path) -> Any:
    """A ``tifffile.TiffFile``.

    Raises:
        ImportError: tifffile is missing.
    """
    purpose = f"{path}, a TIFF file of this depth or number of bands,"
    return import_extra("tifffile", purpose).TiffFile(path)


def page_tags(page: Any) -> dict[int, Any]:
    """All tags of a page of tifffile, by number."""
    return {tag.code: tag.value for tag in page.tags}


def page_orientation(page: Any) -> int:
    """As EXIF numbers it."""
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag is not None else 1


def bands_last(values: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    """``(H, W, bands)`` of an array whose axes tifffile names so.

    Raises:
        ValueError: more axes than bands, Y and X.
    """
    keep = [i for i, axis in enumerate(axes) if axis in "YX" or values.shape[i] > 1]
    others = [axes[i] for i in keep if axes[i] not in "YX"]
    if len(others) > 1 or not {"Y", "X"} <= set(axes):
        raise ValueError(
            f"a TIFF file with the axes {axes} {values.shape}, expected bands, Y and X"
        )
    values = values.reshape([values.shape[i] for i in keep])
    if not others:
        return values[..., None]
    return np.moveaxis(values, 0, -1) if axes[keep[0]] == others[0] else values


def decode(series: Any) -> npt.NDArray[Any]:
    """The values of a page or series of tifffile.

    Raises:
        ValueError: they are compressed in a way that needs imagecodecs.
    """
    try:
        return np.asarray(series.asarray())
    except ValueError as error:
        hint = ": pip install imagecodecs" if "imagecodecs" in str(error) else ""
        raise ValueError(f"{error}{hint}") from error


def _number(text: object) -> float | None:
    """Of GDAL's tag, which is text."""
    if text is None:
        return None
    try:
        return float(str(text).strip(" \0"))
    except ValueError:
        return None

"""Reading image files of any depth and number of channels, upright, as 8 bit.

Shapes: pixels (H, W, C). Pillow reads 8 bit grey, RGB and RGBA, 16-bit grey, and floating grey. PNG
files of 16-bit colour are read by torchvision, and TIFF files that Pillow would misread by
tifffile (extra ``tiff``; see ``tiff.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from reco.data.reading.no_value import has_value, mark_no_value
from reco.data.reading.tiff import (
    ORIENTATION,
    TiffTags,
    bands_last,
    decode,
    is_tiff,
    open_tiff,
    page_orientation,
    page_tags,
    tiff_tags,
)

if TYPE_CHECKING:
    from reco.config import DatasetConfig

Pixels = npt.NDArray[np.uint8]
ValueRange = tuple[tuple[float, float], ...]
"""Lowest and highest value: one pair for all channels, or one for each."""

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_WIDE_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_opening = threading.Lock()


class ImageFormat(NamedTuple):
    """Channels and range of values to which images are converted.

    Args:
        channels: C. Grey files are repeated for 3; colour becomes grey for 1; of an RGBA file, 3
            takes no transparency.
        value_range: which values become 0 and 255, for files of more than 8 bits a channel;
            ``None`` takes all that their type can hold.
    """

    channels: int = 3
    value_range: ValueRange | None = None

    @classmethod
    def from_config(cls, config: DatasetConfig) -> ImageFormat:
        """The format of a data set's images."""
        return cls(config.channels, as_value_range(config.value_range))


RGB = ImageFormat()


def open_image(path: str | Path) -> Image.Image:
    """``Image.open`` without the limit of size: the user's files are no decompression bombs."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def read_pixels(path: str | Path, format: ImageFormat) -> Pixels:
    """An image file, upright, ``(H, W, C)`` uint8.

    Raises:
        ValueError: it cannot be read, or has other channels; the file is named.
        ImportError: tifffile is needed and missing.
    """
    try:
        return to_8_bit(read_values(path, format.channels), format.value_range)
    except ValueError as error:
        named = str(error).startswith(str(path))
        raise ValueError(str(error) if named else f"{path}: {error}") from error


def read_values(path: str | Path, channels: int) -> npt.NDArray[Any]:
    """As :func:`read_pixels`, in the values and the type of the file; see :mod:`.no_value`."""
    try:
        values = _read(Path(path), channels)
    except ImportError:
        raise
    except MemoryError as error:
        raise MemoryError(f"{path}: not enough memory to read it") from error
    except Exception as error:  # a broken file makes decoders raise nearly anything
        raise ValueError(f"{path}: cannot be read as an image: {error}") from error
    try:
        return with_channels(values, channels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}{_if_transposed(values.shape, channels)}") from error


def _if_transposed(shape: tuple[int, ...], channels: int) -> str:
    """What to do about the rows of an (H, W, C) array that tifffile wrote as H pages of W x C."""
    pages = shape[2]
    if shape[1] != channels or pages <= 4:
        return ""
    return (
        f"; it is stored as {pages} pages of {channels} x {shape[0]}: if it is an image of "
        f"{shape[0]} x {pages} pixels with {channels} bands, write it with planarconfig='contig'"
    )


def image_values(image: Image.Image, channels: int) -> npt.NDArray[Any]:
    """As :func:`read_values`, of an opened image.

    Raises:
        ValueError: other channels, or a TIFF file that Pillow misreads.
    """
    tags = tiff_tags(image)
    if tags is not None and not tags.pillow_reads:
        raise ValueError(
            "an opened TIFF file of this depth or order of bands, which Pillow misreads: give its "
            "path, or an array"
        )
    values = pillow_values(ImageOps.exif_transpose(image), channels)
    return with_channels(mark_no_value(values, nodata_of(image)), channels)


def with_channels(values: npt.NDArray[Any], channels: int) -> npt.NDArray[Any]:
    """``(H, W, channels)`` of ``(H, W, C)``, see :class:`ImageFormat`.

    Raises:
        ValueError: another number of channels.
    """
    count = values.shape[2]
    if count == channels:
        return values
    if channels == 3 and count == 1:
        return np.repeat(values, 3, axis=2)
    if channels == 3 and count == 4:
        return np.ascontiguousarray(values[:, :, :3])
    if channels == 1 and count in (3, 4):
        grey = values[:, :, :3] @ np.array([0.299, 0.587, 0.114])
        if values.dtype.kind != "f":
            grey = grey.round()
        converted: npt.NDArray[Any] = grey.astype(values.dtype)[:, :, None]
        return converted
    raise ValueError(f"has {count} channels, expected {channels} (dataset.channels)")


def to_8_bit(values: npt.NDArray[Any], value_range: ValueRange | None) -> Pixels:
    """Values brought to 0..255; those beyond the range are cut off, 8-bit ones stay as they are.

    NaN, infinite numbers and those beyond ±1e38 become 0.

    Args:
        values: ``(H, W, C)`` of any type.
        value_range: see :class:`ImageFormat`.

    Raises:
        ValueError: floating values without a range, or another number of ranges than channels.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    channels = values.shape[2]
    if value_range is None:
        if values.dtype.kind == "f":
            raise ValueError(
                "floating-point pixels: dataset.value_range (such as [0.0, 1.0]) says which values "
                "are black and white"
            )
        # Pillow's mode "I" holds 16-bit files in 32 bits.
        top = 65535 if values.dtype.itemsize > 2 else np.iinfo(values.dtype).max
        value_range = ((0, top),)
    if len(value_range) not in (1, channels):
        raise ValueError(
            f"dataset.value_range has {len(value_range)} pairs, expected one, or one for each of "
            f"{channels} channels"
        )
    pixels = np.empty(values.shape, np.uint8)
    for channel in range(channels):
        low, high = value_range[channel if len(value_range) > 1 else 0]
        pixels[..., channel] = _scale(values[..., channel], low, high)
    return pixels


def is_wide(path: str | Path) -> bool:
    """Whether a file has more than 8 bits a channel, by its header; False for a broken one."""
    if _begins_as_8_bit(path):
        return False
    try:
        with open_image(path) as image:
            tags = tiff_tags(image)
            deep = tags.bits > 8 if tags is not None else is_deep_png(image)
            return image.mode in _WIDE_GREY or deep
    except Exception:
        pass  # unknown to Pillow, or broken, which is reported when it is read
    try:
        with open_tiff(path) as file:
            return bool(file.series[0].dtype != np.uint8)
    except Exception:
        return False


def _begins_as_8_bit(path: str | Path) -> bool:
    """Whether it is JPEG or PNG of at most 8 bits, by its first bytes, without a decoder."""
    try:
        with open(path, "rb") as file:
            start = file.read(25)
    except OSError:
        return False
    # PNG: the depth follows width and height in the header, its first chunk.
    depth = start[24:25]
    return start.startswith(_JPEG) or (start.startswith(_PNG) and b"\0" < depth <= b"\x08")


def orientation(path: str | Path) -> int:
    """How EXIF turns a file's pixels, 1 (not at all) to 8, by its header."""
    with open_image(path) as image:
        return orientation_of(image)


def upright(values: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """``(H, W, …)`` pixels turned by EXIF's orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def image_size(path: str | Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the stored pixels and of the upright image, by the header.

    Raises:
        ValueError: the file cannot be read; it is named.
    """
    try:
        try:
            with open_image(path) as image:
                stored, turn = image.size[::-1], orientation_of(image)
        except Exception:
            if not is_tiff(path):
                raise
            with open_tiff(path) as file:
                page = file.series[0].keyframe
                stored, turn = (page.imagelength, page.imagewidth), page_orientation(page)
    except ImportError:
        raise
    except Exception as error:  # as in read_values
        raise ValueError(f"{path}: cannot be read as an image: {error}") from error
    return stored, stored[::-1] if turn >= 5 else stored


def image_tensor(image: Image.Image | Pixels) -> Tensor:
    """``(C, H, W)`` uint8 of an image from a reader."""
    if isinstance(image, Image.Image):
        tensor: Tensor = pil_to_tensor(image)
        return tensor
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def to_rgb(image: Pixels) -> Pixels:
    """``(H, W, 3)`` for pictures, of ``(H, W, C)``: the first three channels, or the first."""
    first = image[..., :3] if image.shape[2] >= 3 else image[..., :1]
    return np.repeat(first, 3, axis=2) if first.shape[2] == 1 else np.ascontiguousarray(first)


def _read(path: Path, channels: int) -> npt.NDArray[Any]:
    try:
        image = open_image(path)
    except Exception:
        if not is_tiff(path):
            raise
        return _read_tiff(path)
    with image:
        if not pillow_reads(image, channels):
            if image.format == "TIFF":
                return _read_tiff(path)
            return np.ascontiguousarray(upright(_read_deep_png(path), orientation_of(image)))
        return mark_no_value(
            pillow_values(ImageOps.exif_transpose(image), channels), nodata_of(image)
        )


def pillow_values(image: Image.Image, channels: int) -> npt.NDArray[Any]:
    """Values of an opened image as stored, in grey, RGB or RGBA."""
    if image.mode not in _WIDE_GREY:
        image = _to_8_bit_mode(image, channels)
    values = np.asarray(image)
    return values if values.ndim == 3 else values[..., None]


def nodata_of(image: Image.Image) -> float | None:
    """The value that a TIFF file opened by Pillow gives to pixels without one."""
    tags = tiff_tags(image)
    return None if tags is None else tags.nodata


def _to_8_bit_mode(image: Image.Image, channels: int) -> Image.Image:
    """Grey, RGB or RGBA, as the file has them; RGB for ``channels`` = 3."""
    if "transparency" in image.info:
        image = image.convert("RGBA")
    if channels == 3:
        return image.convert("RGB")
    if channels == 1:
        return image.convert("L")
    grey = image.mode in ("1", "L", "LA")
    return image if image.mode == "RGBA" else image.convert("L" if grey else "RGB")


def orientation_of(image: Image.Image) -> int:
    """As :func:`orientation`, of an opened file."""
    # Without EXIF data in the header, Pillow would decode a whole PNG to find some.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    found = image.getexif().get(ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def pillow_reads(image: Image.Image, channels: int) -> bool:
    """Whether Pillow reads the file without loss."""
    tags = tiff_tags(image)
    if tags is not None:
        return tags.pillow_reads and channels in (1, 3)
    return not is_deep_png(image)


def is_deep_png(image: Image.Image) -> bool:
    """Whether Pillow would drop the lower half of 16-bit colours."""
    colour = image.mode in ("RGB", "RGBA", "LA")
    return colour and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _read_deep_png(path: Path) -> npt.NDArray[Any]:
    from torchvision.io import decode_image

    values: npt.NDArray[Any] = decode_image(str(path)).permute(1, 2, 0).numpy()
    return values


def _read_tiff(path: Path) -> npt.NDArray[Any]:
    """Pixels of a TIFF file's first image, whatever its depth and number of bands."""
    values, tags = tiff_values(path)
    return np.ascontiguousarray(mark_no_value(values, tags.nodata))


def tiff_values(path: str | Path, *, first_page: bool = False) -> tuple[npt.NDArray[Any], TiffTags]:
    """``(H, W, bands)`` of a TIFF file by tifffile, upright, and its tags.

    Args:
        path: the file.
        first_page: of the first page alone; else of the first series, whose pages may be bands.
    """
    with open_tiff(path) as file:
        source = file.pages[0] if first_page else file.series[0]
        values = bands_last(decode(source), source.axes)
        page = source.keyframe
        return upright(values, page_orientation(page)), TiffTags.of(page_tags(page))


def _scale(values: npt.NDArray[Any], low: float, high: float) -> Pixels:
    """One channel; by a table for 16 bit, which is exact and takes no memory."""
    if values.dtype == np.uint16:
        table = _levels(np.arange(2**16, dtype=np.float64), low, high)
        pixels: Pixels = table[values]
        return pixels
    return _levels(values.astype(np.float64), low, high)


def _levels(values: npt.NDArray[np.float64], low: float, high: float) -> Pixels:
    scaled = (values - low) / ((high - low) / 255)
    scaled[~has_value(values)] = 0
    levels: Pixels = scaled.round().clip(0, 255).astype(np.uint8)
    return levels


def as_value_range(given: Sequence[Any] | None) -> ValueRange | None:
    """``[low, high]`` or ``[[low, high], …]`` of the configuration.

    Raises:
        ValueError: a number that is not finite.
    """
    if given is None:
        return None
    pairs = given if isinstance(given[0], Sequence) else [given]
    value_range = tuple((float(low), float(high)) for low, high in pairs)
    if not np.isfinite(value_range).all():
        raise ValueError(f"dataset.value_range = {given}: expected finite numbers")
    return value_range


def all_tags(path: Path) -> dict[int, Any]:
    """All tags of a TIFF file by number; none of another file."""
    if not is_tiff(path):
        return {}
    try:
        with open_image(path) as image:
            return dict(getattr(image, "tag_v2", {}))
    except Exception:
        try:
            with open_tiff(path) as file:
                return page_tags(file.series[0].keyframe)
        except Exception:
            return {}

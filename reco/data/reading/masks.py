"""The content of mask files: values, palette indices or colours."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from reco.data.reading.images import is_deep_png, open_image, tiff_values
from reco.data.reading.tiff import TiffTags, is_tiff, tiff_tags

_GREY = ("L", "I", "I;16", "I;16B", "I;16L", "I;16N")
_DEEP_COLOUR = "colour of 16 bit"
_BEYOND = 2**30  # greater values are no classes; they are cut off here to fit into 32 bits
_COLOUR = ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


class BrokenMaskError(ValueError):
    """A mask that cannot be read, or has another size than its image."""


class UnknownValueError(ValueError):
    """A mask with values or colours of no class."""

    def __init__(self, source: object, text: str, found: Sequence[str]) -> None:
        super().__init__(f"{source}: {text}")
        self.source = str(source)
        self.found = tuple(found)  # values or colours, as text


class Mask(NamedTuple):
    """The pixels of a mask file."""

    values: npt.NDArray[Any]  # (H, W) integers: grey value, palette index, or colour 0xRRGGBB
    kind: Literal["value", "bit", "index", "colour"]  # bit: black and white, values 0 and 1
    palette: tuple[int, ...] = ()  # colour 0xRRGGBB of each index, where kind is "index"
    lossy: bool = False  # a format that may have changed the pixels when it was written
    white: int = 255  # the value of white, where kind is "value" or "bit"

    def counts(self) -> dict[int, int]:
        """Number of pixels of each value."""
        if self.values.dtype == np.uint8:
            counts = np.bincount(self.values.ravel(), minlength=256)
            found = np.flatnonzero(counts)
            return dict(zip(found.tolist(), counts[found].tolist(), strict=True))
        found, counts = np.unique(self.values, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))


class _Content(NamedTuple):
    """What a file holds, however it was read."""

    pixels: npt.NDArray[Any]  # (H, W) or (H, W, bands)
    mode: str  # Pillow's, or a description of what is no mask
    palette: tuple[int, ...] = ()
    lossy: bool = False
    white: int = 255


def read_mask(path: str | Path) -> Mask:
    """Pixels of a mask file, as stored; transparency is dropped.

    Raises:
        BrokenMaskError: the file cannot be read.
        ValueError: its pixels are no whole numbers, or no mask.
        ImportError: tifffile is needed and missing.
    """
    try:
        pixels, mode, palette, lossy, white = _content(path)
    except ImportError:
        raise
    except MemoryError as error:
        raise MemoryError(f"{path}: not enough memory to read it") from error
    except Exception as error:  # a broken file makes decoders raise nearly anything
        raise BrokenMaskError(f"{path}: cannot be read as a mask: {error}") from error
    if mode == _DEEP_COLOUR:
        raise ValueError(f"{path}: is a colour mask of 16 bit a channel, expected 8 bit")
    if mode == "1":
        return Mask(pixels.astype(np.uint8), "bit", white=1)
    if mode in ("P", "PA"):
        return Mask(pixels if mode == "P" else pixels[..., 0], "index", palette)
    if mode in _GREY:
        return Mask(pixels, "value", lossy=lossy, white=white)
    if mode == "LA":
        return Mask(pixels[..., 0], "value", lossy=lossy)
    if mode in _COLOUR:
        return Mask(pack(pixels), "colour", lossy=lossy)
    if mode == "F":
        return Mask(_to_integers(pixels, path), "value")
    raise ValueError(
        f"{path}: is an image of {mode if 'bands' in mode else f'mode {mode}'}, expected a mask: "
        "grey, palette, RGB or RGBA"
    )


def _content(path: str | Path) -> _Content:
    """By Pillow; by another decoder what it does not know or misreads."""
    try:
        image = open_image(path)
    except Exception:
        if not is_tiff(path):
            raise
        return _tiff_content(path)
    with image:
        tags = tiff_tags(image)
        if tags is not None and not tags.pillow_reads:
            return _tiff_content(path)
        mode, palette = image.mode, _palette(image)
        if is_deep_png(image):
            return _Content(np.empty(0), _DEEP_COLOUR)
        lossy = _is_lossy(image, path)
        highest = _highest(image)  # before the pixels are read, which empties the tiles
        pixels = np.asarray(image if mode not in ("CMYK", "YCbCr") else image.convert("RGB"))
    if tags is not None:
        pixels = _as_stored(pixels, tags)
    if highest is not None:
        pixels = _unscaled(pixels, mode, highest)
    return _Content(pixels, mode, palette, lossy, min(highest or 255, 255))


def _is_lossy(image: Image.Image, path: str | Path) -> bool:
    """Whether the file's format may have changed pixels when it was written."""
    if image.format == "WEBP":
        with open(path, "rb") as file:
            file.seek(12)
            while len(header := file.read(8)) == 8:
                kind, length = struct.unpack("<4sI", header)
                if kind in (b"VP8 ", b"VP8L"):
                    return bool(kind == b"VP8 ")
                file.seek(length + length % 2, 1)
    tags = tiff_tags(image)
    return image.format in ("JPEG", "MPO", "WEBP") or (tags is not None and tags.lossy)


def _highest(image: Image.Image) -> int | None:
    """What a file holds at most, where Pillow brings that to 255 or 65535; before it is decoded."""
    for codec, _, _, given in getattr(image, "tile", ())[:1]:
        kind, *others = given if isinstance(given, tuple) else (given,)
        if codec in ("ppm", "ppm_plain"):  # of one bit there is none, or None
            return others[0] if others and isinstance(others[0], int) else None
        return {"L;2": 3, "L;4": 15}.get(str(kind)[:3])  # grey of 2 and 4 bit, PNG and TIFF
    return None


def _unscaled(pixels: npt.NDArray[Any], mode: str, highest: int) -> npt.NDArray[Any]:
    """The values in the file, of pixels that Pillow has scaled."""
    if mode == "RGB" and highest != 255:
        raise ValueError(f"its colours end at {highest} (maxval of PPM), expected 255")
    top = 65535 if mode == "I" else 255
    table = np.rint(np.arange(top + 1) * (highest / top)).astype(pixels.dtype)
    return np.asarray(table[pixels])


def _as_stored(pixels: npt.NDArray[Any], tags: TiffTags) -> npt.NDArray[Any]:
    """The values in the file, of a TIFF file that Pillow read."""
    # In fax files, WhiteIsZero is the usual way to store white as white.
    if tags.pillow_inverts and not tags.fax:
        return ~pixels
    if tags.signed and pixels.dtype == np.uint8:
        return pixels.view(np.int8)
    return pixels


def _tiff_content(path: str | Path) -> _Content:
    """The first page of a TIFF file, by tifffile."""
    pixels, tags = tiff_values(path, first_page=True)
    bands = pixels.shape[2]
    if bands == 1 or (bands == 2 and tags.alpha):
        return _one_band(pixels[..., 0])._replace(lossy=tags.lossy)
    if not tags.is_rgb:
        return _Content(pixels, f"{bands} bands that are not declared as RGB")
    kind = "RGB" if pixels.dtype == np.uint8 else _DEEP_COLOUR
    return _Content(pixels, kind, lossy=tags.lossy)


def _one_band(values: npt.NDArray[Any]) -> _Content:
    """``(H, W)`` values of any type."""
    kind = values.dtype.kind
    if kind in "iu" and values.dtype.itemsize == 8:
        lowest = 0 if kind == "u" else -_BEYOND
        values = values.clip(lowest, _BEYOND).astype(np.int32)
    modes = {"b": "1", "i": "I", "u": "I", "f": "F"}
    return _Content(values, modes.get(kind, str(values.dtype)))


def pack(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """``(H, W)`` colours 0xRRGGBB of ``(H, W, 3 or more)`` pixels."""
    packed = pixels[..., 0].astype(np.int32)
    for channel in (1, 2):
        packed <<= 8
        packed |= pixels[..., channel]
    return packed


def brightness(values: npt.ArrayLike, white: int) -> npt.NDArray[np.int32]:
    """0..255 of values whose white is ``white``."""
    return np.rint(np.asarray(values) * (255 / white)).astype(np.int32)


def colour_name(colour: int) -> str:
    """``#rrggbb``."""
    return f"#{colour:06x}"


def _palette(image: Image.Image) -> tuple[int, ...]:
    if image.mode not in ("P", "PA"):
        return ()
    flat = image.getpalette("RGB") or []
    entries = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    return tuple(red << 16 | green << 8 | blue for red, green, blue in entries)


def _to_integers(pixels: npt.NDArray[np.floating[Any]], path: str | Path) -> npt.NDArray[np.int32]:
    if not np.isfinite(pixels).all() or (pixels != np.round(pixels)).any():
        raise ValueError(
            f"{path}: holds floating-point numbers from {np.nanmin(pixels)} to "
            f"{np.nanmax(pixels)} that are not all whole, expected class values"
        )
    return pixels.astype(np.float64).clip(-_BEYOND, _BEYOND).astype(np.int32)

"""The content of mask files: values, palette indices or colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from reco.data.reading.images import open_image

# Formats that may change pixels when they are written.
_LOSSY_FORMATS = ("JPEG", "MPO", "WEBP")
_GREY = ("L", "I", "I;16", "I;16B", "I;16L", "I;16N")
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

    def counts(self) -> dict[int, int]:
        """Number of pixels of each value."""
        if self.values.dtype == np.uint8:
            counts = np.bincount(self.values.ravel(), minlength=256)
            found = np.flatnonzero(counts)
            return dict(zip(found.tolist(), counts[found].tolist(), strict=True))
        found, counts = np.unique(self.values, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))


def read_mask(path: str | Path) -> Mask:
    """Pixels of a mask file; transparency is dropped.

    Raises:
        BrokenMaskError: the file cannot be read.
        ValueError: its pixels are no whole numbers.
    """
    try:
        with open_image(path) as image:
            mode, lossy = image.mode, image.format in _LOSSY_FORMATS
            palette = _palette(image)
            # Pillow silently reads 16-bit colour as 8-bit.
            deep = mode in ("RGB", "RGBA") and any(";16" in str(tile[3]) for tile in image.tile)
            pixels = np.asarray(image if mode not in ("CMYK", "YCbCr") else image.convert("RGB"))
    except MemoryError as error:
        raise MemoryError(f"{path}: not enough memory to read it") from error
    except Exception as error:  # a broken file makes decoders raise nearly anything
        raise BrokenMaskError(f"{path}: cannot be read as a mask: {error}") from error
    if deep:
        raise ValueError(f"{path}: is a colour mask of 16 bit a channel, expected 8 bit")
    if mode == "1":
        return Mask(pixels.astype(np.uint8), "bit")
    if mode in ("P", "PA"):
        return Mask(pixels if mode == "P" else pixels[..., 0], "index", palette)
    if mode in _GREY:
        return Mask(pixels, "value", lossy=lossy)
    if mode == "LA":
        return Mask(pixels[..., 0], "value", lossy=lossy)
    if mode in _COLOUR:
        return Mask(pack(pixels), "colour", lossy=lossy)
    if mode == "F":
        return Mask(_to_integers(pixels, path), "value")
    raise ValueError(
        f"{path}: is an image of mode {mode}, expected a mask: grey, palette, RGB or RGBA"
    )


def pack(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """``(H, W)`` colours 0xRRGGBB of ``(H, W, 3 or more)`` pixels."""
    packed = pixels[..., 0].astype(np.int32)
    for channel in (1, 2):
        packed <<= 8
        packed |= pixels[..., channel]
    return packed


def colour_name(colour: int) -> str:
    """``#rrggbb``."""
    return f"#{colour:06x}"


def _palette(image: Image.Image) -> tuple[int, ...]:
    if image.mode not in ("P", "PA"):
        return ()
    flat = image.getpalette("RGB") or []
    entries = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    return tuple(red << 16 | green << 8 | blue for red, green, blue in entries)


def _to_integers(pixels: npt.NDArray[np.float32], path: str | Path) -> npt.NDArray[np.int32]:
    if not np.isfinite(pixels).all() or (pixels != np.round(pixels)).any():
        raise ValueError(
            f"{path}: holds floating-point numbers from {np.nanmin(pixels)} to "
            f"{np.nanmax(pixels)} that are not all whole, expected class values"
        )
    return pixels.clip(-(2**30), 2**30).astype(np.int32)

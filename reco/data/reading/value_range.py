"""Which values of 16-bit and floating images are black and white: ``dataset.value_range``.

A camera of 10 or 12 bits writes 16-bit files whose values end at 1023 or 4095. If the files
declare it (TIFF's BitsPerSample and MaxSampleValue, PNG's sBIT) and their values comply, that is
the range. Else it is found once over the data set: from 0 to the largest number of the bits that
the largest value takes, or, where that would leave 99.9 % of the values in its lowest quarter, to
their 99.9th percentile. Floating values within 0 and 1 have that range, others one from the 0.1th
to the 99.9th percentile. RGB files have one range, other numbers of channels one for each.
Pixels without a value (``no_value.py``) do not count.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reco.data.reading.images import (
    ValueRange,
    all_tags,
    as_value_range,
    is_wide,
    read_values,
)
from reco.data.reading.no_value import has_value
from reco.data.reading.tiff import TiffTags
from reco.threads import in_threads

MOST_FILES = 500
"""So many files, evenly spread over the data set, are read to find a range."""

_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281
_MOST_VALUES = 200_000  # of each channel of a file; all of them for the lowest and highest
_CUT_OFF, _DARK = 0.01, 1 / 8


class _Content(NamedTuple):
    """The values of one file, of one or of each channel."""

    quantiles: npt.NDArray[np.float64]  # (channels, 1001); NaN where no pixel has a value
    whole: bool  # integers
    top: int | None  # highest value by the file's header


def wide_files(paths: Sequence[Path]) -> list[Path]:
    """Those of more than 8 bits a channel, sorted."""
    found = in_threads(is_wide, paths, title="depth of images")
    return sorted(path for path, wide in zip(paths, found, strict=True) if wide)


def find_value_range(paths: Sequence[Path], channels: int) -> ValueRange | None:
    """The range of the images of a data set; ``None`` where all of them are 8-bit files.

    Raises:
        ValueError: no file has a value in some channel.
    """
    wide = wide_files(paths)
    contents = _read_all(wide, channels)
    try:
        return _decide_all(contents) if contents else None
    except ValueError as error:
        others = f" and {len(wide) - 1} more" if len(wide) > 1 else ""
        raise ValueError(f"{wide[0]}{others}: {error}") from error


def judge_value_range(value_range: ValueRange, paths: Sequence[Path], channels: int) -> str | None:
    """The error of a range that was set, by the files' values; ``None`` if it fits."""
    contents = _read_all(wide_files(paths), channels)
    for group, quantiles in enumerate(zip(*(c.quantiles for c in contents), strict=True)):
        low, high = value_range[group if len(value_range) > 1 else 0]
        values = np.concatenate(quantiles)
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        beyond = float(((values < low) | (values > high)).mean())
        dark = np.quantile(values, 0.999) < low + _DARK * (high - low)
        if beyond > _CUT_OFF or dark:
            harm = f"{beyond:.0%} of them are cut off" if beyond > _CUT_OFF else "all come out dark"
            return (
                f"dataset.value_range = {value_range_text(value_range)}: the files hold values "
                f"from {values.min():g} to {values.max():g}, so that {harm}; without the key the "
                f"range is {value_range_text(_decide_all(contents))}"
            )
    return None


def value_range_text(value_range: ValueRange) -> str:
    """The range as the configuration states it."""
    pairs = [f"[{low:g}, {high:g}]" for low, high in value_range]
    return pairs[0] if len(pairs) == 1 else f"[{', '.join(pairs)}]"


def _read_all(paths: Sequence[Path], channels: int) -> list[_Content]:
    """Contents of at most ``MOST_FILES`` files; those that cannot be read are skipped."""
    step = max(1, -(-len(paths) // MOST_FILES))

    def read(path: Path) -> _Content | None:
        try:
            values = read_values(path, channels)
        except (ValueError, ImportError, MemoryError):
            return None
        if values.dtype == np.uint8:
            return None
        tags = all_tags(path)
        marked = TiffTags.of(tags).nodata is not None
        flat = values.reshape(-1, channels).T if channels != 3 else values.reshape(1, -1)
        quantiles = np.stack([_quantiles(group, marked) for group in flat])
        return _Content(quantiles, values.dtype.kind in "iu", _declared_top(path, tags))

    contents = in_threads(read, paths[::step], title="range of values")
    return [content for content in contents if content is not None]


def _quantiles(values: npt.NDArray[Any], marked: bool) -> npt.NDArray[np.float64]:
    """1001 quantiles of those of ``(N,)`` values that count; NaN if none does."""
    valid = has_value(values, marked=marked)
    if not valid.all():
        values = values[valid]
    if not values.size:
        return np.full(1001, np.nan)
    thin = values[:: max(1, values.size // _MOST_VALUES)].astype(np.float64)
    quantiles: npt.NDArray[np.float64] = np.quantile(thin, np.linspace(0, 1, 1001))
    quantiles[0], quantiles[-1] = values.min(), values.max()
    return quantiles


def _decide_all(contents: Sequence[_Content]) -> ValueRange:
    found = []
    for group in range(contents[0].quantiles.shape[0]):
        counted = [(c.quantiles[group], c) for c in contents if np.isfinite(c.quantiles[group, 0])]
        if not counted:
            raise ValueError(
                f"no image has a value in channel {group + 1}: all are NaN, infinite or nodata. "
                "Leave such images out, or set dataset.value_range"
            )
        low, high = _decide(counted)
        if high <= low:  # all values are the same
            high = low + max(1e-6, abs(low) * 1e-6)
        found.append((low, high))
    return as_value_range(found) or ()


def _decide(contents: Sequence[tuple[npt.NDArray[np.float64], _Content]]) -> tuple[float, float]:
    values = np.concatenate([quantiles for quantiles, _ in contents])
    lowest, highest = float(values.min()), float(values.max())
    few, most = (float(v) for v in np.quantile(values, (0.001, 0.999)))
    low = 0.0 if lowest >= 0 else few
    if not all(content.whole for _, content in contents):
        return (0.0, 1.0) if lowest >= 0 and highest <= 1 else (few, most)
    tops = [content.top for _, content in contents if content.top is not None]
    if len(tops) == len(contents) and highest <= max(tops):
        return low, float(max(tops))
    high = float(2 ** max(8, int(highest).bit_length()) - 1)
    if most >= high / 4:
        return low, high
    digits = 10 ** max(0, len(str(int(most))) - 2)
    return low, float(max(1, -(-int(np.ceil(most)) // digits) * digits))


def _declared_top(path: Path, tags: Mapping[int, Any]) -> int | None:
    """The highest value that a file declares for its samples, where below 16 bits.

    Args:
        path: the file.
        tags: those of a TIFF file.
    """
    if path.suffix.lower() == ".png":
        bits = _significant_bits(path)
        return 2**bits - 1 if bits is not None and bits < 16 else None
    bits_per_sample = max(np.atleast_1d(tags.get(_BITS_PER_SAMPLE, 16)).tolist())
    tops = [2 ** int(bits_per_sample) - 1] if bits_per_sample < 16 else []
    tops += [int(v) for v in np.atleast_1d(tags.get(_MAX_SAMPLE_VALUE, [])).tolist() if v < 65535]
    return max(tops, default=None)


def _significant_bits(path: Path) -> int | None:
    """The largest number in a PNG file's sBIT chunk."""
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if kind == b"sBIT":
                return max(file.read(length), default=None)
            if kind in (b"IDAT", b"PLTE"):
                return None
            file.seek(length + 4, 1)
    return None

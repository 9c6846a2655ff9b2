"""Pixels without a value in images of more than 8 bits: they are black, and no range counts them.

These are NaN, infinite numbers, numbers beyond ±1e38 (programs write the largest float32 where they
have no value), and what a file's GDAL_NODATA tag names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_BEYOND = 1e38


def mark_no_value(values: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[Any]:
    """The values with NaN in place of ``nodata``; in whole numbers, the lowest of their type.

    8-bit values stay as they are.
    """
    dtype = values.dtype
    if nodata is None or np.isnan(nodata) or dtype.kind not in "iuf" or dtype.itemsize == 1:
        return values
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            named = dtype.type(nodata)
        blank = dtype.type(np.nan)
    else:
        info = np.iinfo(dtype)
        if not (float(nodata).is_integer() and info.min <= nodata <= info.max):
            return values
        named, blank = dtype.type(int(nodata)), dtype.type(info.min)
    marked = values == named
    return np.where(marked, blank, values) if marked.any() else values


def has_value(values: npt.NDArray[Any], *, marked: bool = False) -> npt.NDArray[np.bool_]:
    """Which values count.

    Args:
        values: of any type.
        marked: the file names a value for pixels without one, see :func:`mark_no_value`.
    """
    if values.dtype.kind == "f":
        largest = min(_BEYOND, float(np.finfo(values.dtype).max))
        return np.asarray(np.abs(values) <= values.dtype.type(largest))
    if marked and values.dtype.kind in "iu":
        return np.asarray(values != np.iinfo(values.dtype).min)
    return np.ones(values.shape, np.bool_)

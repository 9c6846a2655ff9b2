"""Files of several pages, of which the first alone is read: scans, stacks, animations."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from PIL.TiffImagePlugin import TiffImageFile

from reco.data.reading.images import open_image, pillow_reads
from reco.printing import counted
from reco.threads import in_threads

_ENDINGS = frozenset({".tif", ".tiff", ".gif", ".webp"})
# TIFF tag, and its bits of pages that belong to the first: a smaller copy, a transparency.
_SUBFILE_TYPE = 254
_BELONGS = 1 | 4


def count_pages(path: Path, channels: int | None = None) -> int:
    """Number of pages of the first one's size, by the headers; 1 for a file that cannot be read.

    Smaller copies of a page, such as the overviews of GeoTIFF files, are no pages.

    Args:
        path: TIFF, GIF or WebP; of other formats, 1.
        channels: of an image, ``dataset.channels``; pages that are read as bands are one. ``None``
            for a mask.
    """
    if path.suffix.lower() not in _ENDINGS:
        return 1
    try:
        with open_image(path) as image:
            if channels is not None and not pillow_reads(image, channels):
                return 1
            if isinstance(image, TiffImageFile):
                return _count_tiff_pages(image)
            return getattr(image, "n_frames", 1)
    except Exception:  # a broken file is reported when it is read
        return 1


def _count_tiff_pages(image: TiffImageFile) -> int:
    size, count = _size(image), 1
    for number in itertools.count(1):
        try:
            image.seek(number)
        except EOFError:
            break
        except SyntaxError:
            pass  # Pillow cannot read pages of this kind, but has read the tags
        belongs = image.tag_v2.get(_SUBFILE_TYPE, 0) & _BELONGS
        count += _size(image) == size and not belongs
    return count


def _size(image: TiffImageFile) -> tuple[object, object]:
    """Width and length of the page, by its tags."""
    return image.tag_v2.get(256), image.tag_v2.get(257)


def masks_with_pages(masks: Iterable[Path | None]) -> list[str]:
    """What is wrong with masks of several pages: a line for each."""
    return [
        f"{path}: holds {count} pages, of which only the first would be read as the mask: save the "
        "page with the classes as a file of its own"
        for path, count in _with_pages(path for path in masks if path is not None)
    ]


def images_with_pages(images: Iterable[Path], channels: int) -> list[str]:
    """A line where images hold several pages; else none."""
    found = _with_pages(images, channels)
    if not found:
        return []
    path, count = found[0]
    files = counted(len(found), "image")
    return [f"several pages in {files}, such as {path} with {count}: the first counts"]


def _with_pages(paths: Iterable[Path], channels: int | None = None) -> list[tuple[Path, int]]:
    """The files that hold several pages, and how many."""
    chosen = [path for path in dict.fromkeys(paths) if path.suffix.lower() in _ENDINGS]
    counts = in_threads(partial(count_pages, channels=channels), chosen, title="counting pages")
    return [(path, count) for path, count in zip(chosen, counts, strict=True) if count > 1]

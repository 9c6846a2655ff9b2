"""Fingerprints of images and masks: a hash of their content, independent of their folder."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from reco.data.datasets.reader import FileReader, Reader
from reco.threads import in_threads

# Bytes of an image file that are read at its start, middle and end.
_BLOCK = 2**16


def fingerprint(reader: Reader, ids: Sequence[str]) -> str:
    """Sixteen hex digits of images and their masks.

    Ids and mask files count whole. Of an image file, its length and 64 KiB at begin, middle and end
    count: another image, or the same one saved anew, differs there. Synthetic
    images count pixel by pixel.

    Args:
        reader: of the data set.
        ids: which of its images, in any order.

    Raises:
        OSError: a file that cannot be read.
        ValueError: an id that the data set does not have.
    """
    whole = hashlib.sha256()
    for id, digest in _digests(reader, ids):
        whole.update(f"{id}\n".encode("utf-8", errors="surrogateescape") + digest)
    return whole.hexdigest()[:16]


def fingerprints(reader: Reader, ids: Sequence[str], most: int = 100) -> dict[str, str]:
    """Sixteen hex digits for each of the images, of ``most`` evenly chosen ones if there are more.

    What counts, the arguments and the errors are those of :func:`fingerprint`.
    """
    ids = sorted(ids)[:: math.ceil(len(ids) / most) or 1]
    return {id: digest.hex()[:16] for id, digest in _digests(reader, ids)}


def _digests(reader: Reader, ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    ids = sorted(ids)
    digests = in_threads(lambda id: _digest(reader, id), ids, title="comparing files")
    yield from zip(ids, digests, strict=True)


def _digest(reader: Reader, id: str) -> bytes:
    if isinstance(reader, FileReader):
        image, mask = reader.files(id)
        content = _sample(image)
        content += b"" if mask is None else hashlib.sha256(mask.read_bytes()).digest()
    else:
        content = reader.image(id).tobytes() + reader.label(id).tobytes()
    return hashlib.sha256(content).digest()


def _sample(path: Path) -> bytes:
    """Length of a file, and three blocks of it."""
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        parts = [f"{length}\n".encode()]
        for start in (0, (length - _BLOCK) // 2, length - _BLOCK):
            file.seek(max(0, start))
            parts.append(file.read(_BLOCK))
    return b"".join(parts)

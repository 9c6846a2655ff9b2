"""A resized copy of a data set, so that training decodes small files instead of large ones.

The copy has the layout and the file names of the original, so the same reader reads it, and the
pixels that training would make of the original at ``dataset.image_size``: images bilinear,
masks by nearest neighbour, both as PNG. Masks keep the values of their files; those of a ``folder``
data set, which may be colours, become class indices.

Every file is written beside its place and then renamed, so a file with its final name is whole;
after a kill, the next call continues.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Sequence, Set
from functools import partial
from itertools import chain, starmap
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from reco.data.datasets.folder import FolderReader
from reco.data.datasets.reader import COPY_OF, FULL_SIZE_CLASSES, RESIZED_TO, FileReader, Files
from reco.data.finding.patterns import SPLITS
from reco.data.reading.images import image_tensor
from reco.data.transforms import resize_pair
from reco.printing import counted, join_first
from reco.threads import do_all
from reco.writing import UNFINISHED, write_text_whole, write_whole

logger = logging.getLogger(__name__)


def resize_dataset(reader: FileReader, target: Path, size: tuple[int, int]) -> int:
    """Copy a data set to ``target``, every image and mask at ``size``.

    Args:
        reader: of the original.
        target: root of the copy. Of a copy that is there, files are made again whose original was
            written since.
        size: (height, width), usually the configuration's ``dataset.image_size``.

    Returns:
        Number of images that were not there yet, or not as they are now.

    Raises:
        ValueError: ``target`` is the original, a copy of another size, or holds images that the
            data set no longer has; or files that cannot be read, by name: all others are copied
            then, but readers refuse the copy as unfinished.
        FileNotFoundError: no training or validation images.
    """
    if target.resolve() == reader.root.resolve():
        raise ValueError(f"{target}: is the data set itself, expected another folder for the copy")
    if (channels := reader.image_format.channels) not in (1, 3, 4):
        raise ValueError(
            f"dataset.channels = {channels}: copies are PNG files, which have 1, 3 or 4 channels"
        )
    pairs = _all_pairs(reader)
    target.mkdir(parents=True, exist_ok=True)
    _record_size(target, size)
    places = {id: _originals_and_copies(reader, id, files, target) for id, files in pairs.items()}
    _refuse_leftovers(target, {place for pair in places.values() for _, place in pair})
    if isinstance(reader, FolderReader):
        write_text_whole(target / COPY_OF, json.dumps(reader.origin))
    index = target / FULL_SIZE_CLASSES
    if index.is_file():
        if all(starmap(_is_copied, chain.from_iterable(places.values()))):
            return 0
        index.unlink()  # images were added or changed, or files of the copy removed

    def resize(item: tuple[str, Files]) -> tuple[str, list[int] | None, bool]:
        id, files = item
        is_new = _resize_one(reader, id, places[id], size)
        return id, None if files.mask is None else sorted(reader.classes(id)), is_new

    done = do_all(resize, sorted(pairs.items()), title=f"resizing to {size[0]}x{size[1]}")
    for path in sorted(reader.root.glob("*.txt")):  # lists of ids
        write_whole(target / path.name, partial(shutil.copyfile, path))
    classes = {id: found for id, found, _ in done if found is not None}
    write_text_whole(index, json.dumps(classes))
    for path in target.rglob(f"{UNFINISHED}*"):
        path.unlink()  # left by a killed run
    return sum(is_new for _, _, is_new in done)


def _all_pairs(reader: FileReader) -> dict[str, Files]:
    """Files by id of all splits; ``test`` may be missing, or images of it their masks.

    Raises:
        FileNotFoundError, ValueError: training or validation images are not there, or lack masks.
    """
    for split in ("train", "val"):
        reader.ids(split)
    pairs: dict[str, Files] = {}
    for split in (*SPLITS, "unlabelled"):
        with contextlib.suppress(FileNotFoundError):  # some data sets do not publish `test`
            found = reader.listing(split)
            pairs |= found.pairs
            if alone := len(found.images_alone):
                what = "1 image has" if alone == 1 else f"{alone} images have"
                logger.warning("%s: %s no mask and will not be in the copy", split, what)
    return pairs


def _record_size(target: Path, size: tuple[int, int]) -> None:
    """Note the size of the copy, so that two sizes are never mixed."""
    note = target / RESIZED_TO
    if note.is_file():
        before = tuple(json.loads(note.read_text(encoding="utf-8")))
        if before != size:
            raise ValueError(
                f"{target}: holds a copy resized to {before[0]}x{before[1]}, asked for "
                f"{size[0]}x{size[1]}; choose another folder"
            )
    elif any(target.iterdir()):
        raise ValueError(f"{target}: is not empty and no copy made here; choose another folder")
    else:
        write_text_whole(note, json.dumps(size))


def _originals_and_copies(
    reader: FileReader, id: str, files: Files, target: Path
) -> list[tuple[Path, Path]]:
    """Files and their copies: of the image and, where it has one, of its mask."""
    image_place, mask_place = reader.place_in_copy(id, files)
    pairs = [(files.image, target / image_place)]
    if files.mask is not None and mask_place is not None:
        pairs.append((files.mask, target / mask_place))
    return pairs


def _resize_one(
    reader: FileReader, id: str, copied: Sequence[tuple[Path, Path]], size: tuple[int, int]
) -> bool:
    """Resize image and mask unless that is done; returns whether it was to do."""
    if all(starmap(_is_copied, copied)):
        return False
    (_, image_place), *of_mask = copied
    pixels = image_tensor(reader.image(id))
    values = torch.zeros(pixels.shape[1:], dtype=torch.int32)
    if of_mask:
        mask, path = reader.mask(id)
        classes = reader.table.read(mask, path)  # raises for what is no usable mask
        stored = classes if isinstance(reader, FolderReader) else mask.values
        values = torch.from_numpy(stored.astype(np.int32))
    pixels, values = resize_pair(pixels, values, size)
    for _, place in of_mask:
        _save_png(values.numpy().astype(np.uint8 if values.max() < 256 else np.uint16), place)
    # The image last: where it is, the mask is too.
    _save_png(pixels.permute(1, 2, 0).numpy(), image_place)
    for source, place in copied:
        os.utime(place, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    return True


def _is_copied(source: Path, place: Path) -> bool:
    """Whether a copy is there, and of the file as it is: its time is that of the file."""
    return place.is_file() and place.stat().st_mtime_ns == source.stat().st_mtime_ns


def _refuse_leftovers(target: Path, expected: Set[Path]) -> None:
    """A copy must hold nothing that the data set does not have, or it would be trained on."""
    found = (path for path in target.rglob("*.png") if not path.name.startswith(UNFINISHED))
    if leftovers := sorted(path for path in found if path not in expected):
        raise ValueError(
            f"{target}: holds {counted(len(leftovers), 'file')} of images that the data set does "
            f"not have, or has in another split: {join_first(leftovers, 3)}. Delete them, or "
            "choose another folder"
        )


def _save_png(pixels: np.ndarray, path: Path) -> None:
    values = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    image = Image.fromarray(np.ascontiguousarray(values))
    write_whole(path, lambda to: image.save(to, compress_level=3))

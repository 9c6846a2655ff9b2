"""The interface of a data set, and how image and mask files are listed and read.

Every error about a file names the file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from reco import IGNORE
from reco.classes import DatasetSpec
from reco.data.finding.patterns import (
    IMAGE_ENDINGS,
    LOSSLESS_ENDINGS,
    PICTURE_ENDINGS,
    SPLITS,
    normal,
    walk,
)
from reco.data.reading.images import (
    RGB,
    ImageFormat,
    Pixels,
    image_size,
    orientation,
    read_values,
    to_8_bit,
    upright,
)
from reco.data.reading.mask_classes import ClassTable
from reco.data.reading.masks import BrokenMaskError, Mask, read_mask
from reco.data.reading.value_range import find_value_range, judge_value_range
from reco.paths import read_lines
from reco.printing import join_first

# In a copy made by reco.data.prepare: id -> classes in the mask before it was made smaller.
FULL_SIZE_CLASSES = "classes_at_full_size.json"
# In a copy too: (height, width). Where it is without the file above, the copy is not finished.
RESIZED_TO = "resized_to.json"
# In a copy of a `folder` data set, whose masks hold class indices: what it was made with.
COPY_OF = "copy_of.json"


class Reader(Protocol):
    """A data set. Ids are unique across splits and the same on every machine."""

    @property
    def spec(self) -> DatasetSpec:
        """Class names and colours."""

    @property
    def label_comes_with_image(self) -> bool:
        """Whether the label of an image just read costs nothing: there is no mask to decode."""

    def ids(self, split: str) -> list[str]:
        """Sorted ids of the images of ``"train"``, ``"val"`` or ``"test"`` that have labels.

        Raises:
            FileNotFoundError: the split is not there; the message says what is expected and where.
            ValueError: no such split, or an image without a mask.
        """

    def unlabelled_ids(self) -> list[str]:
        """Sorted ids of further training images that have no labels; often none."""

    def image(self, id: str) -> Image.Image | Pixels:
        """The image, upright: RGB, or ``(H, W, C)`` uint8 where C is not 3.

        Raises:
            ValueError: the file cannot be read as an image.
        """

    def label(self, id: str) -> Image.Image:
        """Its labels, mode "L": a class index in 0 .. C-1, or IGNORE.

        Raises:
            ValueError: the file cannot be read, has another size than the image, or holds a value
                that is no class.
        """


class Files(NamedTuple):
    """The files of one image; no mask for an unlabelled one."""

    image: Path
    mask: Path | None


class Listing(NamedTuple):
    """What the folders of a split hold."""

    pairs: dict[str, Files]  # by id
    missing: tuple[Path, ...] = ()  # folders; then there is nothing else
    images_alone: tuple[Path, ...] = ()  # no mask goes with them
    masks_alone: tuple[Path, ...] = ()  # no image goes with them, which does training no harm


class MaskContent(NamedTuple):
    """What a mask holds."""

    path: Path
    kind: Literal["value", "bit", "index", "colour"]  # as in Mask, like the palette
    palette: tuple[int, ...]
    values: dict[int, int]  # pixels of each value or colour in the file; empty for a JPEG file
    pixels: npt.NDArray[np.int64]  # (256,) of each class, IGNORE at 255

    @property
    def classes(self) -> frozenset[int]:
        """Classes without IGNORE."""
        return frozenset(np.flatnonzero(self.pixels[:IGNORE]).tolist())


class FileReader:
    """Base class of readers of image and mask files. A subclass says which files a split has.

    Args:
        root: folder of the data set.
        table: its classes, and what stands for them in the masks.
        expected: layout, and where people get the data; part of every message about something
            missing.
        alone_hint: what to do about an image without a mask.
        image_format: channels of the images, and the range of their values if it is known.
        turn_masks: masks lie on the stored pixels of photos that EXIF turns: turn them too.

    Raises:
        FileNotFoundError: ``root`` is not there.
    """

    label_comes_with_image = False

    def __init__(
        self,
        root: str | Path,
        *,
        table: ClassTable,
        expected: str,
        alone_hint: str = "",
        image_format: ImageFormat = RGB,
        turn_masks: bool = False,
    ) -> None:
        self.spec = table.spec
        self.root = Path(root)
        self.table = table
        self._expected = expected
        self._alone_hint = alone_hint
        self._image_format = image_format
        self.turn_masks = turn_masks
        self._listings: dict[str, Listing] = {}
        self.contents: dict[str, MaskContent] = {}  # of the masks read so far, by id
        if not self.root.is_dir():
            raise self.missing(self.root)
        index = self.root / FULL_SIZE_CLASSES
        if (self.root / RESIZED_TO).is_file() and not index.is_file():
            raise ValueError(
                f"{self.root}: a resized copy that is not finished; reco prepare with the same "
                "--resize-to goes on with it"
            )
        self._full_size_classes: dict[str, list[int]] = (
            json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
        )

    def ids(self, split: str) -> list[str]:
        """Sorted ids of a split; see :class:`Reader`."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
        return sorted(self._files(split))

    def unlabelled_ids(self) -> list[str]:
        """Sorted ids of the images without labels; see :class:`Reader`."""
        return sorted(self._files("unlabelled"))

    def listing(self, split: str) -> Listing:
        """What is there of a split (or of ``"unlabelled"``), complete or not.

        Raises:
            FileNotFoundError: the split is not public, or its list of images is not there.
            ValueError: files or lists that contradict each other.
        """
        if split not in self._listings:
            self._listings[split] = self._list(split)
        return self._listings[split]

    def image(self, id: str) -> Image.Image | Pixels:
        """The image; see :class:`Reader`."""
        path, channels = self.files(id).image, self._image_format.channels
        values = read_values(path, channels)
        if values.dtype != np.uint8:
            values = to_8_bit(values, self.image_format.value_range)
        return Image.fromarray(values) if channels == 3 else values

    @cached_property
    def image_format(self) -> ImageFormat:
        """Channels and range of values, the latter found over the data set where it is not set."""
        channels, value_range = self._image_format
        return ImageFormat(channels, value_range or find_value_range(self._image_files(), channels))

    def judge_value_range(self) -> str | None:
        """What is wrong with the configured range of values; ``None``: nothing."""
        channels, value_range = self._image_format
        if value_range is None:
            return None
        return judge_value_range(value_range, self._image_files(), channels)

    def _image_files(self) -> list[Path]:
        """The image files of all splits that are there, each once."""
        paths: list[Path] = []
        for split in (*SPLITS, "unlabelled"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                paths += [files.image for files in self.listing(split).pairs.values()]
        return list(dict.fromkeys(paths))

    def label(self, id: str) -> Image.Image:
        """Labels; see :class:`Reader`."""
        return Image.fromarray(self.table.read(*self.mask(id)))

    def mask(self, id: str) -> tuple[Mask, Path]:
        """The mask as it stands in its file, and the file.

        Raises:
            ValueError: the file cannot be read or has another size than the image, or the image is
                an unlabelled one.
        """
        files = self.files(id)
        if files.mask is None:
            raise ValueError(f"{files.image}: is an unlabelled image, it has no mask")
        mask = read_mask(files.mask)
        if self.turn_masks:
            turned = upright(mask.values, orientation(files.image))
            mask = mask._replace(values=np.ascontiguousarray(turned))
        _check_size(mask.values, files)
        return mask, files.mask

    def classes(self, id: str) -> frozenset[int]:
        """The classes in an image's mask.

        In a resized copy they are those of the full-size mask: a class of a few pixels may vanish
        on the way, and the few-shot split must not depend on that.
        """
        if id in self._full_size_classes:
            return frozenset(self._full_size_classes[id])
        return self.content(id).classes

    def content(self, id: str) -> MaskContent:
        """What an image's mask holds, read when first asked for."""
        if id not in self.contents:
            mask, path = self.mask(id)
            classes = self.table.read(mask, path)
            pixels = np.bincount(classes.ravel(), minlength=IGNORE + 1)
            values = {} if mask.lossy else mask.counts()
            self.contents[id] = MaskContent(path, mask.kind, mask.palette, values, pixels)
        return self.contents[id]

    def files(self, id: str) -> Files:
        """The files of an image.

        Raises:
            ValueError: no such image.
        """
        # Splits already listed come first: the others may not even exist.
        for split in (*self._listings, *SPLITS, "unlabelled"):
            try:
                pairs = self.listing(split).pairs
            except FileNotFoundError:
                continue
            if id in pairs:
                return pairs[id]
        raise ValueError(f"{id!r}: no such image in {self.root}")

    def path(self, id: str) -> str:
        """Path of an image below :attr:`root`, with ``/``."""
        path = str(self.files(id).image).removeprefix(f"{self.root}{os.sep}")
        return path.replace(os.sep, "/")

    def place_in_copy(self, id: str, files: Files) -> tuple[Path, Path | None]:
        """Where image and mask lie below the folder of a resized copy: where they lie here."""
        image, mask = (
            None if file is None else file.relative_to(self.root).with_suffix(".png")
            for file in files
        )
        assert image is not None, id
        return image, mask

    def _list(self, split: str) -> Listing:
        """Look for ``"train"``, ``"val"``, ``"test"`` or ``"unlabelled"``."""
        raise NotImplementedError

    def _files(self, split: str) -> dict[str, Files]:
        """Files by id of a split that is complete."""
        found = self.listing(split)
        if found.missing:
            raise self.missing(found.missing[0])
        alone = [str(path) for path in found.images_alone]
        if alone:
            raise ValueError(
                f"{len(alone)} of {len(alone) + len(found.pairs)} images without a mask: "
                f"{join_first(alone)}. {self.remedy_alone(found.images_alone[0])}"
            )
        if not found.pairs and split != "unlabelled":
            raise FileNotFoundError(f"{self.root}: no images found. Expected: {self._expected}")
        return found.pairs

    def remedy_alone(self, image: Path) -> str:
        """What to do about an image without a mask, and the layout that is expected."""
        return f"{self._hint_alone(image)}Expected: {self._expected}"

    def _hint_alone(self, image: Path) -> str:
        """What lies about that may be the mask of an image, and what to do."""
        stem = image.stem.removesuffix("_leftImg8bit")
        names = (PurePosixPath(path) for path in walk(self.root, [""]))
        others = [
            str(path)
            for path in names
            if stem in path.name
            and path.suffix.lower() in PICTURE_ENDINGS
            and self.root / path != image
        ]
        there = f"There is {join_first(sorted(others), 3)}. " if others else ""
        return there + self._alone_hint

    def missing(self, folder: Path) -> FileNotFoundError:
        """The error for a folder that is not there, with the layout that is expected."""
        return FileNotFoundError(f"{folder}: no such folder. Expected: {self._expected}")


def present_classes(label: Image.Image) -> frozenset[int]:
    """The classes in a label image of mode "L", without IGNORE."""
    return frozenset(c for c, pixels in enumerate(label.histogram()) if pixels and c != IGNORE)


def absent(*folders: Path) -> tuple[Path, ...]:
    """Those of ``folders`` that are not there."""
    return tuple(folder for folder in folders if not folder.is_dir())


def pair(
    images: Mapping[str, Path], masks: Mapping[str, Path], others: Collection[str] = ()
) -> Listing:
    """Every image with its mask, by id.

    Args:
        images: of the split.
        masks: of the split, or of several.
        others: ids of images in other splits, whose masks may be there too.
    """
    return Listing(
        pairs={id: Files(path, masks[id]) for id, path in images.items() if id in masks},
        images_alone=tuple(path for id, path in sorted(images.items()) if id not in masks),
        masks_alone=tuple(
            path for id, path in sorted(masks.items()) if id not in images and id not in others
        ),
    )


def list_files(
    folder: Path, *, masks: bool = False, suffix: str = "", recursive: bool = False
) -> dict[str, Path]:
    """Image (or mask) files of a folder by name: path below the folder without ending.

    Other files, and hidden ones, are passed over.

    Args:
        folder: of the files.
        masks: lossless formats only.
        suffix: take only names that end so (before the ending), and cut it off.
        recursive: include sub-folders, as :func:`reco.data.finding.patterns.walk` does.

    Raises:
        ValueError: two files of one name and different endings.
    """
    endings = LOSSLESS_ENDINGS if masks else IMAGE_ENDINGS
    found: dict[str, Path] = {}
    for below in walk(folder, [""], recursive=recursive):
        path = PurePosixPath(below)
        if path.suffix.lower() not in endings or not path.stem.endswith(suffix):
            continue
        name = normal(str(path.with_suffix(""))).removesuffix(suffix)
        if name in found:
            raise ValueError(f"{found[name]} and {folder / path}: two files for one id, {name!r}")
        found[name] = folder / path
    return found


def select(files: Mapping[str, Path], ids: Iterable[str], source: str) -> dict[str, Path]:
    """``files`` of the given ids.

    Raises:
        ValueError: ids that have no file, with ``source`` that asks for them.
    """
    ids = list(ids)
    missing = sorted({id for id in ids if id not in files})
    if missing:
        raise ValueError(f"{source} names images that are not there: {join_first(missing)}")
    return {id: files[id] for id in ids}


def read_list(path: Path) -> list[str]:
    """Ids in a list file: first word of each line, without folders and ending."""
    return [Path(line.split()[0]).stem for line in read_lines(path)]


def _check_size(values: npt.NDArray[Any], files: Files) -> None:
    """Raise ``ValueError`` unless mask and image have one size. Reads the image's header only."""
    stored, size = image_size(files.image)
    if values.shape == size:
        return
    turned = (
        f". EXIF turns this photo and the mask lies on its stored pixels, {stored[1]} x "
        f"{stored[0]}: dataset.turn_masks=true turns such masks too"
        if values.shape == stored
        else ""
    )
    raise BrokenMaskError(
        f"{files.mask} is {values.shape[1]} x {values.shape[0]} pixels, but its image "
        f"{files.image} is {size[1]} x {size[0]}; expected one size{turned}"
    )

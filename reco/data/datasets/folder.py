"""The ``folder`` data set: the user's images, masks, and images without masks.

Layout, unless patterns or lists say where the files are; sub-folders are allowed everywhere::

    <root>/images/train/a/001.jpg    <root>/labels/train/a/001.png
    <root>/images/val/...            <root>/labels/val/...
    <root>/images/test/...           <root>/labels/test/...     optional
    <root>/unlabelled/...                                       optional; no masks needed

``classes`` maps values or colours in the masks to classes; where only ``class_names`` are given,
the value is the position. An id is a path without ending: ``train/a/001``,
``unlabelled/b/002``, or ``photos/001`` where a pattern found it.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from reco.data.datasets.reader import COPY_OF, FileReader, Files, Listing, absent
from reco.data.finding.layout import Arrangement, Layout, arrange
from reco.data.finding.patterns import (
    MASK_ENDINGS,
    PICTURE_ENDINGS,
    SPLITS,
    count_pictures,
    describe_endings,
    normal,
    suggest_masks,
)
from reco.data.reading.images import RGB, ImageFormat
from reco.data.reading.mask_classes import MaskValues, class_table
from reco.printing import counted

_USUAL = Layout()
# What chooses the images of a split among those with masks.
_CHOICE = {
    "val": "dataset.validation: 0.2 (a share), or a list, a pattern",
    "test": "dataset.test: a list, a pattern",
}


class FolderReader(FileReader):
    """Reads a data set in the layout above, or in that of ``layout``.

    Args:
        root: its folder.
        class_names: at least two.
        classes: name -> its values or colours in the masks; for this and the next two see
            :func:`reco.data.reading.mask_classes.class_table`.
        ignore: values or colours of void.
        label_map: value -> position in ``class_names``.
        jpeg_masks: the masks went through JPEG, whatever format they have now.
        layout: where the files are.
        image_format: channels of the images, and the range of their values if it is known.
        turn_masks: masks lie on the stored pixels of photos that EXIF turns: turn them too.

    Raises:
        ValueError: invalid classes, or a resized copy made with other ones.
        FileNotFoundError: ``root`` is not there.
    """

    def __init__(
        self,
        root: str | Path,
        class_names: Sequence[str] | None = None,
        *,
        classes: Mapping[str, MaskValues] | None = None,
        ignore: MaskValues = (),
        label_map: Mapping[int, int] | None = None,
        jpeg_masks: bool = False,
        layout: Layout = _USUAL,
        image_format: ImageFormat = RGB,
        turn_masks: bool = False,
    ) -> None:
        table = class_table(
            class_names,
            classes,
            ignore,
            label_map=label_map,
            went_through_jpeg=jpeg_masks,
            hint=(
                '. dataset.classes (such as {background: 0, crack: 255}, or {road: "#804080"}) '
                "says what a value or colour means, dataset.ignore what is void"
            ),
        )
        given = ", ".join(f"{key}: {value}" for key, value in layout.to_dict().items() if value)
        super().__init__(
            root,
            table=table,
            expected=(
                f"{root}/images/train/*.jpg (or .png, …) with masks of the same names in "
                f"{root}/labels/train/*.png, likewise val (and test); images without masks in "
                f"{root}/unlabelled/. dataset.images and dataset.masks can name other places"
                if layout == _USUAL
                else f"what the configuration says ({given}) below {root}"
            ),
            image_format=image_format,
            turn_masks=turn_masks,
        )
        self._layout = layout
        # Written to a resized copy, whose masks hold class indices in the usual layout.
        self.origin = {"classes": table.to_dict(), "files": layout.to_dict()}
        self._is_copy = (self.root / COPY_OF).is_file()
        if self._is_copy:
            self._check_origin()
            self.table = class_table(self.spec.class_names)

    def unread(self) -> list[str]:
        """Files and folders in ``root`` that are not read, a line for each folder."""
        by_folder = defaultdict(list)
        for path in self._arranged.unread:
            by_folder["/".join(path.split("/")[:-1][:2]) or "."].append(path)
        files = [
            f"{folder}: {describe_endings(paths)} not read"
            for folder, paths in sorted(by_folder.items())
        ]
        folders = [
            f"{folder}/: {counted(count, 'image')} in a folder that is not read"
            for folder, count in self._unread_folders.items()
        ]
        return files + folders

    def place_in_copy(self, id: str, files: Files) -> tuple[Path, Path | None]:
        """Where image and mask lie in a resized copy; in the usual layout."""
        if self._layout == _USUAL:
            return super().place_in_copy(id, files)
        if files.mask is None:
            return Path("unlabelled", f"{id}.png"), None
        split = next(split for split in SPLITS if id in self.listing(split).pairs)
        return Path("images", split, f"{id}.png"), Path("labels", split, f"{id}.png")

    def _check_origin(self) -> None:
        origin = json.loads((self.root / COPY_OF).read_text(encoding="utf-8"))
        keys = {"classes": "classes, class_names or ignore", "files": "images, masks, …"}
        if differing := [keys[key] for key in keys if origin[key] != self.origin[key]]:
            raise ValueError(
                f"{self.root}: is a resized copy that was made with other values of dataset."
                f"{', '.join(differing)}: make it again in an empty folder"
            )

    # --- which files there are ---------------------------------------------------------------

    @cached_property
    def _arranged(self) -> Arrangement:
        return arrange(self.root, _USUAL if self._is_copy else self._layout)

    def _list(self, split: str) -> Listing:
        arranged = self._arranged
        if split == "unlabelled":
            self._refuse_misspelt_folder()
            return Listing(self._by_id((path, None) for path in arranged.unlabelled))
        pairs = self._by_id(arranged.pairs[split].items())
        alone = tuple(self.root / path for path in arranged.without_mask[split])
        # A mask without an image belongs to no split: report it with the first.
        stray = arranged.masks_alone if split == "train" else []
        masks_alone = tuple(self.root / path for path in stray)
        if not pairs and not alone:
            if self._layout.images is None or self._is_copy:
                folders = (self.root / "images" / split, self.root / "labels" / split)
                if missing := absent(*folders):
                    return Listing({}, missing)
            elif split != "train":
                raise FileNotFoundError(
                    f"{self.root}: no images for {split}; write {_CHOICE[split]}, or {{split}} in "
                    "dataset.images where a folder is called so"
                )
        return Listing(pairs, (), alone, masks_alone)

    def missing(self, folder: Path) -> FileNotFoundError:
        """As that of the base; of the images of a split, also how to choose them otherwise."""
        error = super().missing(folder)
        choice = _CHOICE.get(folder.name)
        if choice is None or folder.parent != self.root / "images" or self._is_copy:
            return error
        return FileNotFoundError(
            f"{error}. To take them from the images in {folder.with_name('train')}, write {choice}"
        )

    def _by_id(self, files: Iterable[tuple[str, str | None]]) -> dict[str, Files]:
        found: dict[str, Files] = {}
        for path, mask in files:
            id = self._id(path)
            image = self.root / path
            if id in found:
                raise ValueError(f"{found[id].image} and {image}: two files for one id, {id!r}")
            found[id] = Files(image, None if mask is None else self.root / mask)
        return found

    def _id(self, path: str) -> str:
        """Path without ending, and without folders that only the layout brings."""
        name, dot, ending = normal(path).rpartition(".")
        id = name if dot and "/" not in ending else normal(path)
        if self._layout.images is None:
            return id.removeprefix("images/")
        if self._is_copy:
            return re.sub(r"^(images/(train|val|test)|unlabelled)/", "", id)
        return id

    def _hint_alone(self, image: Path) -> str:
        """Files that may be the mask of an image, and the key that makes them so."""
        path = image.relative_to(self.root).as_posix()
        groups = self._arranged.images[path]
        stem = groups["stem"]
        other_case = re.compile(rf"{re.escape(stem)}(?![a-z0-9])", re.IGNORECASE)
        for other in (*self._arranged.masks_alone, *self._arranged.unread):
            name, ending = PurePosixPath(other).name, PurePosixPath(other).suffix.lower()
            if ending not in PICTURE_ENDINGS:
                continue
            if stem in name:
                if ending not in MASK_ENDINGS:
                    return f"There is {other}, which cannot be read as a mask: PNG can. "
                if pattern := suggest_masks(other, groups):
                    return f'There is {other}: with dataset.masks: "{pattern}" it is the mask. '
            elif other_case.match(name):
                return f"There is {other}: give both the same upper and lower case. "
        if self._layout.images is None:
            return f"Images without labels belong in {self.root / 'unlabelled'}. "
        return (
            f"{{stem}} of the first is {stem!r}. If they are unlabelled images, write "
            f'dataset.unlabelled: "{self._layout.images}". '
        )

    @cached_property
    def _unread_folders(self) -> dict[str, int]:
        """Folders that are not read -> number of images in them."""
        found = Counter("/".join(p.split("/")[:2]) for p in self._arranged.other_splits)
        tops = self._arranged.tops
        above = {
            "/".join(top.split("/")[:depth]) for top in tops for depth in range(top.count("/") + 1)
        }
        for folder in above - tops if "" not in tops else ():
            with os.scandir(self.root / folder) as entries:
                names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
            for name in names:
                path = f"{folder}/{name}".removeprefix("/")
                if path not in tops | above and (count := count_pictures(self.root / path)):
                    found[path] = count
        return dict(sorted(found.items()))

    def _refuse_misspelt_folder(self) -> None:
        """Raise where unlabelled images lie in a folder whose name is nearly the expected one."""
        if self._arranged.unlabelled or self._layout.unlabelled:
            return
        for folder, count in self._unread_folders.items():
            name = re.sub("[^a-z]", "", folder.rpartition("/")[2].lower())
            if name.startswith(("unlabel", "nolabel", "withoutlabel")):
                raise ValueError(
                    f"{self.root / folder}: {counted(count, 'image')} in a folder that is not "
                    f"read: rename it to {self.root / 'unlabelled'}, or write "
                    f'dataset.unlabelled: "{folder}"'
                )

"""A data set of one's own: images, masks, and any number of images without masks.

Layout; sub-folders are allowed everywhere::

    <root>/images/train/a/001.jpg    <root>/labels/train/a/001.png
    <root>/images/val/...            <root>/labels/val/...
    <root>/images/test/...           <root>/labels/test/...     optional
    <root>/unlabelled/...                                       optional; no masks needed

What the values or colours in the masks mean is said by ``classes``; where only ``class_names`` are
given, the value is the position. An id is a path without ending: ``train/a/001``,
``unlabelled/b/002``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from reco.data.classes import Stands, class_table
from reco.data.reader import (
    COPY_CLASSES,
    SPLITS,
    FileReader,
    Files,
    Listing,
    absent,
    list_files,
    pair,
)


class FolderReader(FileReader):
    """Reads a data set in the layout above.

    Args:
        root: its folder.
        class_names: at least two.
        classes: name -> what stands for it in the masks; see :func:`reco.data.classes.class_table`,
            as for the arguments below.
        ignore: what stands for void.
        label_map: value -> position in ``class_names``.
        jpeg_masks: the masks went through JPEG, whatever format they have now.

    Raises:
        ValueError: classes that make no sense, or a resized copy made with other ones.
        FileNotFoundError: ``root`` is not there.
    """

    def __init__(
        self,
        root: str | Path,
        class_names: Sequence[str] | None = None,
        *,
        classes: Mapping[str, Stands] | None = None,
        ignore: Stands = (),
        label_map: Mapping[int, int] | None = None,
        jpeg_masks: bool = False,
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
        self.original_table = table
        super().__init__(
            root,
            table=table,
            expected=(
                f"{root}/images/train/*.jpg (or .png, …) with masks of the same names in "
                f"{root}/labels/train/*.png, likewise val (and test); images without masks in "
                f"{root}/unlabelled/"
            ),
            alone_hint=f"Images without labels belong in {Path(root) / 'unlabelled'}. ",
        )
        self._use_indices_of_copy()

    def _use_indices_of_copy(self) -> None:
        """The masks of a resized copy hold class indices, whatever those of the original hold."""
        note = self.root / COPY_CLASSES
        if not note.is_file():
            return
        if json.loads(note.read_text(encoding="utf-8")) != self.original_table.to_dict():
            raise ValueError(
                f"{self.root}: is a resized copy that was made with other classes than those of "
                "dataset.classes (or class_names, ignore): make it again in an empty folder"
            )
        self.table = class_table(self.spec.class_names)

    def _list(self, split: str) -> Listing:
        if split not in SPLITS:
            extra = list_files(self.root / "unlabelled", recursive=True)
            return Listing({f"unlabelled/{name}": Files(p, None) for name, p in extra.items()})
        folders = (self.root / "images" / split, self.root / "labels" / split)
        if missing := absent(*folders):
            return Listing({}, missing)
        found = pair(
            list_files(folders[0], recursive=True),
            list_files(folders[1], masks=True, recursive=True),
        )
        return found._replace(pairs={f"{split}/{name}": f for name, f in found.pairs.items()})

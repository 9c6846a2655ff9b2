"""A data set of one's own: images, masks, and any number of images without masks.

Layout; sub-folders are allowed everywhere::

    <root>/images/train/a/001.jpg    <root>/labels/train/a/001.png
    <root>/images/val/...            <root>/labels/val/...
    <root>/images/test/...           <root>/labels/test/...     optional
    <root>/unlabelled/...                                       optional; no masks needed

Masks have one value per pixel. Without ``label_map`` the value is the position in ``class_names``;
255 is void unless ``label_map`` says otherwise. An id is a path without ending: ``train/a/001``,
``unlabelled/b/002``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from reco import IGNORE
from reco.data.reader import SPLITS, FileReader, Files, Listing, absent, list_files, pair, read_mask
from reco.data.spec import DatasetSpec, default_palette


class FolderReader(FileReader):
    """Reads a data set in the layout above.

    Args:
        root: its folder.
        class_names: at least two.
        label_map: mask file value -> class index; a 0/255 mask needs ``{0: 0, 255: 1}``.
        ignore_values: mask file values that mean void.

    Raises:
        ValueError: fewer than two or too many names, a map to a class that has none, or a value
            both mapped and ignored.
        FileNotFoundError: ``root`` is not there.
    """

    def __init__(
        self,
        root: str | Path,
        class_names: Sequence[str] | None,
        label_map: Mapping[int, int] | None = None,
        ignore_values: Sequence[int] = (),
    ) -> None:
        names = tuple(class_names or ())
        if not 2 <= len(names) < IGNORE or len(set(names)) < len(names):
            raise ValueError(
                f"dataset.class_names = {list(names)}: expected 2 to {IGNORE - 1} different names"
            )
        super().__init__(
            DatasetSpec("folder", names, default_palette(len(names))),
            root,
            class_of=_class_of(len(names), label_map, ignore_values),
            expected=(
                f"{root}/images/train/*.jpg (or .png, …) with masks of the same names in "
                f"{root}/labels/train/*.png, likewise val (and test); images without masks in "
                f"{root}/unlabelled/"
            ),
            hint=(
                "; dataset.label_map (such as {0: 0, 255: 1}) says which class a value means, "
                "dataset.ignore_values which values are void"
            ),
            alone_hint=f"Images without labels belong in {Path(root) / 'unlabelled'}. ",
        )

    def file_values(self, ids: Iterable[str]) -> list[int]:
        """The values that the masks of ``ids`` hold, as they stand in the files."""
        found: set[int] = set()
        for id in ids:
            mask = self._find(id).mask
            if mask is not None:
                found.update(np.unique(read_mask(mask)).tolist())
        return sorted(found)

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


def _class_of(
    num_classes: int, label_map: Mapping[int, int] | None, ignore_values: Sequence[int]
) -> dict[int, int]:
    """Mask file value -> class index or IGNORE."""
    for value, label in (label_map or {}).items():
        if value < 0 or not 0 <= label < num_classes:
            raise ValueError(
                f"dataset.label_map = {{{value}: {label}}}: expected a value >= 0 mapped to a "
                f"class index 0 to {num_classes - 1}"
            )
        if value in ignore_values:
            raise ValueError(
                f"dataset.label_map maps {value} to class {label}, but dataset.ignore_values says "
                "that it is void; expected one or the other"
            )
    if min(ignore_values, default=0) < 0:
        raise ValueError(f"dataset.ignore_values = {list(ignore_values)}: expected values >= 0")
    known = {c: c for c in range(num_classes)} if label_map is None else dict(label_map)
    return {IGNORE: IGNORE} | known | dict.fromkeys(ignore_values, IGNORE)

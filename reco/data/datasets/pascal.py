"""Pascal VOC 2012 with SBD's additional masks: 10,582 training and 1,449 validation images.

Layout, as the official archive unpacks (``<root>`` may also be the folder that holds
``VOCdevkit/VOC2012`` or ``VOC2012``)::

    <root>/JPEGImages/2007_000032.jpg
    <root>/SegmentationClass/2007_000032.png      palette masks: 0 to 20 are classes, 255 is void
    <root>/SegmentationClassAug/2008_000002.png   the same for SBD's images
    <root>/ImageSets/Segmentation/{train,val}.txt
    <root>/ImageSets/Segmentation/train_aug.txt   optional: the training images

Without ``train_aug.txt`` the training images are (SBD train, SBD val and VOC train) without VOC
val; SBD's lists are read from ``benchmark_RELEASE/dataset`` in ``<root>`` or above it. Where there
are no such lists, everything in ``SegmentationClassAug`` counts as SBD's.
An id is a file name without ending, ``2007_000032``.
"""

from __future__ import annotations

from pathlib import Path

from reco import IGNORE
from reco.classes import PASCAL
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

_VOC = Path("VOCdevkit", "VOC2012")
_SBD = Path("benchmark_RELEASE", "dataset")


class PascalReader(FileReader):
    """Reads Pascal VOC 2012 from ``root``; see the module for the layout."""

    def __init__(self, root: str | Path) -> None:
        given = Path(root)
        candidates = (given, given / _VOC, given / _VOC.name)
        found = next((path for path in candidates if (path / "JPEGImages").is_dir()), given)
        super().__init__(
            found,
            table=ClassTable(PASCAL, {c: c for c in range(PASCAL.num_classes)} | {IGNORE: IGNORE}),
            expected=(
                f"Pascal VOC 2012 as the official archive unpacks, {root}/JPEGImages, "
                f"{root}/SegmentationClass and {root}/ImageSets/Segmentation/{{train,val}}.txt "
                "(http://host.robots.ox.ac.uk/pascal/VOC/voc2012/), and SBD's masks as "
                f"{root}/SegmentationClassAug/*.png "
                "(http://home.bharathh.info/pubs/codes/SBD/download.html)"
            ),
        )

    def _list(self, split: str) -> Listing:
        if split == "test":
            raise FileNotFoundError(
                "Pascal VOC's test labels are not public: use dataset.eval_split=val"
            )
        if split == "unlabelled":
            return Listing({})
        folders = (self.root / "JPEGImages", self.root / "SegmentationClass")
        if missing := absent(*folders):
            return Listing({}, missing)
        images, masks = list_files(folders[0]), list_files(folders[1], masks=True)
        if split == "val":
            of_list = select(images, self._voc_list("val"), "val.txt")
            return pair(of_list, masks, others=images)
        augmented = list_files(self.root / "SegmentationClassAug", masks=True)
        ids = self._train_ids(augmented)
        # VOC's masks come first: they mark the objects' borders as void, SBD's don't.
        of_list = select(images, ids, "The list of training images")
        return pair(of_list, augmented | masks, others=images)

    def _train_ids(self, augmented: dict[str, Path]) -> list[str]:
        lists = self.root / "ImageSets" / "Segmentation"
        for path in (lists / "train_aug.txt", lists / "trainaug.txt", self.root / "train_aug.txt"):
            if path.is_file():
                return read_list(path)
        ids = set(self._voc_list("train"))
        sbd = next(
            (p / _SBD for p in (self.root, *self.root.parents[:2]) if (p / _SBD).is_dir()), None
        )
        if sbd is not None:
            ids.update(read_list(sbd / "train.txt"), read_list(sbd / "val.txt"))
        else:
            ids.update(augmented)
        return sorted(ids - set(self._voc_list("val")))

    def _voc_list(self, split: str) -> list[str]:
        path = self.root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file. Expected: {self._expected}")
        return read_list(path)

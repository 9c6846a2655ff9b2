"""SUN RGB-D, colour images only: 5,285 training and 5,050 test images, 37 classes.

Layout, as the archives unpack::

    <root>/SUNRGBD-train_images/img-000001.jpg
    <root>/SUNRGBD-test_images/img-000001.jpg
    <root>/sunrgbd_train_test_labels/img-000001.png   0 is void, 1 to 37 are the classes
    <root>/test_ids.txt                               optional: see below

Labels 1 to 5050 are those of the test images, 5051 to 10335 those of the training images, whose
files may be numbered from 1 or like their labels. An id is the name of the label, ``img-005051``.
``test_ids.txt`` names (one id a line) the images to evaluate on; all others, whatever folder they
lie in, are then for training. The evaluated images are both ``val`` and ``test``.
"""

from __future__ import annotations

import re
from pathlib import Path

from reco import IGNORE
from reco.classes import SUN
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

_TEST_LABELS = 5050


class SunReader(FileReader):
    """Reads SUN RGB-D from ``root``; see the module for the layout."""

    def __init__(self, root: str | Path) -> None:
        super().__init__(
            root,
            table=ClassTable(SUN, {c + 1: c for c in range(SUN.num_classes)} | {0: IGNORE}),
            expected=(
                f"SUN RGB-D as {root}/SUNRGBD-train_images/img-*.jpg, {root}/SUNRGBD-test_images/"
                f"img-*.jpg and 37-class labels in {root}/sunrgbd_train_test_labels/img-*.png; "
                "https://github.com/ankurhanda/sunrgbd-meta-data has all three (the page of "
                "the data set is https://rgbd.cs.princeton.edu)"
            ),
        )

    def _list(self, split: str) -> Listing:
        if split == "unlabelled":
            return Listing({})
        labels = self.root / "sunrgbd_train_test_labels"
        if missing := absent(labels, *(self._folder(name) for name in ("train", "test"))):
            return Listing({}, missing)
        masks = list_files(labels, masks=True)
        train = self._images("train")
        test = self._images("test")
        list_file = self.root / "test_ids.txt"
        if list_file.is_file():
            images = train | test
            test = select(images, read_list(list_file), str(list_file))
            train = {id: path for id, path in images.items() if id not in test}
        if split == "train":
            return pair(train, masks, others=test)
        return pair(test, masks, others=train)

    def _folder(self, name: str) -> Path:
        return self.root / f"SUNRGBD-{name}_images"

    def _images(self, folder: str) -> dict[str, Path]:
        """Images of a folder by the names of their labels."""
        files = list_files(self._folder(folder))
        numbers = {}
        for name, path in files.items():
            match = re.fullmatch(r"img-(\d{6})", name)
            if match is None:
                raise ValueError(f"{path}: expected a name such as img-000001.jpg")
            numbers[int(match[1])] = path
        from_one = folder == "train" and min(numbers, default=1) <= _TEST_LABELS
        offset = _TEST_LABELS if from_one else 0
        return {f"img-{number + offset:06d}": path for number, path in numbers.items()}

"""The data sets, one reader a file, and how a configuration chooses one: ``open_dataset``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reco.data.datasets.camvid import CamVidReader
from reco.data.datasets.cityscapes import CityscapesReader
from reco.data.datasets.folder import FolderReader
from reco.data.datasets.pascal import PascalReader
from reco.data.datasets.reader import Reader
from reco.data.datasets.sun import SunReader
from reco.data.finding.layout import Layout
from reco.data.reading.images import ImageFormat
from reco.data.reading.mask_classes import as_list
from reco.fields import nearest

if TYPE_CHECKING:
    from reco.config import DatasetConfig

__all__ = ["open_dataset"]

_OFFICIAL = {
    "camvid": CamVidReader,
    "cityscapes": CityscapesReader,
    "pascal": PascalReader,
    "sun": SunReader,
}


def open_dataset(config: DatasetConfig) -> Reader:
    """The data set that ``config`` names.

    Raises:
        ValueError: no such data set, no ``root``, or invalid classes (``folder``).
        FileNotFoundError: the data are not in ``root``; the message says where to get them.
    """
    if config.name == "synthetic":
        from reco.data.datasets.synthetic import SyntheticReader

        return SyntheticReader()
    names = [*_OFFICIAL, "folder", "synthetic"]
    if config.name not in names:
        raise ValueError(
            f"dataset.name = {config.name!r}: expected one of {', '.join(names)}"
            f"{nearest(config.name, names)}"
        )
    if not config.root:
        raise ValueError(
            f"dataset.root = {config.root!r}: expected the folder that holds the {config.name} data"
        )
    if config.name == "folder":
        return FolderReader(
            config.root,
            config.class_names,
            classes=config.classes,
            ignore=[*as_list(config.ignore), *config.ignore_values],
            label_map=config.label_map,
            jpeg_masks=config.jpeg_masks,
            layout=Layout(
                config.images, config.masks, config.unlabelled, config.validation, config.test
            ),
            image_format=ImageFormat.from_config(config),
            turn_masks=config.turn_masks,
        )
    return _OFFICIAL[config.name](config.root)

"""Pascal VOC 2012 and SBD: download, and SBD's MATLAB files as the masks that training reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import SBDataset, VOCSegmentation

from reco.classes import voc_palette
from reco.optional_packages import import_extra
from reco.threads import do_all
from reco.writing import write_whole

_VOC = Path("VOCdevkit", "VOC2012")
_SBD = Path("benchmark_RELEASE", "dataset")


def download_pascal(root: Path) -> None:
    """Fetch VOC 2012 and SBD, three gigabytes, into ``root`` as their archives unpack.

    What is there already is not fetched again.

    Raises:
        RuntimeError, OSError: from torchvision: no network, or a damaged archive.
    """
    if not (root / _VOC / "JPEGImages").is_dir():
        VOCSegmentation(root, year="2012", image_set="trainval", download=True)
    if not (root / _SBD / "cls").is_dir():
        # torchvision unpacks the archive directly into the given folder.
        SBDataset(root / _SBD, image_set="train", mode="segmentation", download=True)


def convert_sbd(root: Path) -> int:
    """Write SBD's ``cls/*.mat`` as palette PNGs to ``SegmentationClassAug`` beside VOC's masks.

    Files that are there already are kept, so a killed run can be repeated.

    Args:
        root: holds ``VOCdevkit/VOC2012``, or is that folder; ``benchmark_RELEASE/dataset`` lies in
            it or above it.

    Returns:
        Number of files written.

    Raises:
        ImportError: scipy is not installed.
        FileNotFoundError: no VOC or SBD folder.
        ValueError: files that are no SBD masks, by name; all others are converted then.
    """
    loadmat = import_extra("scipy.io", "reading SBD's files").loadmat
    voc = next((p for p in (root, root / _VOC, root / _VOC.name) if _is_voc(p)), None)
    if voc is None:
        raise FileNotFoundError(f"{root}: no Pascal VOC here, expected {root / _VOC}/JPEGImages")
    sources = [folder / _SBD / "cls" for folder in (voc, *voc.resolve().parents[:2])]
    source = next((folder for folder in sources if folder.is_dir()), None)
    if source is None:
        raise FileNotFoundError(f"no SBD, expected one of {', '.join(map(str, sources))}")
    palette = [value for colour in voc_palette(256) for value in colour]

    def convert(path: Path) -> bool:
        place = voc / "SegmentationClassAug" / f"{path.stem}.png"
        if place.is_file():
            return False
        try:
            values = loadmat(path)["GTcls"]["Segmentation"][0, 0]
            if values.ndim != 2 or not ((values <= 20) | (values == 255)).all():
                raise ValueError("values are no classes of Pascal VOC")
        except Exception as error:  # a broken file makes scipy raise nearly anything
            raise ValueError(f"{path}: cannot be read as a mask of SBD: {error}") from error
        image = Image.fromarray(values.astype(np.uint8))
        image.putpalette(palette)
        write_whole(place, image.save)
        return True

    return sum(do_all(convert, sorted(source.glob("*.mat")), title="converting SBD"))


def _is_voc(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir()

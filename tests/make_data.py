"""Tiny synthetic data sets in each official layout: real file names, palettes and void values.

Every function makes the data set below ``root`` and returns ``root``. Images show their mask in
the classes' colours, with noise, so a reader that mixes files up can be caught and a network could
learn them. Mask values go round robin, so that a few images hold every class.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reco.classes import voc_palette

SIZE = (36, 48)  # (height, width) of most images
ODD_SIZES = ((36, 48), (31, 45), (50, 33))


def make_camvid(
    root: Path, train: int = 8, val: int = 3, test: int = 2, *, ending: str = ".png", lists=False
) -> Path:
    """SegNet layout; ``lists`` writes train.txt and so on in the style of SegNet's tutorial."""
    names = {
        "train": [f"0001TP_{6690 + 30 * i:06d}" for i in range(train)],
        "val": [f"0016E5_{7959 + 2 * i:05d}" for i in range(val)],
        "test": [f"Seq05VD_f{30 * i:05d}" for i in range(test)],
    }
    for split, stems in names.items():
        for i, stem in enumerate(stems):
            mask = make_mask([*range(12)], i)
            save_image(root / split / f"{stem}{ending}", mask, i)
            save_mask(root / f"{split}annot" / f"{stem}.png", mask)
        if lists:
            lines = [
                f"/SegNet/CamVid/{split}/{s}.png /SegNet/CamVid/{split}annot/{s}.png" for s in stems
            ]
            (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def make_cityscapes(root: Path, train: int = 8, val: int = 3, extra: int = 2) -> Path:
    """Official layout: two cities for training, colour and instance files beside the label ids."""
    cities = {
        "train": ["aachen", "monchengladbach"],
        "val": ["frankfurt"],
        "train_extra": ["bad-honnef"],
    }
    # Void ids 0 to 6 and a class without train id (14, guard rail) among the ids of the classes.
    values = [0, 3, 7, 8, 11, 12, 13, 14, 17, *range(19, 29), 31, 32, 33]
    for split, count in (("train", train), ("val", val), ("train_extra", extra)):
        for i in range(count):
            city = cities[split][i % len(cities[split])]
            stem = f"{city}_{i:06d}_000019"
            mask = make_mask(values, i, regions=(5, 6))
            save_image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", mask, i)
            if split == "train_extra":
                continue
            fine = root / "gtFine" / split / city
            save_mask(fine / f"{stem}_gtFine_labelIds.png", mask)
            save_mask(fine / f"{stem}_gtFine_instanceIds.png", mask.astype(np.uint16) * 1000)
            save_image(fine / f"{stem}_gtFine_color.png", mask, i)
            (fine / f"{stem}_gtFine_polygons.json").write_text("{}")
    return root


def make_pascal(
    root: Path, train: int = 6, augmented: int = 6, val: int = 3, *, sbd_lists: bool = False
) -> Path:
    """Official layout in ``root``/VOCdevkit/VOC2012, images of odd sizes, SBD's masks as PNG.

    One of VOC's val images is also in SBD's train list, as in reality.
    """
    voc = root / "VOCdevkit" / "VOC2012"
    names = {
        "train": [f"2007_{32 + 7 * i:06d}" for i in range(train)],
        "augmented": [f"2008_{2 + 3 * i:06d}" for i in range(augmented)],
        "val": [f"2007_{33 + 7 * i:06d}" for i in range(val)],
    }
    palette = [v for colour in voc_palette(256) for v in colour]
    for kind, stems in names.items():
        for i, stem in enumerate(stems):
            void = [] if kind == "augmented" else [255]
            mask = make_mask([*range(21), *void], i, size=ODD_SIZES[i % 3])
            save_image(voc / "JPEGImages" / f"{stem}.jpg", mask, i)
            if kind != "augmented":
                save_mask(voc / "SegmentationClass" / f"{stem}.png", mask, palette=palette)
            without_borders = np.where(mask == 255, 0, mask)
            save_mask(voc / "SegmentationClassAug" / f"{stem}.png", without_borders)
    lists = voc / "ImageSets" / "Segmentation"
    write_lines(lists / "train.txt", names["train"])
    write_lines(lists / "val.txt", names["val"])
    write_lines(lists / "trainval.txt", sorted(names["train"] + names["val"]))
    if sbd_lists:
        sbd = root / "benchmark_RELEASE" / "dataset"
        write_lines(sbd / "train.txt", names["augmented"][::2] + names["val"][:1])
        write_lines(sbd / "val.txt", names["augmented"][1::2])
    return root


def make_sun(root: Path, train: int = 8, test: int = 3) -> Path:
    """Images numbered from 1 in each folder, labels 1 to 5050 for test and from 5051 for train."""
    for split, count, offset in (("train", train, 5050), ("test", test, 0)):
        for i in range(count):
            mask = make_mask([*range(38)], i, size=ODD_SIZES[i % 3], regions=(4, 5))
            save_image(root / f"SUNRGBD-{split}_images" / f"img-{i + 1:06d}.jpg", mask, i)
            save_mask(root / "sunrgbd_train_test_labels" / f"img-{i + 1 + offset:06d}.png", mask)
    return root


def make_folder(
    root: Path,
    train: int = 6,
    val: int = 3,
    unlabelled: int = 4,
    *,
    values: Sequence[int] = (0, 1, 2),
) -> Path:
    """The ``folder`` layout with sub-folders; masks hold ``values``."""
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            name = f"site {i % 2}/{i:03d}"
            mask = make_mask(values, i)
            save_image(root / "images" / split / f"{name}.jpg", mask, i)
            save_mask(root / "labels" / split / f"{name}.png", mask)
    for i in range(unlabelled):
        save_image(root / "unlabelled" / "street" / f"{i:03d}.jpg", make_mask(values, i), i)
    return root


def make_mask(
    values: Sequence[int],
    index: int,
    *,
    size: tuple[int, int] = SIZE,
    regions: tuple[int, int] = (3, 4),
) -> np.ndarray:
    """(H, W) uint8: a grid of rectangles; image ``index`` continues the sequence of ``values``."""
    rows, columns = regions
    count = rows * columns
    classes = np.array([values[(index * count + i) % len(values)] for i in range(count)])
    y = np.arange(size[0]) * rows // size[0]
    x = np.arange(size[1]) * columns // size[1]
    return classes.reshape(rows, columns)[y[:, None], x].astype(np.uint8)


def save_image(path: Path, mask: np.ndarray, seed: int) -> None:
    """The mask in colours, with noise that differs between splits."""
    colours = np.array(voc_palette(256), dtype=float)
    folders = [part for part in path.parts[-3:-1] if part in ("val", "test", "SUNRGBD-test_images")]
    place = zlib.crc32("/".join([*folders, path.name]).encode())
    noise = np.random.default_rng([seed, place]).normal(0, 5, (*mask.shape, 3))
    pixels = (0.8 * colours[mask] + 25 + noise).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_mask(path: Path, values: np.ndarray, *, palette: list[int] | None = None) -> None:
    """Grey PNG of 8 or 16 bit, or with a palette."""
    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))

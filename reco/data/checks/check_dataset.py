"""Check a data set: its content, and all of its problems at once."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reco import IGNORE
from reco.data.checks.across_files import check_masks, several_encodings
from reco.data.checks.overview import repeated
from reco.data.checks.pages import images_with_pages, masks_with_pages
from reco.data.datasets.folder import FolderReader
from reco.data.datasets.reader import FileReader, Files
from reco.data.finding.patterns import SPLITS
from reco.data.reading.images import orientation
from reco.data.reading.mask_classes import ClassTable
from reco.data.reading.masks import UnknownValueError
from reco.data.reading.value_range import value_range_text
from reco.data.splits import require_all_classes
from reco.printing import counted, join_first
from reco.threads import in_threads

# Listed here, since the files do not tell whether a city is missing.
CITIES = {
    "train": (
        *("aachen", "bochum", "bremen", "cologne", "darmstadt", "dusseldorf", "erfurt", "hamburg"),
        *("hanover", "jena", "krefeld", "monchengladbach", "strasbourg", "stuttgart", "tubingen"),
        *("ulm", "weimar", "zurich"),
    ),
    "val": ("frankfurt", "lindau", "munster"),
}
OFFICIAL_IMAGES = {
    "camvid": {"train": 367, "val": 101, "test": 233},
    "cityscapes": {"train": 2975, "val": 500},
    "pascal": {"train": 10582, "val": 1449},
    "sun": {"train": 5285, "val": 5050},
}


# Errors of single files.
_UNREADABLE = (ValueError, OSError, MemoryError, ImportError)


_FEW = 5  # masks with unknown values that are reported one by one


@dataclass(frozen=True)
class Report:
    """The result of a check."""

    table: ClassTable
    images: dict[str, int]  # by split; "unlabelled" too
    pixels: dict[str, npt.NDArray[np.int64]]  # by split: (256,) pixels per class, IGNORE at 255
    problems: list[str] = field(default_factory=list)  # one line each, files by name
    notes: list[str] = field(default_factory=list)
    unknown: list[UnknownValueError] = field(default_factory=list)  # listed among the problems

    def format(self) -> str:
        """Number of images, pixels per class, notes, problems; one a line."""
        labelled = [split for split in self.pixels if self.images[split]]
        lines = [f"{split}: {counted(count, 'image')}" for split, count in self.images.items()]
        classes = [*enumerate(self.table.spec.class_names), (IGNORE, "(void)")]
        values = [self.table.describe(index) or "nothing" for index, _ in classes]
        width = max(len("class"), *(len(name) for _, name in classes)) + 2
        second = max(map(len, ("in the masks", *values))) + 2
        heads = "".join(f"{split:>10}" for split in labelled)
        lines.append(f"{'class':<{width}}{'in the masks':<{second}}{heads}   share of pixels")
        for (index, name), value in zip(classes, values, strict=True):
            shares = (self.pixels[s][index] / max(1, self.pixels[s].sum()) for s in labelled)
            figures = "".join(f"{share:>10.3%}" for share in shares)
            lines.append(f"{name:<{width}}{value:<{second}}{figures}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem}" for problem in self.problems]
        lines.append(counted(len(self.problems), "problem") if self.problems else "no problems")
        return "\n".join(lines)


def check_dataset(reader: FileReader, eval_split: str = "val") -> Report:
    """Find every image and mask of a data set and read each of them.

    A problem is what would stop a run or falsify it: missing folders, images without mask,
    masks without image, files that cannot be read, masks of another size than their image, of
    several pages, or with values that are no classes, masks that disagree, pictures in two splits.
    ``train``, ``val`` and ``eval_split`` have to be there. Where ``test`` need not, its absence is
    at most a note: none where the data set has no public one, or where a ``folder`` has neither
    images nor masks of it.
    """
    report = Report(reader.table, {}, {})
    same_as_val: dict[str, Files] = {}
    told = False
    for split in ("train", "val", "test", "unlabelled"):
        optional = split == "test" and eval_split != "test"
        own = isinstance(reader, FolderReader)
        lines = report.notes if optional else report.problems
        try:
            found = reader.listing(split)
        except (ValueError, FileNotFoundError) as error:
            if not (optional and (own or isinstance(error, FileNotFoundError))):
                lines.append(f"{split}: {error}")
            continue
        if found.missing:
            if not (optional and own and len(found.missing) > 1):
                for folder in found.missing:  # the first one tells the layout
                    short = f"{folder}: no such folder"
                    lines.append(short if told else str(reader.missing(folder)))
                    told = told or lines is report.problems
            continue
        if split == "val":
            same_as_val = found.pairs
        elif split == "test" and found.pairs == same_as_val:
            continue
        alone = [f"{path}: image without mask" for path in found.images_alone]
        if alone:  # what helps is said once, as the others are mostly of the same kind
            alone[0] += f". {reader.remedy_alone(found.images_alone[0])}"
        report.problems.extend(alone)
        report.problems.extend(f"{path}: mask without image" for path in found.masks_alone)
        if split != "unlabelled" and not found.pairs and not found.images_alone:
            report.problems.append(f"{split}: no images")
        _read_all(reader, split, found.pairs, report)
    _report_unknown(report)
    _compare_with_official(reader, report)
    _check_values(reader, report)
    _check_orientation(reader, report)
    _check_pages(reader, report)
    _compare_files(reader, report)
    # Folders that splits share are checked for each split: drop repeated lines.
    report.problems[:] = dict.fromkeys(report.problems)
    return report


def _check_values(reader: FileReader, report: Report) -> None:
    """Images of more than 8 bits: the range of their values, found or set and wrong."""
    if wrong := reader.judge_value_range():
        report.problems.append(wrong)
    elif (found := reader.image_format.value_range) is not None:
        report.notes.append(f"dataset.value_range = {value_range_text(found)}")


def _check_orientation(reader: FileReader, report: Report) -> None:
    """Photos that EXIF turns without changing their size: their masks may lie either way."""
    turned = []
    for split in report.pixels:
        for files in reader.listing(split).pairs.values():
            with contextlib.suppress(Exception):  # an unreadable image is a problem already
                if orientation(files.image) in (2, 3, 4):
                    turned.append(files.image)
    if turned and not reader.turn_masks:
        report.notes.append(
            f"EXIF turns {len(turned)} photos by 180 degrees or mirrors them, such as {turned[0]}: "
            "if the masks were made on the stored pixels, they lie upside down: set "
            "dataset.turn_masks=true then"
        )


def _check_pages(reader: FileReader, report: Report) -> None:
    """Files of several pages, of which the first alone is read."""
    files = [files for split in report.images for files in reader.listing(split).pairs.values()]
    report.problems.extend(masks_with_pages(mask for _, mask in files))
    channels = reader.image_format.channels
    report.notes.extend(images_with_pages((image for image, _ in files), channels))


def _read_all(reader: FileReader, split: str, pairs: dict[str, Files], report: Report) -> None:
    """Read images and masks on all cores and note what fails."""
    report.images[split] = len(pairs)
    pixels = np.zeros(IGNORE + 1, dtype=np.int64)
    for histogram, errors in in_threads(
        lambda item: _read(reader, *item), sorted(pairs.items()), title=f"reading {split}"
    ):
        pixels += histogram
        for error in errors:
            if isinstance(error, UnknownValueError):
                report.unknown.append(error)
            else:
                report.problems.append(str(error))
    if split != "unlabelled":
        report.pixels[split] = pixels


def _read(
    reader: FileReader, id: str, files: Files
) -> tuple[npt.NDArray[np.int64], list[Exception]]:
    """Pixels per class of one mask, and what is wrong with it or its image."""
    histogram, errors = np.zeros(IGNORE + 1, dtype=np.int64), list[Exception]()
    if links := [link for path in files if path is not None and (link := _broken_link(path))]:
        return histogram, [ValueError(link) for link in links]
    try:
        reader.image(id)
    except _UNREADABLE as error:
        errors.append(error)
    if files.mask is not None:
        try:
            histogram += reader.content(id).pixels
        except _UNREADABLE as error:
            # The size check of the label repeats the error of a broken image.
            if not (errors and str(error).startswith(f"{files.image}:")):
                errors.append(error)
    return histogram, errors


def _broken_link(path: Path) -> str | None:
    """What is wrong with a file that is a link to nothing; else ``None``."""
    if not path.is_symlink() or path.exists():
        return None
    return f"{path}: is a link to {os.readlink(path)}, which is not there"


def _report_unknown(report: Report) -> None:
    """Report masks with values that are no classes: each, or a summary of many."""
    if len(report.unknown) <= _FEW:
        report.problems.extend(map(str, report.unknown))
        return
    masks = Counter(value for error in report.unknown for value in error.found)
    values = join_first(
        [f"{value} in {counted(count, 'mask')}" for value, count in masks.most_common()]
    )
    names = join_first([error.source for error in report.unknown], _FEW)
    report.problems.append(
        f"{len(report.unknown)} masks hold what is no class: {values}. They are {names}. "
        f"The first: {report.unknown[0]}"
    )


def _compare_files(reader: FileReader, report: Report) -> None:
    """Report contradicting masks, pictures in two splits, and files that are not read."""
    contents = [reader.contents[id] for id in sorted(reader.contents)]
    try:
        check_masks(contents, reader.table)
    except ValueError as error:
        report.problems.append(str(error))
    report.notes.extend(several_encodings(contents, reader.table))
    if void := [content.path for content in contents if not content.classes]:
        report.notes.append(f"nothing but void in {counted(len(void), 'mask')}: {join_first(void)}")
    ids: dict[str, list[str]] = {}
    for split in (*SPLITS, "unlabelled"):
        with contextlib.suppress(ValueError, FileNotFoundError):
            ids[split] = sorted(reader.listing(split).pairs)
    evaluated = sorted({*ids.get("val", []), *ids.get("test", [])})
    report.problems.extend(repeated(reader, ids.get("train", []), evaluated))
    report.notes.extend(repeated(reader, ids.get("unlabelled", []), evaluated, "unlabelled"))
    if isinstance(reader, FolderReader):
        report.notes.extend(reader.unread())
    readable = [id for id in ids.get("train", []) if id in reader.contents]
    if readable and not report.unknown:  # else values without a class are the reason
        images = Counter(index for id in readable for index in reader.classes(id))
        names = {name: images[index] for index, name in enumerate(reader.spec.class_names)}
        try:
            require_all_classes(reader, names, readable)
        except ValueError as error:
            report.problems.append(str(error))


def _compare_with_official(reader: FileReader, report: Report) -> None:
    """Missing cities are a problem; a number of images other than the official one is a note."""
    if reader.spec.name == "cityscapes":
        for split, cities in CITIES.items():
            for tree in ("leftImg8bit", "gtFine"):
                folder = reader.root / tree / split
                if folder.is_dir():
                    report.problems.extend(
                        f"{folder / city}: no such folder (city)"
                        for city in cities
                        if not (folder / city).is_dir()
                    )
    for split, count in OFFICIAL_IMAGES.get(reader.spec.name, {}).items():
        if report.images.get(split, count) != count:
            images = counted(report.images[split], "image")
            report.notes.append(f"{split} holds {images}, the official archive {count}")

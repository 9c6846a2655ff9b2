"""Write the result of an importer: linked images, index masks and ``data.yaml``."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image
from tqdm import tqdm

from reco import IGNORE
from reco.classes import default_palette
from reco.data.finding.patterns import SPLIT_WORDS
from reco.data.importers.source import (
    Annotated,
    Annotations,
    Images,
    ImportOptions,
    Labels,
    Rasterised,
    failure,
    told,
)
from reco.data.reading.images import upright
from reco.data.reading.tiff import ORIENTATION
from reco.printing import shell_line
from reco.writing import write_text_whole, write_whole


class _Written(NamedTuple):
    """A labelled image of the result."""

    image: Path
    mask: Path
    classes: frozenset[int]


_SLIVERS = 0.001  # a smaller share of background is gaps between areas


class Summary(NamedTuple):
    """The written files, and notes for the user."""

    config: Path  # data.yaml
    class_names: tuple[str, ...]
    images: dict[str, int]  # by split; "unlabelled" too
    pixels: npt.NDArray[np.int64]  # (256,) labelled pixels by class, IGNORE at 255
    notes: list[str]
    left_out: list[str]

    def format(self) -> str:
        """The summary as text."""
        lines = [", ".join(f"{count} {split}" for split, count in self.images.items()) + " images"]
        total = max(1, int(self.pixels.sum()))
        for index, name in [*enumerate(self.class_names), (IGNORE, "(void)")]:
            share = self.pixels[index] / total
            if index != IGNORE or share:
                lines.append(f"  {index:>3} {name:<24} {share:8.3%} of the labelled pixels")
        lines += told(self.notes, self.left_out)
        lines.append(f"Train:  {shell_line(['reco', 'train', '--config', str(self.config)])}")
        return "\n".join(lines)


def write_folder(source: Annotations, target: Path, options: ImportOptions) -> Summary:
    """Write a source as the layout of :mod:`reco.data.datasets.folder`, with ``data.yaml`` at last.

    An image whose annotations cannot be rasterised is left out and named in the summary. A class
    that no mask holds is none of the result: it would stop a run.

    An import that does not succeed removes what it wrote, so that it can be tried again.

    Raises:
        FileExistsError: ``target`` is not empty.
        ValueError: fewer than two labelled images, or than two classes in their masks.
    """
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target}: is not empty; choose another folder, or remove it")
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        return _write_folder(source, target, options)
    except BaseException:
        for name in ("images", "labels", "unlabelled"):
            shutil.rmtree(target / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()  # up to the first one that holds something
        raise


def _write_folder(source: Annotations, target: Path, options: ImportOptions) -> Summary:
    images: Counter[str] = Counter(dict.fromkeys(("train", "val"), 0))
    events: Counter[str] = Counter()
    pixels = np.zeros(IGNORE + 1, dtype=np.int64)
    left_out = list(source.left_out)
    unlabelled = [*source.unlabelled]
    for folder in options.unlabelled:
        further = Images(folder)
        unlabelled += [(path, further.name(path)) for path in further.files]
    # All 256 colours: Pillow packs an image with fewer into fewer bits, and void is 255.
    palette = [v for colour in default_palette(256) for v in colour]
    taken: set[PurePosixPath] = set()
    written: dict[PurePosixPath, _Written] = {}  # by name
    for item in tqdm(_with_splits(source.annotated), "importing", unit="image"):
        try:
            rasterised = _rasterise_upright(item)
        except (ValueError, OSError) as error:
            left_out.append(f"{item.image}: {error}")
            continue
        if not rasterised.num_areas and options.empty == "unlabelled":
            events["annotated images without any area are taken as unlabelled"] += 1
            unlabelled.append((item.image, item.name))
            continue
        if not rasterised.num_areas:
            events[f"annotated images without any area are {options.uncovered} as a whole"] += 1
        events += rasterised.events
        counts = np.bincount(rasterised.labels.ravel(), minlength=IGNORE + 1)
        pixels += counts
        assert item.split is not None
        name = _free_name(PurePosixPath(item.split) / _short(item.name), item.image, taken)
        mask = _save_labels(rasterised.labels, palette, target / "labels" / f"{name}.png")
        image = _place_image(item, target / "images" / name, copy=options.copy)
        classes = frozenset(map(int, np.flatnonzero(counts[:IGNORE])))
        written[name] = _Written(image, mask, classes)
        images[item.split] += 1
    moved = 0 if images["val"] else _move_to_val(written, options.val_share)
    images.update({"val": moved, "train": -moved})
    notes = [*source.notes, *(f"{count:,} {event}" for event, count in events.items() if count)]
    if images["train"] < 1 or images["val"] < 1:
        raise failure(
            f"{images['train']} training and {images['val']} validation images have annotations "
            "that can be used, expected at least one of each",
            notes,
            left_out,
        )
    absent = [name for index, name in enumerate(source.class_names) if not pixels[index]]
    if len(source.class_names) - len(absent) < 2:
        raise failure(
            f"classes without a pixel in any mask: {', '.join(absent)}; expected two or more with "
            "pixels",
            notes,
            left_out,
        )
    if absent:
        notes.append(f"no classes, since no mask holds them: {', '.join(absent)}")
    names, pixels = _drop_absent(source.class_names, pixels, written, palette, notes)
    for path, name in unlabelled:
        name = _free_name("unlabelled" / name, path, taken)
        _link(path, target / f"{name}{path.suffix}", copy=options.copy)
        images["unlabelled"] += 1
    if names[0] == "background" and pixels[0] < _SLIVERS * pixels.sum():
        notes.append(
            f"background, the pixels of no area, fills {pixels[0] / pixels.sum():.3%}: where areas "
            "are meant to cover everything, import with --uncovered void"
        )
    summary = Summary(target / "data.yaml", names, dict(images), pixels, notes, left_out)
    write_text_whole(summary.config, _yaml(summary, target))
    return summary


def _with_splits(annotated: list[Annotated]) -> list[Annotated]:
    """Every image with a split: that of the source, or train where it has one or none for all."""
    one_split = len({item.split for item in annotated}) == 1
    return [
        replace(item, split="train" if one_split else item.split or "train") for item in annotated
    ]


def _move_to_val(written: dict[PurePosixPath, _Written], share: float) -> int:
    """Make a share of the training images, at least one, validation images; their number.

    The choice depends on their names, so that adding images does not move the others. An image that
    alone holds a class stays, unless that is true of all.
    """
    train = [name for name in written if name.parts[0] == "train"]
    train.sort(key=lambda name: hashlib.sha256(str(name).encode()).digest())
    wanted = max(1, round(share * len(train))) if len(train) > 1 else 0
    holders = Counter(index for name in train for index in written[name].classes)
    chosen: list[PurePosixPath] = []
    for name in train:
        if len(chosen) < wanted and all(holders[index] > 1 for index in written[name].classes):
            chosen.append(name)
            holders.subtract(written[name].classes)
    chosen = chosen or train[:wanted]
    for name in chosen:
        item, depth = written.pop(name), len(name.parts)
        written[PurePosixPath("val", *name.parts[1:])] = item._replace(
            image=_move(item.image, depth), mask=_move(item.mask, depth)
        )
    return len(chosen)


def _move(path: Path, depth: int) -> Path:
    """Rename a file ``depth`` levels below images or labels, from train to val."""
    root = path.parents[depth - 1]
    place = root / "val" / path.relative_to(root / "train")
    place.parent.mkdir(parents=True, exist_ok=True)
    return path.rename(place)


def _drop_absent(
    names: tuple[str, ...],
    pixels: npt.NDArray[np.int64],
    written: dict[PurePosixPath, _Written],
    palette: Iterable[int],
    notes: list[str],
) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Names and pixels of the classes that masks hold; masks of other indices are written again.

    ``notes`` gets a line about classes that no training mask holds.
    """
    held = [index for index in range(len(names)) if pixels[index]]
    in_train = {
        c for name, item in written.items() if name.parts[0] == "train" for c in item.classes
    }
    if unseen := [names[index] for index in held if index not in in_train]:
        notes.append(
            f"no training image holds {', '.join(unseen)}, which stops a run: move images from val "
            "to train, or import with --classes and the other names"
        )
    new_index: Labels = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
    new_index[held] = np.arange(len(held))
    if held != list(range(len(held))):
        for item in written.values():
            with Image.open(item.mask) as mask:
                labels = new_index[np.asarray(mask)]
            _save_labels(labels, palette, item.mask)
    counts = np.zeros_like(pixels)
    counts[: len(held)], counts[IGNORE] = pixels[held], pixels[IGNORE]
    return tuple(names[index] for index in held), counts


def _rasterise_upright(item: Annotated) -> Rasterised:
    """Labels of an image's upright pixels, for annotations of the upright or the stored image.

    Raises:
        ValueError: annotated at a size that is not the image's.
    """
    with Image.open(io.BytesIO(item.embedded()) if item.embedded else item.image) as image:
        stored = image.size
        turn = image.getexif().get(ORIENTATION, 1)
    shown = stored[::-1] if turn in (5, 6, 7, 8) else stored
    size = item.size or shown
    if size not in (shown, stored):  # before labels of that size take memory
        raise _wrong_size(size, shown)
    rasterised = item.rasterise(size)
    size = (rasterised.labels.shape[1], rasterised.labels.shape[0])
    if size == shown:
        if 2 <= turn <= 8:
            rasterised.events["photos that EXIF turns: annotations are taken as upright"] += 1
        return rasterised
    if size == stored:
        rasterised.events["photos that EXIF turns, annotated as stored: masks are turned too"] += 1
        return rasterised._replace(labels=np.ascontiguousarray(upright(rasterised.labels, turn)))
    raise _wrong_size(size, shown)


def _wrong_size(size: tuple[int, int], image: tuple[int, int]) -> ValueError:
    return ValueError(
        f"annotated at {size[0]} x {size[1]} pixels, but the image is {image[0]} x {image[1]}"
    )


def _short(name: PurePosixPath) -> PurePosixPath:
    """A name without leading folders such as ``train`` or ``images``."""
    parts = list(name.parts)
    while len(parts) > 1 and parts[0].lower() in {*SPLIT_WORDS, "images", "jpegimages"}:
        del parts[0]
    return PurePosixPath(*parts)


def _free_name(name: PurePosixPath, image: Path, taken: set[PurePosixPath]) -> PurePosixPath:
    """``name``, with the image's ending where another image has it already."""
    for candidate in (name, name.with_name(f"{name.name}_{image.suffix[1:]}")):
        if candidate not in taken:
            taken.add(candidate)
            return candidate
    number = 2
    while name.with_name(f"{name.name}_{number}") in taken:
        number += 1
    taken.add(name.with_name(f"{name.name}_{number}"))
    return name.with_name(f"{name.name}_{number}")


def _save_labels(labels: Labels, palette: Iterable[int], path: Path) -> Path:
    image = Image.fromarray(labels)
    image.putpalette(list(palette))
    write_whole(path, image.save)
    return path


def _place_image(item: Annotated, place: Path, *, copy: bool) -> Path:
    """The image at ``place`` with its ending; one that the annotation file embeds is written."""
    if item.embedded is None:
        return _link(item.image, place.with_name(f"{place.name}{item.image.suffix}"), copy=copy)
    data = item.embedded()
    with Image.open(io.BytesIO(data)) as image:
        ending = (image.format or "png").lower()
    file = place.with_name(f"{place.name}.{ending}")
    write_whole(file, lambda to: to.write_bytes(data))
    return file


def _link(path: Path, place: Path, *, copy: bool) -> Path:
    """A symbolic link, or a copy where asked for or where the system makes no links."""
    if not copy:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path.resolve(), place)
            return place
        except OSError:
            pass  # Windows without the right to make links
    write_whole(place, lambda to: shutil.copyfile(path, to))
    return place


def _yaml(summary: Summary, target: Path) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in summary.images.items())
    content = {
        "base": "folder.yaml",
        "dataset": {"root": ".", "class_names": list(summary.class_names)},
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return f"# {counts} images.\n{text}"

"""The result of an importer: images, functions that rasterise their labels, and notes.

Shapes: masks (H, W) bool, labels (H, W) uint8 with a class index or IGNORE.
"""

from __future__ import annotations

import re
import reprlib
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from reco import IGNORE
from reco.data.finding.lists import same_at_end
from reco.data.finding.patterns import IMAGE_ENDINGS, SPLIT_WORDS, walk
from reco.data.reading.mask_classes import MAX_CLASSES
from reco.data.reading.masks import Mask, brightness
from reco.printing import join_first

Labels = npt.NDArray[np.uint8]
AreaMask = npt.NDArray[np.bool_]

_BACKGROUND = {"background", "_background_", "__background__"}
_MASK_FOLDER = re.compile("annotations?|masks?|labels?|panoptic_.*|segmentation(class|object).*")
_FAR = 10  # coordinates beyond so many times an image's longer side are mistakes
_NOTES_IN_ERROR = 8
_EXCERPT = reprlib.Repr()
_EXCERPT.maxdict, _EXCERPT.maxstring = 8, 60


@dataclass(frozen=True)
class ImportOptions:
    """Choices that a source does not make.

    Args:
        class_names: the classes, in this order; areas of other names are void. ``None``: all names
            of the source.
        void_names: names whose areas are void.
        uncovered: the label of pixels that no area covers.
        empty: how to label an annotated image without any area.
        images: folder of the images, where it is not beside the annotations.
        unlabelled: folders of further images without annotations.
        val_share: share of the labelled images that is kept for validation, where the source has
            no split; at least one.
        copy: copy the images instead of linking them.
    """

    class_names: tuple[str, ...] | None = None
    void_names: tuple[str, ...] = ("__ignore__",)
    uncovered: Literal["background", "void"] = "background"
    empty: Literal["background", "unlabelled"] = "background"
    images: Path | None = None
    unlabelled: tuple[Path, ...] = ()
    val_share: float = 0.2
    copy: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share = {self.val_share}: expected a share in (0, 1)")


class Malformed(ValueError):
    """An annotation that cannot be used, and why, in words for the user."""


@contextmanager
def reading(where: str, value: object, expected: str) -> Iterator[None]:
    """Name an annotation in its errors. Any but :class:`Malformed` says what came and was expected.

    Raises:
        Malformed: whatever was raised within, but for a lack of memory.
    """
    try:
        yield
    except Malformed as error:
        raise Malformed(f"{where}: {error}") from error
    except MemoryError:
        raise  # of the machine, not of the annotation
    except Exception as error:
        came = _EXCERPT.repr(value)
        raise Malformed(f"{where}: {came}: expected {expected}") from error


class Rasterised(NamedTuple):
    """Labels of one image, and counts of the events to report."""

    labels: Labels
    events: Counter[str]
    num_areas: int


@dataclass(frozen=True)
class Annotated:
    """An image with annotations.

    Args:
        image: its file.
        name: path of the result without ending, below the folder of its split.
        size: (width, height) for which the annotations were made; ``None``: unknown.
        rasterise: makes the labels, at ``size`` where it is known, else at the given size.
        split: ``train``, ``val`` or ``test``, where the source has one.
        embedded: reads the image out of ``image``, where that is the annotation file itself.
    """

    image: Path
    name: PurePosixPath
    rasterise: Callable[[tuple[int, int]], Rasterised]
    split: str | None = None
    embedded: Callable[[], bytes] | None = None
    size: tuple[int, int] | None = None

    def sized(self, read: Callable[[], tuple[int, int] | None]) -> Annotated:
        """The same image with the size that ``read`` gives; unusable where it is malformed."""
        try:
            return replace(self, size=read())
        except Malformed as error:
            return self.unusable(str(error))

    def unusable(self, reason: str) -> Annotated:
        """The same image, left out for ``reason`` when it is to be rasterised."""

        def fail(_: tuple[int, int]) -> NoReturn:
            raise Malformed(reason)

        return replace(self, size=None, rasterise=fail)


def by_image(found: Iterable[tuple[str, Annotated]]) -> dict[Path, Annotated]:
    """Images with annotations by their files, from these and where they stand.

    Of several annotations for one file none is sure to be its own: the image is left out.
    """
    places: dict[Path, list[str]] = defaultdict(list)
    items: dict[Path, Annotated] = {}
    for place, item in found:
        places[item.image].append(place)
        items[item.image] = item
    for image, several in places.items():
        if len(several) > 1:
            reason = f"annotated {len(several)} times, expected once: {join_first(several)}"
            items[image] = items[image].unusable(reason)
    return items


@dataclass(frozen=True)
class Annotations:
    """The images and annotations of a source."""

    class_names: tuple[str, ...]
    annotated: list[Annotated]
    unlabelled: list[tuple[Path, PurePosixPath]]  # images and their names, as above
    notes: list[str] = field(default_factory=list)  # one line each, for the user
    left_out: list[str] = field(default_factory=list)  # what was not imported, and why


class Classes(NamedTuple):
    """The classes of the result."""

    names: tuple[str, ...]
    class_of: dict[str, int]  # name in the source -> class index or IGNORE
    uncovered: int  # class of pixels that no area covers, or IGNORE
    notes: list[str]

    def of(self, name: str, events: Counter[str]) -> int:
        """Class of an area's name; one that is not known is void."""
        name = name.strip()
        if name not in self.class_of:
            events[f"areas of {name!r}, which the annotations do not declare: void"] += 1
        return self.class_of.get(name, IGNORE)


def told(notes: Sequence[str], left_out: Sequence[str]) -> list[str]:
    """Lines for the user: all notes, and the first things that were left out."""
    lines = [f"note: {note}" for note in notes]
    if left_out:
        lines.append(f"left out ({len(left_out)}): {join_first(left_out)}")
    return lines


def failure(text: str, notes: Sequence[str], left_out: Sequence[str]) -> ValueError:
    """The error that ends an import. What was noted and left out is mostly its reason."""
    most = _NOTES_IN_ERROR
    further = [f"{len(notes) - most} more notes"] if len(notes) > most else []
    return ValueError("\n".join([text, *told([*notes[:most], *further], left_out)]))


def choose_classes(
    found: Iterable[str],
    options: ImportOptions,
    *,
    unused: Iterable[str] = (),
    adds_background: bool = True,
    reasons: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> Classes:
    """Classes of the result from the names in a source, in their order.

    A name such as ``background`` or ``_background_`` becomes class 0; where there is none, it is
    added for the pixels that no area covers. Blanks around a name do not count.

    Args:
        found: names in the source.
        options: see :class:`ImportOptions`.
        unused: names that the source declares; a note tells which of them have no areas.
        adds_background: False where the source labels every pixel anyway.
        reasons: notes for an error: why there may be too few classes.
        left_out: what was left out of the source so far, for an error too.

    Raises:
        ValueError: fewer than two classes, more than 254, or asked for one that the source does not
            have.
    """
    found = list(dict.fromkeys(name.strip() for name in found))

    def background(name: str) -> bool:
        return name.lower() in _BACKGROUND

    void = [name for name in found if name in options.void_names]
    names = [name for name in found if name not in void]
    notes = _spelled_alike([name for name in found if not background(name)])
    declared = dict.fromkeys(name.strip() for name in unused)
    if without := [name for name in declared if name not in found and not background(name)]:
        notes.append(f"no classes, since they have no areas: {', '.join(without)}")
    if options.class_names is not None:
        absent = [n for n in options.class_names if n not in found and not background(n)]
        if absent:
            raise failure(
                f"classes {', '.join(absent)}: not in the source, which has "
                f"{', '.join(found) or 'none'}",
                [*notes, *reasons],
                left_out,
            )
        void += [name for name in names if name not in options.class_names and not background(name)]
        names = [*filter(background, names), *options.class_names]
    if void:
        notes.append(f"void are the areas of {', '.join(void)}")
    for_background = [name for name in names if background(name)]
    adds_background = adds_background and options.uncovered == "background"
    if for_background or adds_background:
        names = ["background", *(name for name in names if not background(name))]
    if len(names) < 2:
        raise failure(
            f"the source has the class {', '.join(names) or '(none)'} alone: expected at least two",
            [*notes, *reasons],
            left_out,
        )
    if len(names) > MAX_CLASSES:
        raise ValueError(
            f"the source has {len(names)} classes, expected at most {MAX_CLASSES}: choose some "
            "with --classes"
        )
    index = {name: position for position, name in enumerate(names)}
    index |= dict.fromkeys(for_background, 0) | dict.fromkeys(void, IGNORE)
    uncovered = 0 if adds_background else IGNORE
    return Classes(tuple(names), index, uncovered, notes)


def _spelled_alike(names: Iterable[str]) -> list[str]:
    """Notes on names that differ in capital letters, ``_``, ``-`` and blanks alone."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings[re.sub(r"[\s_-]", "", name).casefold()].append(name)
    return [
        f"{', '.join(alike)} differ only in capital letters, _, - or blanks, and count as "
        "different names: if they mean one class, rename them in the annotation tool, and import "
        "again"
        for alike in spellings.values()
        if len(alike) > 1
    ]


def paint(
    size: tuple[int, int],
    areas: Iterable[tuple[int, AreaMask]],
    uncovered: int,
    events: Counter[str],
    rule: str,
) -> Rasterised:
    """Areas one over another, the later one on top.

    Args:
        size: (width, height).
        areas: class index (or IGNORE) and mask of each, from the bottom to the top.
        uncovered: class of pixels in no area, or IGNORE.
        events: counts the pixels that lie in areas of two classes.
        rule: text for the summary: which area is on top there.
    """
    labels = np.full((size[1], size[0]), uncovered, dtype=np.uint8)
    covered = np.zeros((size[1], size[0]), dtype=bool)
    num_areas = 0
    for label, mask in areas:
        num_areas += 1
        contested = int((covered & mask & (labels != label)).sum())
        if contested:
            events[f"pixels lie in areas of two classes: {rule}"] += contested
        labels[mask] = label
        covered |= mask
    return Rasterised(labels, events, num_areas)


def coordinates(
    values: Sequence[Any], size: tuple[int, int], events: Counter[str], least: int = 3
) -> list[float]:
    """x, y, x, y, … of an area in an image of (width, height).

    ``events`` counts areas that leave the image by more than a pixel.

    Raises:
        Malformed: not finite, absurdly far from the image, or fewer than ``least`` points.
        TypeError: not numbers.
    """
    numbers = [0.0 + value for value in values]  # no text, unlike float
    if len(numbers) % 2 or len(numbers) < 2 * least:
        raise Malformed(f"{len(numbers)} coordinates: expected x, y of at least {least} points")
    far = _FAR * max(size)
    for number in numbers:
        if not -far <= number <= far:  # nor NaN
            raise Malformed(
                f"coordinate {number:g}: expected numbers up to {_FAR} times the image's "
                f"{max(size)} pixels"
            )
    xs, ys = numbers[0::2], numbers[1::2]
    if min(xs) < -1 or min(ys) < -1 or max(xs) > size[0] + 1 or max(ys) > size[1] + 1:
        events["areas reach beyond their image: cut off at its border"] += 1
    return numbers


class Images:
    """The image files below a folder, found again by the names in annotation files."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of images")
        self.folder = folder
        self.files = find_images(folder)
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in self.files:
            self._by_name[path.name].append(path)
        self._at = {path.resolve(): path for path in self.files}
        self._elsewhere: list[str] = []  # found by name, in another folder than it says

    def at(self, path: Path) -> Path | None:
        """The file at ``path`` in any spelling, if it is among these."""
        return self._at.get(path.resolve())

    def find(self, name: str, split: str | None = None) -> Path | None:
        """The file that an annotation calls ``name``; ``None`` where there is none.

        Of several with equal names, one that is not in a folder of masks, then that which has the
        most of the name's folders, then that in a folder of the split. The name may begin with
        folders of another machine, or lack some; that it has others is noted in :meth:`without`.

        Raises:
            ValueError: several fit equally well.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))

        def fit(path: Path) -> tuple[bool, int, bool]:
            common = same_at_end(path.parts, wanted.parts)
            in_split = split is not None and split_of(path.parent, self.folder) == split
            return not self._mask_folder(path), common, in_split

        candidates = sorted(self._by_name.get(wanted.name, ()), key=fit, reverse=True)
        if len(candidates) > 1 and fit(candidates[0]) == fit(candidates[1]):
            raise ValueError(
                f"{name}: may be {candidates[0]} or {candidates[1]}; say with --images in which "
                "folder the images are"
            )
        if not candidates:
            return None
        found = candidates[0].relative_to(self.folder)
        if fit(candidates[0])[1] < min(len(wanted.parts), len(found.parts)):
            self._elsewhere.append(f"{found} for {wanted}")
        return candidates[0]

    def name(self, path: Path) -> PurePosixPath:
        """Path below the folder, without ending: the name of the result."""
        return PurePosixPath(path.relative_to(self.folder).with_suffix("").as_posix())

    def without(
        self, annotated: Container[Path], notes: list[str]
    ) -> list[tuple[Path, PurePosixPath]]:
        """The images that have no annotations, with their names.

        Folders whose name means masks are left out; ``notes`` gets a line about them, and about
        images that were found in another folder.
        """
        if self._elsewhere:
            notes.append(
                f"{len(self._elsewhere)} images are from other folders than their annotations say: "
                f"{join_first(self._elsewhere, 3)}"
            )
        found = []
        passed_over: Counter[str] = Counter()
        for path in self.files:
            if path in annotated:
                continue
            if folder := self._mask_folder(path):
                passed_over[folder] += 1
            else:
                found.append((path, self.name(path)))
        notes += [
            f"{count} images in folders named {folder} are masks by their name: passed over"
            for folder, count in passed_over.items()
        ]
        return found

    def _mask_folder(self, path: Path) -> str:
        """The folder above a file, if any, whose name means masks."""
        folders = path.relative_to(self.folder).parts[:-1]
        return next((f for f in folders if _MASK_FOLDER.fullmatch(f.lower())), "")


def find_images(folder: Path, endings: Container[str] = IMAGE_ENDINGS) -> list[Path]:
    """Files of ``endings`` below a folder, sorted; hidden files and folders are passed over.

    Links to another of them are left out: an earlier import may lie in the folder.

    Raises:
        ValueError: a folder cannot be listed.
    """
    found = [folder / name for name in walk(folder, [""])]
    images = [path for path in found if path.suffix.lower() in endings]
    by_file: dict[Path, Path] = {}
    for path in sorted(images, key=lambda path: (path.is_symlink(), path)):
        by_file.setdefault(path.resolve(), path)
    return sorted(by_file.values())


def split_of(path: Path, root: Path) -> str | None:
    """The split that a file's name or one of its folders below ``root`` names, the nearest first.

    ``annotations/instances_train2017.json`` and ``valid/_annotations.coco.json`` have one.
    """
    parts = path.relative_to(root).parts if path.is_relative_to(root) else (path.name,)
    for part in reversed(parts):
        for word in re.findall("[a-z]+", part.lower()):
            if word in SPLIT_WORDS:
                return SPLIT_WORDS[word]
    return None


def require(content: Any, key: str, kind: type, where: str) -> Any:
    """``content[key]``, of type ``kind``.

    Raises:
        Malformed: it is not there or is of another type.
    """
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise Malformed(f"{where}: {key} = {value!r}: expected a {kind.__name__}")
    return value


def collect(
    found: Iterable[tuple[str, Annotated]], classes: Classes, images: Images, left_out: list[str]
) -> Annotations:
    """The result from annotated images, each with where it stands; all others are unlabelled."""
    annotated = by_image(found)
    unlabelled = images.without(annotated, classes.notes)
    return Annotations(classes.names, [*annotated.values()], unlabelled, classes.notes, left_out)


def colours_of(mask: Mask) -> npt.NDArray[np.int32]:
    """``(H, W)`` colours 0xRRGGBB of a mask of any kind; -1 for values that have none.

    Those are indices beyond the palette and grey values beyond 8 bit.
    """
    if mask.kind == "colour":
        return np.asarray(mask.values, np.int32)
    if mask.kind == "index":
        table = np.array(mask.palette, np.int32)
    else:
        table = brightness(np.arange(mask.white + 1), mask.white) * 0x010101
    values = mask.values.astype(np.int32)
    outside = (values < 0) | (values >= len(table))
    colours: npt.NDArray[np.int32] = np.append(table, np.int32(-1))[
        np.where(outside, len(table), values)
    ]
    return colours


def labels_by_value(
    values: npt.NDArray[Any], class_of: Mapping[int, int], stranger: str
) -> Rasterised:
    """Labels of a mask that the source has as a file; values without a class are void.

    Args:
        values: ``(H, W)`` values or colours 0xRRGGBB.
        class_of: value -> class index.
        stranger: event that counts the pixels without a class.
    """
    labels: Labels = np.full(values.shape, IGNORE, dtype=np.uint8)
    for value, label in class_of.items():
        labels[values == value] = label
    strangers = int((~np.isin(values, list(class_of))).sum())
    return Rasterised(labels, Counter({stranger: strangers} if strangers else {}), num_areas=1)

"""The table that turns a mask file into class indices: by value or by colour.

A table by value reads grey files, palette files by index, and colour files whose pixels are all
grey. A table by colour reads colour files, palette files by the colours of their palette, and grey
files as greys. Where no table is given, the value is the position of the class.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from reco import IGNORE
from reco.classes import DatasetSpec, default_palette
from reco.data.reading.masks import Mask, UnknownValueError, brightness, colour_name
from reco.printing import join_first, ranges

Pixels = npt.NDArray[np.uint8]
MaskValues = int | str | Sequence[int | str]
"""Representation of a class in the masks: a value, a colour such as ``"#804080"``, or several."""

MAX_CLASSES = 254
_UNKNOWN = 254  # in tables of class indices, which end at 253
_LOWEST, _HIGHEST = -(2**15), 2**16 - 1  # values that a table can name
_GREY = 0x010101

# Masks that went through JPEG: least distance of named colours, greatest distance of a pixel to its
# colour, and greatest share of pixels (those on borders) that become void since none is near.
_APART, _REACH, _MAX_LOST = 64.0, 48.0, 0.1


class ClassTable:
    """The classes of values or colours in mask files.

    Args:
        spec: the classes.
        meaning: value, or colour 0xRRGGBB -> class index or IGNORE; any other one is an error.
        by_colour: whether the keys of ``meaning`` are colours.
        implied: values that mean void although the user did not name them.
        went_through_jpeg: take all masks as if they were JPEG files: pixels near a named colour
            count as it.
        hint: what to do about a value that is no class.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        meaning: Mapping[int, int],
        *,
        by_colour: bool = False,
        implied: Sequence[int] = (),
        went_through_jpeg: bool = False,
        hint: str = "",
    ) -> None:
        self.spec = spec
        self.named = dict(meaning)
        self.implied = frozenset(implied) - frozenset(meaning)
        self.meaning = dict.fromkeys(self.implied, IGNORE) | self.named
        self.by_colour = by_colour
        self._went_through_jpeg = went_through_jpeg
        self._hint = hint
        self._warned = False

    def describe(self, label: int) -> str:
        """Values or colours of a class (or of IGNORE): ``1, 2`` or ``#804080``."""
        found = sorted(v for v, c in self.meaning.items() if c == label)
        return ", ".join(map(colour_name, found)) if self.by_colour else ranges(found)

    def to_dict(self) -> dict[str, Any]:
        """The settings that decide the class of a pixel, as JSON values."""
        return {
            "class_names": list(self.spec.class_names),
            "by_colour": self.by_colour,
            "meaning": {str(value): label for value, label in sorted(self.meaning.items())},
            "went_through_jpeg": self._went_through_jpeg,
        }

    def read(self, mask: Mask, source: object) -> Pixels:
        """Class indices, 0 .. C-1 or IGNORE, in the shape of ``mask.values``.

        Raises:
            ValueError: a value or colour that is no class; the message names ``source``.
        """
        lossy = mask.lossy or self._went_through_jpeg
        if lossy and (problem := self._jpeg_problem):
            raise ValueError(f"{source}: went through JPEG or lossy WebP: {problem}")
        if mask.white in (3, 15) and not self.by_colour:  # 2 or 4 bit
            self._refuse_two_meanings(mask, source)
        classes = self._convert(mask)
        unknown = classes == _UNKNOWN
        if not unknown.any():
            return classes
        if lossy:
            return self._read_nearest(mask, source)
        colours = mask.kind == "colour" or (self.by_colour and mask.kind != "value")
        found = np.unique((_as_colours(mask) if colours else mask.values)[unknown])[:256].tolist()
        named = [colour_name(value) if colours else str(value) for value in found]
        raise UnknownValueError(source, self._unknown_message(mask, unknown), named)

    def _convert(self, mask: Mask) -> Pixels:
        """Class indices, ``_UNKNOWN`` where the table has none."""
        values = mask.values
        classes: Pixels
        if self.by_colour:
            if mask.kind == "colour":
                classes = self._of_colour[values]
                return classes
            if mask.kind == "index":
                colours = np.array(mask.palette)
            else:
                colours = brightness(np.arange(mask.white + 1), mask.white) * _GREY
            table = np.append(self._of_colour[colours], np.uint8(_UNKNOWN))
            outside = (values < 0) | (values >= len(colours))
            classes = table[np.where(outside, len(colours), values)]
            return classes
        if mask.kind == "colour":
            grey = values & 0xFF
            classes = self._of_value[grey - _LOWEST + 1]
            classes[grey * _GREY != values] = _UNKNOWN
            return classes
        if mask.white < 255 and self._names_brightness(mask.white):
            values = brightness(values, mask.white).astype(np.uint8)
        if values.dtype == np.uint8:
            classes = self._of_value[1 - _LOWEST : 257 - _LOWEST][values]
        else:
            places = values.astype(np.int64).clip(_LOWEST - 1, _HIGHEST + 1) - _LOWEST + 1
            classes = self._of_value[places]
        return classes

    def _refuse_two_meanings(self, mask: Mask, source: object) -> None:
        """Raise for values that are classes as stored, and other classes as shown.

        A program that makes files smaller stores 0 and 17 of 8 bit as 0 and 1 of 4 bit.
        """
        stored = np.unique(mask.values)
        shown = brightness(stored, mask.white).tolist()
        classes = [[self.named.get(value) for value in values] for values in (stored, shown)]
        if classes[0] != classes[1] and not any(None in each for each in classes):
            raise ValueError(
                f"{source}: white is {mask.white} there, so its values are "
                f"{ranges(stored.tolist())} as stored and {ranges(shown)} as shown, and both are "
                "classes: save it with 8 bit"
            )

    def _names_brightness(self, white: int) -> bool:
        """Whether values as shown are meant, in a file that a program reduced to fewer bits."""
        values = np.arange(1, white + 1)
        shown = brightness(values, white).tolist()
        return self.named.keys().isdisjoint(values.tolist()) and any(
            self.named.get(value, IGNORE) != IGNORE for value in shown
        )

    @cached_property
    def _of_value(self) -> Pixels:
        """Class of each value from ``_LOWEST``; the first and last entry are for values beyond."""
        table = np.full(_HIGHEST - _LOWEST + 3, _UNKNOWN, np.uint8)
        for value, label in self.meaning.items():
            table[value - _LOWEST + 1] = label
        return table

    @cached_property
    def _of_colour(self) -> Pixels:
        """Class of each of the 2^24 colours."""
        table = np.full(2**24, _UNKNOWN, np.uint8)
        for colour, label in self.meaning.items():
            table[colour] = label
        return table

    def _read_nearest(self, mask: Mask, source: object) -> Pixels:
        """Class indices of a mask that went through JPEG; void where no named colour is near."""
        colours = _as_colours(mask)
        new = np.unique(colours[self._near[colours] < 0])
        self._near[new] = _nearest(new, self._points, self._reach)
        if not self.by_colour:
            self._near[new[np.ptp(_channels(new), axis=1) > _REACH]] = _UNKNOWN
        classes: Pixels = self._near[colours].astype(np.uint8)
        lost = float((classes == _UNKNOWN).mean())
        if lost > _MAX_LOST:
            unknown = classes == _UNKNOWN
            raise ValueError(
                f"{source}: {lost:.0%} of its pixels are near none of the named "
                f"{'colours' if self.by_colour else 'values'}, even for a file that went through "
                f"JPEG: {_most_frequent(colours[unknown])}{self._hint}"
            )
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{source}: a mask that went through JPEG: pixels near a named colour are read as "
                f"it, the others as void ({lost:.1%} here). PNG masks are safer",
                stacklevel=2,
            )
        classes[classes == _UNKNOWN] = IGNORE
        return classes

    @cached_property
    def _points(self) -> dict[int, int]:
        """Colours that pixels of a JPEG file may stand for, and their classes."""
        if self.by_colour:
            return self.named
        return {v * _GREY: c for v, c in self.named.items() if 0 <= v < 256}

    @cached_property
    def _reach(self) -> float:
        apart = _least_distance(self._points)[0]
        return apart / 2 if len(self._points) == 2 else min(_REACH, apart / 2)

    @cached_property
    def _near(self) -> npt.NDArray[np.int16]:
        """As ``_of_colour`` for JPEG files; -1 where not computed yet."""
        return np.full(2**24, -1, np.int16)

    @cached_property
    def _jpeg_problem(self) -> str:
        """Why masks that went through JPEG cannot be read with this table; "" if they can."""
        if not self.by_colour and len(self._points) != 2:
            return (
                "JPEG changes values, so that only two values far apart, or colours, can be read. "
                "Save the masks as PNG"
            )
        apart, first, second = _least_distance(self._points)
        if apart < _APART:
            return (
                f"JPEG changes colours, and {colour_name(first)} and {colour_name(second)} are too "
                "near to each other to be told apart. Save the masks as PNG"
            )
        return ""

    def _unknown_message(self, mask: Mask, unknown: npt.NDArray[np.bool_]) -> str:
        """What is wrong with a mask whose values are not all in the table."""
        values = mask.values[unknown]
        if mask.kind == "colour" or (self.by_colour and mask.kind != "value"):
            colours = _as_colours(mask)[unknown]
            if not self.by_colour:
                return (
                    f"is a colour image, expected one value per pixel. It holds "
                    f"{_most_frequent(_as_colours(mask).ravel())}{self._hint}"
                )
            return (
                f"holds {_most_frequent(colours)}, no colours of {self.spec.name}; named are "
                f"{self._named_colours()}{self._hint_near(colours)}{self._hint}"
            )
        found = np.unique(values).tolist()
        if self.by_colour:
            named = f"named are {self._named_colours()}; a grey of 128 is #808080"
        else:
            named = f"allowed: {ranges(sorted(self.meaning))}"
        palette = ""
        if mask.kind == "index":
            shown = (f"{i} is {colour_name(c)}" for i, c in enumerate(mask.palette) if i in found)
            palette = f". These are indices of its palette, where {join_first([*shown])}"
        smooth = ""
        if mask.kind == "value" and len(found) > 32:
            smooth = self._hint_smoothing("values")
        no_class = "are no classes" if len(found) > 1 else "is no class"
        return (
            f"holds {join_first(found)}, which {no_class} of {self.spec.name}; "
            f"{named}{palette}{smooth}{self._hint}"
        )

    def _named_colours(self) -> str:
        return join_first(
            [f"{colour_name(v)} ({self._name(c)})" for v, c in self.named.items()], 12
        )

    def _hint_near(self, colours: npt.NDArray[np.int32]) -> str:
        """A hint where the unknown colours are near the named ones."""
        near = _nearest(np.unique(colours), self.named, _REACH)
        if (near == _UNKNOWN).mean() > 0.5:
            return ""
        return self._hint_smoothing("colours")

    def _hint_smoothing(self, what: str) -> str:
        remedy = "" if self._jpeg_problem else ", or set dataset.jpeg_masks: true"
        return (
            f". So many {what} beside the named ones come from JPEG or from smooth resizing: save "
            f"the masks as PNG without either{remedy}"
        )

    def _name(self, label: int) -> str:
        return "void" if label == IGNORE else self.spec.class_names[label]


def class_table(
    class_names: Sequence[str] | None,
    classes: Mapping[str, MaskValues] | None = None,
    ignore: MaskValues = (),
    *,
    label_map: Mapping[int, int] | None = None,
    went_through_jpeg: bool = False,
    hint: str = "",
) -> ClassTable:
    """The table of a ``folder`` data set.

    Args:
        class_names: the value is the position, unless ``classes`` or ``label_map`` says otherwise.
        classes: name -> its values or colours.
        ignore: values or colours of void. 255 is one unless a class has it; with -1, so are 255
            and 65535, its values in files of unsigned numbers.
        label_map: value -> position in ``class_names``, another way to write ``classes``.
        went_through_jpeg: see :class:`ClassTable`, as for the arguments below.
        hint: for messages.

    Raises:
        ValueError: no or too many classes, one value for two classes, values beside colours, or
            an entry that is neither.
    """
    names = tuple(classes or class_names or ())
    if not 2 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise ValueError(
            f"dataset.class_names = {list(names)}: expected 2 to {MAX_CLASSES} different names"
        )
    if classes and class_names and tuple(class_names) != names:
        raise ValueError(
            f"dataset.class_names = {list(class_names)}, but dataset.classes names {list(names)}: "
            "expected one of the two"
        )
    entries: list[tuple[str, int | str, int]] = []  # key, value or colour, label
    if classes:
        if label_map is not None:
            raise ValueError("dataset.label_map: expected none beside dataset.classes")
        for label, (name, values) in enumerate(classes.items()):
            key, listed = f"dataset.classes: {name}", as_list(values)
            if not listed:
                raise ValueError(f"{key} = []: expected a value or a colour")
            _refuse_three_numbers(key, listed)
            entries += [(key, item, label) for item in listed]
    else:
        positions = {c: c for c in range(len(names))} if label_map is None else label_map
        for value, label in positions.items():
            if not 0 <= label < len(names):
                raise ValueError(
                    f"dataset.label_map = {{{value}: {label}}}: expected a value mapped to a class "
                    f"index 0 to {len(names) - 1}"
                )
            entries.append((f"dataset.label_map: {value}", value, label))
    _refuse_three_numbers("dataset.ignore", as_list(ignore))
    entries += [("dataset.ignore", item, IGNORE) for item in as_list(ignore)]

    kinds = {isinstance(item, str) for _, item, _ in entries}
    if len(kinds) > 1:
        grey = next(item for _, item, _ in entries if not isinstance(item, str))
        raise ValueError(
            f"dataset.classes and dataset.ignore hold colours and the value {grey}: expected "
            f'one kind. As a colour, a grey value of 128 is "#808080"'
        )
    by_colour = kinds == {True}
    meaning: dict[int, int] = {}
    for key, item, label in entries:
        number = _colour(item, key) if isinstance(item, str) else _value(item, key)
        if meaning.setdefault(number, label) != label:
            owners = [names[c] if c != IGNORE else "void" for c in (meaning[number], label)]
            raise ValueError(f"{key} = {item!r}: stands for {owners[0]} and for {owners[1]}")
    implied = [] if by_colour else [255, *([65535] if meaning.get(-1) == IGNORE else [])]
    palette = default_palette(len(names))
    if by_colour:
        first = {label: value for value, label in reversed(meaning.items())}
        palette = tuple(
            (v >> 16, v >> 8 & 0xFF, v & 0xFF) for v in (first[c] for c in range(len(names)))
        )
    return ClassTable(
        DatasetSpec("folder", names, palette),
        meaning,
        by_colour=by_colour,
        implied=implied,
        went_through_jpeg=went_through_jpeg,
        hint=hint,
    )


def as_list(values: MaskValues) -> Sequence[int | str]:
    """Values or colours of a class, as a list."""
    return [values] if isinstance(values, int | str) else values


def _refuse_three_numbers(key: str, listed: Sequence[int | str]) -> None:
    """Raise for a colour such as [128, 64, 128], which would count as the values 64 and 128."""
    if len(listed) == 3 and len(set(listed)) < 3 and all(type(i) is int for i in listed):
        example = listed if all(0 <= int(i) <= 255 for i in listed) else (128, 64, 128)
        colour = "#" + "".join(f"{int(i):02x}" for i in example)
        raise ValueError(
            f'{key} = {list(listed)}: expected different values; a colour is written "{colour}"'
        )


def _value(value: int | str, key: str) -> int:
    if not isinstance(value, int) or not _LOWEST <= value <= _HIGHEST:
        raise ValueError(
            f"{key} = {value!r}: expected a value from {_LOWEST} to {_HIGHEST}, or a colour in "
            'quotes such as "#804080"'
        )
    return value


def _colour(text: str, key: str) -> int:
    channels: tuple[int, ...] = ()
    with contextlib.suppress(ValueError):
        channels = ImageColor.getrgb(text)
    if len(channels) != 3:
        raise ValueError(
            f'{key} = {text!r}: expected a value such as 255 or a colour such as "#804080"'
        )
    red, green, blue = channels
    return red << 16 | green << 8 | blue


def _as_colours(mask: Mask) -> npt.NDArray[np.int32]:
    """Colours 0xRRGGBB of a mask of any kind; greys beyond 255 count as white."""
    if mask.kind == "colour":
        return np.asarray(mask.values, np.int32)
    if mask.kind == "index":
        colours: npt.NDArray[np.int32] = np.zeros(256, np.int32)
        colours[: len(mask.palette)] = mask.palette
        return np.asarray(colours[mask.values])
    grey = mask.values.astype(np.int32).clip(0, 255)
    return brightness(grey, mask.white) * _GREY


def _channels(colours: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """``(N, 3)`` of N colours."""
    packed = np.asarray(colours, np.int32).reshape(-1, 1)
    return np.asarray(packed >> np.array([16, 8, 0]) & 0xFF, np.float32)


def _nearest(
    colours: npt.NDArray[np.int32], points: Mapping[int, int], reach: float
) -> npt.NDArray[np.int16]:
    """Class of the nearest of ``points``, ``_UNKNOWN`` where that is beyond ``reach``."""
    best = np.full(len(colours), np.inf, np.float32)
    classes = np.full(len(colours), _UNKNOWN, np.int16)
    channels = _channels(colours)
    for point, label in points.items():
        distance = np.linalg.norm(channels - _channels(point), axis=1)
        closer = (distance < best) & (distance <= reach)
        best[closer], classes[closer] = distance[closer], label
    return classes


def _least_distance(points: Mapping[int, int]) -> tuple[float, int, int]:
    """The two points of different classes that are nearest to each other, and how near."""
    found = (float("inf"), 0, 0)
    for first, first_class in points.items():
        for second, second_class in points.items():
            if first < second and first_class != second_class:
                apart = float(np.linalg.norm(_channels(first) - _channels(second)))
                found = min(found, (apart, first, second))
    return found


def _most_frequent(colours: npt.NDArray[np.int32]) -> str:
    """``#804080 (61 %), #ffffff (30 %) and 5 more``: shares of all ``colours``."""
    found, counts = np.unique(colours, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shares = [f"{colour_name(found[i])} ({counts[i] / counts.sum():.1%})" for i in order[:9]]
    return join_first([*shares, *[""] * (len(found) - len(shares))])

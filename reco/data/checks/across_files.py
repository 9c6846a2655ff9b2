"""Checks across the files of a data set: palettes, encodings of masks, splits.

Each mask may be valid and the data set still wrong: palettes in different orders, 0 and 1 in some
files and 0 and 255 in others, the same picture to train and to validate on.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from reco.data.datasets.reader import MaskContent
from reco.data.reading.mask_classes import ClassTable
from reco.data.reading.masks import colour_name
from reco.printing import counted, join_first

_GREY = 0x010101


def check_masks(contents: Iterable[MaskContent], table: ClassTable) -> None:
    """Raise where the table cannot hold for all masks.

    Raises:
        ValueError: an index stands for other colours in other files, or some masks are written
            with 0 and 1 and others with 0 and 255.
    """
    masks = sorted(contents, key=lambda content: content.path)
    if not table.by_colour:
        _check_palettes(masks, table)
        _check_encodings(masks, table)


def several_encodings(contents: Iterable[MaskContent], table: ClassTable) -> list[str]:
    """Classes whose values (or colours) never meet in one mask: a line for each class."""
    masks = [set(content.values) for content in contents]
    lines = []
    for label, name in enumerate(table.spec.class_names):
        named = [value for value, c in table.named.items() if c == label]
        counts = {v: sum(v in values for values in masks) for v in named}
        found = {value: count for value, count in counts.items() if count}
        if len(found) > 1 and not any(len(values.intersection(found)) > 1 for values in masks):
            shown = [
                f"{colour_name(v) if table.by_colour else v} in {counted(n, 'mask')}"
                for v, n in found.items()
            ]
            lines.append(f"{name} is {' and '.join(shown)}, never both in one")
    return lines


def same_pictures(first: Sequence[Path], second: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Files of ``first`` and ``second`` with the same content. Files of one size alone are read.

    Those that cannot be read are passed over: what reads them as images reports them.
    """
    by_size: dict[int, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for side, paths in enumerate((first, second)):
        for path in paths:
            with contextlib.suppress(OSError):
                by_size[path.stat().st_size][side].append(path)
    pairs = []
    for size, (here, there) in by_size.items():
        if not size or not here or not there:
            continue
        by_content = {digest: path for path in here if (digest := _digest(path))}
        pairs += [(by_content[d], path) for path in there if (d := _digest(path)) in by_content]
    return sorted(pairs)


class _Entry(NamedTuple):
    """An index or grey value in a mask, and its colour."""

    number: int
    colour: int
    mask: MaskContent


def _check_palettes(masks: Sequence[MaskContent], table: ClassTable) -> None:
    """Raise unless an index stands for one colour, and a colour for one index.

    Palettes are compared by the entries that masks use. Grey files and palettes of index i = grey i
    are one kind; they may stand beside one coloured palette, as in Pascal VOC, but not beside
    a grey palette in another order.
    """
    coloured = [m for m in masks if m.kind == "index" and not _is_identity(m)]
    if not coloured:
        return
    by_index: dict[int, _Entry] = {}
    by_colour: dict[int, _Entry] = {}
    several = _colours_of_several_indices(coloured)
    for mask in coloured:
        for entry in _entries(mask):
            before = by_index.setdefault(entry.number, entry)
            if before.colour != entry.colour:
                _raise_mismatch(before, entry, coloured, table)
            before = by_colour.setdefault(entry.colour, entry)
            if before.number != entry.number and entry.colour not in several:
                _raise_mismatch(before, entry, coloured, table)
    greys = [m for m in masks if m.kind == "value" or (m.kind == "index" and _is_identity(m))]
    grey_entries = {i: _Entry(i, i * _GREY, m) for m in greys for i in m.values if 0 <= i < 256}
    for mask in coloured:
        if any(colour % _GREY for colour in mask.palette):
            continue
        moved = next(entry for entry in _entries(mask) if entry.colour != entry.number * _GREY)
        if grey_entries:
            other = grey_entries.get(moved.number) or next(iter(grey_entries.values()))
            _raise_mismatch(other, moved, [*greys, mask], table)
        if all(entry.colour // _GREY in table.named for entry in _entries(mask)):
            # Values of the table in another order, as an optimiser of file sizes leaves them.
            _raise_mismatch(moved, moved, [mask], table)


def _raise_mismatch(
    first: _Entry, second: _Entry, masks: Sequence[MaskContent], table: ClassTable
) -> None:
    conflict = f"{first.number} is {colour_name(first.colour)} in {first.mask.path}"
    palettes = f"{_palette_text(second.mask)}; {_palette_text(first.mask)}"
    if first is second:
        conflict = f"that is the grey value {first.colour // _GREY}, which stands for a class too"
        palettes = _palette_text(first.mask)
    colours = sorted({entry.colour for mask in masks for entry in _entries(mask)})
    quoted = [f'"{colour_name(colour)}"' for colour in colours]
    names = table.spec.class_names
    if table.spec.name != "folder":
        remedy = f"Masks as {table.spec.name} has them are expected"
    elif len(quoted) == len(names):
        pairs = ", ".join(f"{name}: {colour}" for name, colour in zip(names, quoted, strict=True))
        remedy = f"Give the colours: dataset.classes: {{{pairs}}}, in the right order"
    else:
        remedy = f"Map these colours in dataset.classes: {join_first(quoted)}"
    raise ValueError(
        f"{second.mask.path}: {second.number} is {colour_name(second.colour)} in its palette, but "
        f"{conflict}, so that the index cannot be the class. Palettes: {palettes}. {remedy}"
    )


def _palette_text(mask: MaskContent) -> str:
    if mask.kind != "index":
        return "grey values"
    return join_first([f"{i} {colour_name(c)}" for i, c in enumerate(mask.palette)])


def _entries(mask: MaskContent) -> list[_Entry]:
    """Index and colour of the palette entries, or greys, that a mask uses."""
    if mask.kind == "index":
        known = (i for i in mask.values if i < len(mask.palette))
        return [_Entry(i, mask.palette[i], mask) for i in known]
    return [_Entry(i, i * _GREY, mask) for i in mask.values if 0 <= i < 256]


def _is_identity(mask: MaskContent) -> bool:
    return all(entry.colour == entry.number * _GREY for entry in _entries(mask))


def _colours_of_several_indices(masks: Iterable[MaskContent]) -> set[int]:
    """Colours that one mask has at two indices, which identify no class."""
    found: set[int] = set()
    for mask in masks:
        seen: set[int] = set()
        for entry in _entries(mask):
            if entry.colour in seen:
                found.add(entry.colour)
            seen.add(entry.colour)
    return found


def _check_encodings(masks: Sequence[MaskContent], table: ClassTable) -> None:
    """Raise where 255 is void by default, but may be the object."""
    if 255 not in table.implied or table.spec.num_classes != 2:
        return
    values = [(m, {v & 0xFF if m.kind == "colour" else v for v in m.values}) for m in masks]
    with_255 = [(m, found) for m, found in values if 255 in found]
    others = [(m, found - {0}) for m, found in values if found - {0, 255}]
    if not with_255 or not others or any(found - {0, 255} for _, found in with_255):
        return
    first, second = table.spec.class_names
    value = min(others[0][1])
    raise ValueError(
        f"{len(with_255)} masks hold 255 and never {value}, such as {with_255[0][0].path}; "
        f"{len(others)} others hold {value}, such as {others[0][0].path}. If both are {second}, "
        f"write dataset.classes: {{{first}: 0, {second}: [{value}, 255]}}; if 255 is void, write "
        "dataset.ignore: 255"
    )


def _digest(path: Path) -> bytes | None:
    """Hash of a file's content; ``None`` if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None

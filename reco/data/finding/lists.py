"""Lists of images, as projects publish them: one image a line, perhaps followed by its mask.

A line holds a name without folder and ending (``2007_000032``), a path whose leading folders may
differ (``/SegNet/CamVid/train/0001TP_006690.png``), or an image and its mask separated by blanks,
commas or tabs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from reco.data.finding.patterns import PICTURE_ENDINGS, normal
from reco.paths import read_lines
from reco.printing import join_first


class NameIndex:
    """Finds the file that a line of a list means.

    Args:
        paths: id -> path below the data set's folder. A list may hold either.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.ids = list(paths)
        self._paths = {normal(id): (id, _parts(path)) for id, path in paths.items()}
        self._by_stem: dict[str, list[str]] = {}
        self._flat = not any("/" in id for id in paths)
        for id, (_, parts) in self._paths.items():
            for stem in {id.rpartition("/")[2], _stem(parts[-1])}:
                self._by_stem.setdefault(stem, []).append(id)

    def find(self, text: str) -> str | None:
        """Id of a name or path, None if there is no such file.

        Raises:
            ValueError: several files fit equally well.
        """
        parts = _parts(text)
        if not parts:
            return None
        stem = _stem(parts[-1])
        for exact in ("/".join(parts), "/".join((*parts[:-1], stem))):
            if exact in self._paths:
                return self._paths[exact][0]
        best, fitting = -1, list[str]()
        for id in self._by_stem.get(stem, []) or self._by_stem.get(parts[-1], []):
            folders = self._paths[id][1][:-1]
            same = same_at_end(parts[:-1], folders)
            # Ids that are plain names are unique: folders need not match.
            if same < min(len(parts) - 1, len(folders)) and not self._flat:
                continue
            same = 2 * same + (self._paths[id][1][-1] == parts[-1])
            if same > best:
                best, fitting = same, []
            if same == best:
                fitting.append(self._paths[id][0])
        if len(fitting) > 1:
            raise ValueError(f"{text} may be {join_first(sorted(fitting))}: say the folder too")
        return fitting[0] if fitting else None

    def split(self, line: str) -> tuple[str, str | None] | None:
        """Id of a line's image, and the rest of the line; None if there is no such image."""
        whole = self.find(line)
        if whole is not None:
            return whole, None
        for gap in re.finditer(r"\s*[,;\t]\s*|\s+", line):
            id = self.find(line[: gap.start()])
            if id is not None:
                return id, line[gap.end() :].strip() or None
        return None


def read_ids(path: Path, index: NameIndex, key: str) -> dict[str, str | None]:
    """Ids in a list file and the rest of each line, usually the mask.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that means no image, or several; two lines that mean one; an empty list.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{key} = {path}: no such file")
    found: dict[str, str | None] = {}
    line_of: dict[str, str] = {}
    unknown = []
    try:
        lines = read_lines(path)
    except ValueError as error:
        raise ValueError(f"{key}: expected a list of images: {error}") from error
    for line in lines:
        try:
            pair = index.split(line)
        except ValueError as error:
            raise ValueError(f"{key}: {path}: {error}") from None
        if pair is None:
            unknown.append(line)
        elif pair[0] in found:
            raise ValueError(
                f"{key}: {path}: names {pair[0]} twice, by {line_of[pair[0]]!r} and {line!r}: "
                "remove one of the lines"
            )
        else:
            found[pair[0]], line_of[pair[0]] = pair[1], line
    if unknown:
        example = next(iter(index.ids), None)
        raise ValueError(
            f"{key}: {path}: {len(unknown)} of {len(lines)} lines are none of the {len(index.ids)} "
            f"images to choose from: {join_first(unknown)}. They look like {example!r}"
        )
    if not found:
        raise ValueError(f"{key}: {path} holds 0 ids, expected at least one")
    return found


def _parts(path: str) -> tuple[str, ...]:
    """Folders and name of a path with slashes of either kind; ``.`` and a root left out."""
    return tuple(p for p in normal(path).replace("\\", "/").split("/") if p not in ("", "."))


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in PICTURE_ENDINGS else name


def same_at_end(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """How many of the last parts are the same."""
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count

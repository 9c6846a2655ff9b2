"""Files by pattern: images, masks, and which mask belongs to which image.

A pattern is a path below the data set's folder with ``*``, ``**`` and names in braces:
``images/{split}/{parent}/{stem}.*``. A name stands for a part of a file name or for one folder,
``{parent}`` for any number of folders or none. An image and a mask belong together where the names
that both patterns share have the same values; without ``{stem}``, the one ``*`` of a file name is
it. A file name of other names or none, such as ``{tile}/mask_{n}.png``, needs no stem. ``.*`` is
any ending that can be read.
"""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from reco import distributed

SPLITS = ("train", "val", "test")

# Usual names of the three splits.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
LOSSLESS_ENDINGS = frozenset({".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".ppm"})
MASK_ENDINGS = LOSSLESS_ENDINGS | {".webp", ".jpg", ".jpeg"}
# Endings of files that may be an image or a mask.
PICTURE_ENDINGS = IMAGE_ENDINGS | MASK_ENDINGS
PICTURE_ENDINGS |= {".jfif", ".jp2", ".j2k", ".heic", ".heif", ".avif", ".npy", ".npz", ".mat"}

# Folders of file systems and of their indices, which hold thumbnails, deleted files, or nothing.
_SYSTEM_FOLDERS = frozenset({"@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})

_BRACES = re.compile(r"\{[A-Za-z]\w*\}")
_TOKEN = re.compile(r"\{([A-Za-z]\w*)\}/?|\*\*/|\*|\?|[^{*?]+|\{")
_WILD = {"**/": "(?:.+/)?", "*": "[^/]*", "?": "[^/]"}


class Pattern:
    """A pattern of paths.

    Attributes:
        text: as written.
        names: those in braces, which tell its files apart.
        top: the folder that all of its files lie in, "" for the data set's.

    Raises:
        ValueError: braces that hold no name, or an absolute path.
    """

    def __init__(self, text: str, key: str = "pattern") -> None:
        self.text = text
        path = PurePosixPath(normal(f"{text}/*" if text.endswith("**") else text))
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"{key} = {text!r}: expected a path below dataset.root; a link to a folder "
                "elsewhere is followed"
            )
        # Names beyond ASCII may be normalised in two ways: they are matched, not opened directly.
        fixed = itertools.takewhile(lambda p: not is_pattern(p) and p.isascii(), path.parts[:-1])
        self.top = "/".join(fixed)
        ending = path.suffix if path.suffix and not is_pattern(path.suffix) else ""
        self._any_ending = not ending
        self._has_parent = "{parent}" in text
        self.names: frozenset[str] = frozenset()
        body = str(path).removesuffix(ending or ".*")
        file_name = path.name.removesuffix(ending or ".*")
        self._star_is_stem = "{stem}" not in body and file_name.count("*") == 1
        if self._star_is_stem:
            body = "{stem}".join(body.rsplit("*", 1))
        expression = "".join(map(self._translate, _TOKEN.finditer(body)))
        if "{" in _BRACES.sub("", body):
            raise ValueError(f"{key} = {text!r}: expected a name in braces, such as {{stem}}")
        expression += f"(?i:{re.escape(ending)})" if ending else r"(?P<_ending>\.[^./]+)"
        self._expression = re.compile(expression)
        self._stem_is_whole = "stem" not in self.names
        if not self.names or "*" in file_name or "?" in file_name:
            self.names |= {"stem"}

    def _translate(self, token: re.Match[str]) -> str:
        """Regular expression of a part of the pattern."""
        text, name = token[0], token[1]
        if text == "**/" and not self._has_parent:
            self._has_parent = True
            name = "parent"
        if name is None:
            return _WILD.get(text) or re.escape(text)
        slash = "/" if text.endswith("/") else ""
        if name in self.names:
            return f"(?P={name}){slash}"
        self.names |= {name}
        if name == "parent":
            return "(?:(?P<parent>.+)/)?" if slash else "(?P<parent>.+)"
        length = "*" if name == "stem" and self._star_is_stem else "+"
        return f"(?P<{name}>[^/]{length}){slash}"

    def match(self, path: str, endings: frozenset[str]) -> dict[str, str] | None:
        """The values of the names in ``path``; None if it does not match.

        ``stem`` and ``parent`` are always among them: where the pattern does not have them, the
        name without ending and the folders below :attr:`top`.
        """
        found = self._expression.fullmatch(normal(path))
        if found is None:
            return None
        groups = {name: text or "" for name, text in found.groupdict().items()}
        if self._any_ending and groups.pop("_ending").lower() not in endings:
            return None
        if self._stem_is_whole:
            groups["stem"] = PurePosixPath(normal(path)).stem
        if "parent" not in groups:
            folder = normal(path).rpartition("/")[0]
            groups["parent"] = folder.removeprefix(self.top).removeprefix("/")
        return groups

    def __str__(self) -> str:
        return self.text


def is_pattern(text: str) -> bool:
    """Whether ``text`` is a pattern rather than the name of one file or folder."""
    return any(sign in text for sign in "*?{")


class Found(NamedTuple):
    """The files of a data set; paths are below its folder, with ``/``."""

    images: dict[str, dict[str, str]]  # path -> values of the pattern's names
    masks: dict[tuple[str, ...], str]  # values of the names -> path
    unlabelled: list[str]
    unread: list[str]  # files that no pattern takes


def find_files(root: Path, images: Pattern, masks: Pattern | None, unlabelled: Pattern) -> Found:
    """All files that the patterns take. One that two of them take is a mask, if not an image.

    Raises:
        ValueError: two masks for one image, or patterns that do not separate images and masks.
    """
    found = Found({}, {}, [], [])
    files = walk(root, {p.top for p in (images, masks, unlabelled) if p is not None})
    hidden = distributed.rank() != 0
    for path in tqdm(files, "listing", unit=" files", leave=False, delay=2, disable=hidden):
        groups = None if masks is None else masks.match(path, MASK_ENDINGS)
        if masks is not None and groups is not None:
            _add_mask(found.masks, key_of(groups, masks), path)
            continue
        groups = images.match(path, IMAGE_ENDINGS)
        if groups is not None:
            found.images[path] = groups
        if unlabelled.match(path, IMAGE_ENDINGS) is not None:
            found.unlabelled.append(path)
        elif groups is None:
            found.unread.append(path)
    if not found.images:
        both = (path for path in found.masks.values() if images.match(path, IMAGE_ENDINGS))
        if example := next(both, None):
            raise ValueError(
                f"dataset.masks = {masks} takes the files that dataset.images = {images} takes, "
                f"such as {example}: expected patterns that tell images from masks"
            )
    return found


def key_of(groups: dict[str, str], masks: Pattern) -> tuple[str, ...]:
    """The key of an image's mask: the values of the names in the masks' pattern.

    Raises:
        ValueError: a name that the images' pattern does not have.
    """
    try:
        return tuple(groups[name] for name in sorted(masks.names))
    except KeyError as error:
        raise ValueError(
            f"dataset.masks = {masks}: {{{error.args[0]}}} is not in dataset.images"
        ) from None


def _add_mask(masks: dict[tuple[str, ...], str], key: tuple[str, ...], path: str) -> None:
    """Add a mask; of two files for one image, the one in a lossless format is kept."""
    before = masks.get(key)
    if before is None:
        masks[key] = path
        return
    lossless = [p for p in (before, path) if PurePosixPath(p).suffix.lower() in LOSSLESS_ENDINGS]
    if len(lossless) != 1:
        raise ValueError(f"{before} and {path}: two masks for one image")
    masks[key] = lossless[0]


def suggest_masks(path: str, groups: dict[str, str]) -> str | None:
    """A pattern by which ``path`` would be the mask of the image with the names ``groups``.

    None if its name does not contain the image's.
    """
    folder, _, name = path.rpartition("/")
    if groups["stem"] not in name:
        return None
    name = name.replace(groups["stem"], "{stem}", 1)
    known = {text: f"{{{n}}}" for n, text in groups.items() if n not in ("stem", "parent")}
    parts = [known.get(part, part) for part in folder.split("/")] if folder else []
    inner = groups["parent"].split("/") if groups["parent"] else []
    outer = parts[: len(parts) - len(inner)]
    for text in ("/".join([*outer, "{parent}", name]), "/".join([*parts, name])):
        again = Pattern(text).match(path, PICTURE_ENDINGS)
        if again is not None and all(again[n] == groups.get(n) for n in Pattern(text).names):
            return text
    return None


def raise_unlistable(error: OSError) -> None:
    """Raise for a folder that cannot be listed: its files would be left out unnoticed."""
    raise ValueError(
        f"{error.filename}: cannot be listed: {error.strerror}; make the folder readable, or move "
        "it elsewhere"
    ) from error


def walk(
    root: Path,
    tops: Iterable[str],
    *,
    recursive: bool = True,
    onerror: Callable[[OSError], None] = raise_unlistable,
) -> Iterator[str]:
    """Paths of all files in the folders ``tops`` below ``root``, relative to it.

    Linked folders are read too, unless they lead to a folder that the path to them goes through.
    Hidden files and folders, and those of the file system, are passed over, and so are tops that
    are not there.

    Args:
        root: folder that paths are relative to.
        tops: folders below it, "" for itself.
        recursive: with all folders below them.
        onerror: called for a folder that cannot be listed.

    Raises:
        ValueError: a folder cannot be listed, unless ``onerror`` does otherwise.
    """

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            onerror(error)

    chosen: list[str] = []
    for top in sorted(tops):
        if not any(top == other or top.startswith(f"{other}/") or not other for other in chosen):
            chosen.append(top)
    for top in chosen:
        start = os.path.join(root, top) if top else str(root)
        skip = len(os.path.join(root, ""))
        for parent, folders, names in os.walk(start, onerror=note, followlinks=True):
            folders[:] = [f for f in folders if not is_hidden(f) and not _is_circle(parent, f)]
            below = parent[skip:].replace(os.sep, "/")
            prefix = f"{below}/" if below else ""
            for name in names:
                if not name.startswith("."):
                    yield prefix + name
            if not recursive:
                folders.clear()


def is_hidden(folder: str) -> bool:
    """Whether a folder of this name is passed over."""
    return folder.startswith(".") or folder in _SYSTEM_FOLDERS


def each_once(
    root: Path, paths: Iterable[str], role: Callable[[str], object] = lambda path: None
) -> list[str]:
    """Those of ``paths`` that are left when a file in a linked folder counts once, in their order.

    Of several paths to one file, the one without links stays, so that a folder keeps its own name.

    Args:
        root: folder that the paths lie in.
        paths: relative to it, with ``/``.
        role: what a file is for, by its path. A file with several roles counts once in each, as an
            image in two splits.
    """
    paths = list(paths)
    real = _real_folders(root, paths)
    if len(set(real.values())) == len(real):
        return paths
    files = real_files(root, paths)
    base = os.path.realpath(root)

    def order(path: str) -> tuple[bool, str]:
        own = os.path.normpath(os.path.join(base, path))
        return own != os.path.join(*files[path]), path

    best: dict[tuple[object, object], str] = {}
    for path in sorted(files, key=order):
        best.setdefault((files[path], role(path)), path)
    kept = set(best.values())
    return [path for path in files if path in kept]


def real_files(root: Path, paths: Collection[str]) -> dict[str, tuple[str, str]]:
    """Path below ``root`` -> the file's folder without links, and its name."""
    real = _real_folders(root, paths)
    parts = {path: path.rpartition("/") for path in paths}
    return {path: (real[folder], name) for path, (folder, _, name) in parts.items()}


def _real_folders(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Folder of files, below ``root`` -> the folder without links."""
    folders = {path.rpartition("/")[0] for path in paths}
    return {folder: os.path.realpath(os.path.join(root, folder)) for folder in folders}


def count_pictures(folder: Path, most: int = 10_000) -> int:
    """Number of files below a folder that may be images or masks; at most ``most``.

    Folders that cannot be listed count as empty.
    """
    count = 0
    for path in walk(folder, [""], onerror=lambda error: None):
        count += PurePosixPath(path).suffix.lower() in PICTURE_ENDINGS
        if count == most:
            break
    return count


def describe_endings(paths: Iterable[str]) -> str:
    """``12 .heic, 3 .txt``."""
    counts = Counter(PurePosixPath(path).suffix or "without ending" for path in paths)
    most_first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {ending}" for ending, count in most_first)


def normal(name: str) -> str:
    """``name`` in one Unicode normalisation: macOS and Linux use different ones."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _is_circle(parent: str, name: str) -> bool:
    """Whether a folder is a link to one that the path to it goes through."""
    path = os.path.join(parent, name)
    if not os.path.islink(path):
        return False
    target = os.path.join(os.path.realpath(path), "")
    above = (parent, *map(str, Path(parent).parents))
    return any(os.path.join(os.path.realpath(folder), "").startswith(target) for folder in above)

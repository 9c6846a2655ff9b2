"""Where the files of a ``folder`` data set are, and which split they belong to."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from reco.data.finding.lists import NameIndex, read_ids
from reco.data.finding.patterns import (
    IMAGE_ENDINGS,
    PICTURE_ENDINGS,
    SPLIT_WORDS,
    SPLITS,
    Found,
    Pattern,
    each_once,
    find_files,
    is_pattern,
    key_of,
    real_files,
)
from reco.printing import join_first
from reco.seeding import stable_seed

_IMAGES = "images/{split}/{parent}/{stem}.*"
_MASKS = "labels/{split}/{parent}/{stem}.*"
_UNLABELLED = "unlabelled/{parent}/{stem}.*"
_ANY = "{parent}/{stem}.*"


@dataclass(frozen=True)
class Layout:
    """Where the files are: patterns as in :mod:`reco.data.finding.patterns`, folders, or lists.

    Args:
        images: labelled ones. With ``{split}`` in the pattern, this part of the path is the split:
            training, validation or test. A list has one image a line, perhaps followed by its
            mask.
        masks: of the images; may be missing where a list names them.
        unlabelled: further images for training. Of images that ``images`` takes too, those without
            a mask.
        validation: which of the images are for validation: a share such as 0.2, chosen by name, a
            list, a pattern or a folder.
        test: likewise, without a share.
    """

    images: str | None = None
    masks: str | None = None
    unlabelled: str | None = None
    validation: float | str | None = None
    test: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The layout, to compare with that of a copy; without the folders of lists."""
        values = dataclasses.asdict(self)
        is_text = {k: isinstance(v, str) and not is_pattern(v) for k, v in values.items()}
        return {k: Path(v).name if is_text[k] else v for k, v in values.items()}


@dataclass
class Arrangement:
    """The files of a data set. Paths are below its folder, with ``/``."""

    images: dict[str, dict[str, str]]  # of all labelled images: the values of the pattern's names
    pairs: dict[str, dict[str, str]]  # by split: image -> mask
    without_mask: dict[str, list[str]]  # by split
    masks_alone: list[str]
    unlabelled: list[str]
    unread: list[str]  # files that no pattern takes
    other_splits: list[str] = field(default_factory=list)  # images of no split that is known
    tops: frozenset[str] = frozenset()  # folders that were searched


def arrange(root: Path, layout: Layout) -> Arrangement:
    """Find all files of a data set.

    A folder that links lead to as well counts once in each split, unless a list names the files.

    Raises:
        FileNotFoundError: a folder or list that is not there.
        ValueError: a folder that cannot be listed, invalid patterns, files that contradict each
            other, or lists that name missing files.
    """
    search = _Search(root, layout)
    found = search.found
    result = Arrangement(
        images=found.images,
        pairs={split: {} for split in SPLITS},
        without_mask={split: [] for split in SPLITS},
        masks_alone=[],
        unlabelled=[],
        unread=found.unread,
        tops=search.tops,
    )
    unlabelled = dict.fromkeys(search.unlabelled)
    for path, mask in search.labelled():
        word = found.images[path].get("split")
        split = SPLIT_WORDS.get(word.lower()) if word else "train"
        if split is None:
            result.other_splits.append(path)
        elif mask is not None:
            result.pairs[split][path] = mask
            unlabelled.pop(path, None)
        elif path not in unlabelled:
            result.without_mask[split].append(path)
    to_choose_from = dict(result.pairs["train"])
    for split, key, what in (
        ("test", "test", layout.test),
        ("val", "validation", layout.validation),
    ):
        if what is None:
            continue
        if result.pairs[split]:
            example = next(iter(result.pairs[split]))
            raise ValueError(
                f"dataset.{key} = {what}, but images such as {example} are for that already: "
                "expected one of the two"
            )
        # A share is of what the test images leave.
        pool = to_choose_from if isinstance(what, str) else result.pairs["train"]
        if to_choose_from and not pool:
            raise ValueError(
                f"dataset.test = {layout.test}: takes all {len(to_choose_from)} images with masks, "
                "expected to leave some for training and validation"
            )
        chosen = search.choose(key, what, pool)
        for other in ("val", "test"):
            if both := sorted(chosen.keys() & result.pairs[other].keys()):
                raise ValueError(
                    f"dataset.{key} = {what}: takes {join_first(both)}, which "
                    f"{'is' if len(both) == 1 else 'are'} for {other} already: expected each image "
                    "in one of the two"
                )
        result.pairs[split] = chosen
        for path in chosen:
            result.pairs["train"].pop(path, None)
            unlabelled.pop(path, None)
    used = {mask for pairs in result.pairs.values() for mask in pairs.values()}
    if search.from_list:
        named = used.union(unlabelled, *result.pairs.values(), *result.without_mask.values())
        result.unread = sorted({*found.unread, *found.images} - named)
    else:
        result.masks_alone = _files_beside(root, found.masks.values(), used)
    result.unlabelled = sorted(unlabelled)
    return result


def _files_beside(root: Path, paths: Iterable[str], used: set[str]) -> list[str]:
    """Those of ``paths`` that are none of the files in ``used``, nor one through a link."""
    others = sorted(set(paths) - used)
    if not others:
        return []
    used_files = set(real_files(root, used).values())
    return [path for path, file in real_files(root, others).items() if file not in used_files]


class _Search:
    """The files that a layout takes."""

    def __init__(self, root: Path, layout: Layout) -> None:
        self.root = root
        self._list = self._list_file(layout.images)
        self._unlabelled_list = self._list_file(layout.unlabelled)
        usual = layout.images is None
        images = self._pattern("images", layout.images or _IMAGES, self._list)
        masks = layout.masks or (_MASKS if usual else None)
        if masks is None and self._list is None:
            raise ValueError(
                f"dataset.masks = null: expected where the masks of dataset.images = "
                f'{layout.images} are, such as "masks/{{stem}}.png"'
            )
        self._masks = None if masks is None else self._pattern("masks", masks)
        unlabelled = self._pattern(
            "unlabelled", layout.unlabelled or _UNLABELLED, self._unlabelled_list
        )
        self.from_list = self._list is not None
        self.tops = frozenset(p.top for p in (images, self._masks, unlabelled) if p is not None)
        self.found = self._once(find_files(root, images, self._masks, unlabelled))
        self._everything: NameIndex | None = None

    def _once(self, found: Found) -> Found:
        """Without the images that linked folders repeat; of those for a list, all paths."""
        if self._list is None:
            images = each_once(self.root, found.images, lambda p: found.images[p].get("split"))
            found = found._replace(images={path: found.images[path] for path in images})
        if self._unlabelled_list is None:
            found = found._replace(unlabelled=each_once(self.root, found.unlabelled))
        return found

    @property
    def unlabelled(self) -> list[str]:
        """Images that the layout calls unlabelled; some may still have a mask."""
        if self._unlabelled_list is None:
            return self.found.unlabelled
        index = NameIndex({path: path for path in self.found.unlabelled})
        return list(read_ids(self._unlabelled_list, index, "dataset.unlabelled"))

    def labelled(self) -> list[tuple[str, str | None]]:
        """Images and their masks."""
        if self._list is None:
            pairs = {path: self._mask(path) for path in sorted(self.found.images)}
            image_of: dict[str, str] = {}
            for path, mask in pairs.items():
                if mask is not None and image_of.setdefault(mask, path) != path:
                    raise ValueError(
                        f"{image_of[mask]} and {path}: two images for one mask, {mask}. Remove "
                        "one, or tell them apart by a name in dataset.masks, such as {parent}"
                    )
            return list(pairs.items())
        listed = read_ids(self._list, self._index(), "dataset.images")
        return [(path, self._mask(path, behind)) for path, behind in listed.items()]

    def choose(self, key: str, what: float | str, train: dict[str, str]) -> dict[str, str]:
        """Images for validation or test, with their masks."""
        if not train and not self.from_list:
            return {}  # missing masks are reported first
        if isinstance(what, int | float):
            count = max(1, round(what * len(train)))
            if count >= len(train):
                raise ValueError(
                    f"dataset.{key} = {what}: is {count} of {len(train)} images with masks, "
                    "expected to leave some for training"
                )
            order = sorted(train, key=lambda path: stable_seed(key, path))
            return {path: train[path] for path in sorted(order[:count])}
        path = self._list_file(what)
        if path is None:
            pattern = self._pattern(key, what)
            chosen = {p: m for p, m in train.items() if pattern.match(p, IMAGE_ENDINGS) is not None}
            if not chosen:
                raise ValueError(
                    f"dataset.{key} = {what}: takes none of the {len(train)} images with masks"
                )
            return chosen
        chosen = {}
        for image, behind in read_ids(path, self._index(), f"dataset.{key}").items():
            mask = self._mask(image, behind) or train.get(image)
            if mask is None:
                raise ValueError(f"dataset.{key}: {path} names {image}, which has no mask")
            chosen[image] = mask
        return chosen

    def _mask(self, path: str, behind: str | None = None) -> str | None:
        """Mask of an image: from its line in a list, or by the pattern."""
        if behind is not None:
            if self._everything is None:
                files = [*self.found.images, *self.found.masks.values(), *self.found.unread]
                self._everything = NameIndex({file: file for file in files})
            mask = self._everything.find(behind)
            if mask is None:
                raise FileNotFoundError(f"{self.root}: no mask {behind}, which a list names")
            return mask
        if self._masks is None:
            return None
        return self.found.masks.get(key_of(self.found.images[path], self._masks))

    def _index(self) -> NameIndex:
        return NameIndex({path: path for path in self.found.images})

    def _pattern(self, key: str, text: str, listed: Path | None = None) -> Pattern:
        """The pattern in a key; a folder means all that is in it, and a picture itself."""
        if listed is not None:
            return Pattern(_ANY)
        if not is_pattern(text):
            path = self.root / text
            if path.is_dir():
                text = f"{text.rstrip('/')}/{_ANY}"
            elif path.is_file() and _is_picture(text):
                text = Path(os.path.relpath(path, self.root)).as_posix()
            else:
                raise FileNotFoundError(
                    f"dataset.{key} = {text!r}: no such file, nor folder in {self.root}; expected "
                    'a pattern such as "photos/{stem}.jpg", a folder or a list'
                )
        return Pattern(text, f"dataset.{key}")

    def _list_file(self, text: str | None) -> Path | None:
        """The list that a key names, if it names one."""
        if text is None or is_pattern(text) or _is_picture(text):
            return None
        return next((p for p in (Path(text), self.root / text) if p.is_file()), None)


def _is_picture(text: str) -> bool:
    return PurePosixPath(text).suffix.lower() in PICTURE_ENDINGS

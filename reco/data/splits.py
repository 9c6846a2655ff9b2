"""Which training images are labelled: all, a few chosen by class, or a list of ids."""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reco.config import ConfigError
from reco.data.datasets.folder import FolderReader
from reco.data.datasets.reader import FileReader, Reader, present_classes
from reco.data.finding.lists import NameIndex, read_ids
from reco.data.reading.masks import BrokenMaskError, colour_name
from reco.printing import join_first
from reco.seeding import stable_seed
from reco.threads import in_threads

if TYPE_CHECKING:
    from reco.config import Config, DatasetConfig

_T = TypeVar("_T", int, str)

# "5-shot" means that every class is in at least so many labelled images.
FEW_SHOT_IMAGES = 5

_TITLE = "reading masks"


@dataclass(frozen=True)
class Split:
    """Labelled and unlabelled training ids, with class counts and notes."""

    labelled: tuple[str, ...]  # sorted
    unlabelled: tuple[str, ...]  # sorted; the labelled ones again where all images serve as both
    images_per_class: dict[str, int]  # labelled images that hold the class
    seed: int
    notes: tuple[str, ...] = ()  # for the interpretation of results

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits of the two lists of ids."""
        content = json.dumps([self.labelled, self.unlabelled])
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def min_images_per_class(self) -> int:
        """Labelled images that hold the rarest class."""
        return min(self.images_per_class.values())

    def summary_dict(self) -> dict[str, Any]:
        """The content of checkpoints: all but the ids, which may be millions and have a hash."""
        return {
            "seed": self.seed,
            "hash": self.hash,
            "min_images_per_class": self.min_images_per_class,
            "images_per_class": dict(self.images_per_class),
            "notes": list(self.notes),
        }

    def to_dict(self) -> dict[str, Any]:
        """The content of ``split.json``."""
        ids = {"labelled": list(self.labelled), "unlabelled": list(self.unlabelled)}
        return {**self.summary_dict(), **ids}

    def to_json(self) -> str:
        """Text of ``split.json``."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def summary(self) -> str:
        """Numbers of images, in total and by class, and notes, as text."""
        return "\n".join(
            [
                f"{len(self.labelled)} labelled, {len(self.unlabelled)} unlabelled images",
                *(f"{images:>6} with {name}" for name, images in self.images_per_class.items()),
                *(f"note: {note}" for note in self.notes),
                f"hash {self.hash}",
            ]
        )

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Split:
        """The split that :meth:`to_dict` wrote.

        Raises:
            ValueError: ids and hash do not belong together.
        """
        split = cls(
            labelled=tuple(content["labelled"]),
            unlabelled=tuple(content["unlabelled"]),
            images_per_class=dict(content["images_per_class"]),
            seed=content["seed"],
            notes=tuple(content["notes"]),
        )
        if split.hash != content["hash"]:
            raise ValueError(
                f"split: its ids have the hash {split.hash}, but it says {content['hash']}; was it "
                "edited by hand? dataset.labelled_ids takes a list of ids"
            )
        return split


def make_split(reader: Reader, config: DatasetConfig) -> Split:
    """Choose the labelled images of ``config``. The masks of the labelled images are all read.

    Raises:
        ValueError: an impossible number of labelled images, unknown ids, a mask that cannot be
            used, or a class of a ``folder`` data set that no labelled mask holds.
        FileNotFoundError: no training images, or no such list of ids.
    """
    train = sorted(reader.ids("train"))
    extra = _extra_ids(reader, config)
    masks = _MaskIndex(reader)
    count = config.labelled_images
    everything = config.partial_labels is not None or (count == "all" and not config.labelled_ids)

    if everything:
        labelled = train
    elif config.labelled_ids:
        labelled = _listed(reader, config.labelled_ids, train, "dataset.labelled_ids")
    else:
        labelled = few_shot(
            train,
            masks.classes_if_whole,
            reader.spec.num_classes,
            _checked_count(count, len(train)),
            min_classes=config.min_classes_per_image,
            seed=config.split_seed,
        )
    unlabelled = set(train if everything else set(train).difference(labelled)).union(extra)
    if config.unlabelled_ids:
        choice = sorted({*train, *reader.unlabelled_ids()})
        listed = _listed(reader, config.unlabelled_ids, choice, "dataset.unlabelled_ids")
        unlabelled = set(listed)

    counts = [0] * reader.spec.num_classes
    for classes in masks.of_all(labelled):
        for c in classes:
            counts[c] += 1
    images_per_class = dict(zip(reader.spec.class_names, counts, strict=True))
    if not any(counts):
        raise ValueError(
            f"every pixel of the {len(labelled)} labelled masks is void, expected classes to learn"
        )
    require_all_classes(reader, images_per_class, labelled)
    return Split(
        labelled=tuple(sorted(labelled)),
        unlabelled=tuple(sorted(unlabelled)),
        images_per_class=images_per_class,
        seed=config.split_seed,
        notes=_notes(images_per_class, len(labelled)),
    )


def check_labelled(reader: Reader, config: Config) -> None:
    """Check that there are as many images as ``config`` needs, before any mask is read.

    Args:
        reader: of the data set.
        config: of the run.

    Raises:
        ConfigError, ValueError: an impossible number of labelled images, unknown ids, or no
            unlabelled images left.
        FileNotFoundError: no training images, or no such list of ids.
    """
    dataset = config.dataset
    train = sorted(reader.ids("train"))
    if dataset.labelled_ids:
        labelled = len(_listed(reader, dataset.labelled_ids, train, "dataset.labelled_ids"))
    elif dataset.labelled_images != "all":
        labelled = _checked_count(dataset.labelled_images, len(train))
    else:
        return
    none_left = labelled == len(train) and not (dataset.partial_labels or dataset.unlabelled_ids)
    if config.method.unsupervised and none_left and not _extra_ids(reader, dataset):
        raise ConfigError(
            f"dataset.labelled_images = {dataset.labelled_images}: every image is in the labelled "
            "split, so none is left as unlabelled; use all (they then serve as both), add "
            "unlabelled images, or set method.unsupervised=false"
        )


def check_evaluated(reader: Reader, split: str) -> None:
    """Read all masks of a split, which are to be measured on, before the work starts.

    Raises:
        ValueError: a mask that cannot be used, by name, or nothing but void in all of them.
    """
    ids = reader.ids(split)

    def classes(id: str) -> frozenset[int]:
        # Of the files themselves, not of the originals of a resized copy.
        if isinstance(reader, FileReader):
            return reader.content(id).classes
        return present_classes(reader.label(id))

    if not any(list(in_threads(classes, ids, title=_TITLE))):
        raise ValueError(
            f"split {split!r}: every pixel of its {len(ids)} masks is void, expected classes to "
            "measure on"
        )


def _extra_ids(reader: Reader, config: DatasetConfig) -> list[str]:
    """Training images without labels, unless ``config`` does without them."""
    return sorted(reader.unlabelled_ids()) if config.extra_images else []


def few_shot(
    ids: Sequence[str],
    classes_of: Callable[[str], Set[int]],
    num_classes: int,
    count: int,
    *,
    min_classes: int,
    seed: int,
) -> list[str]:
    """Greedy choice of ``count`` ids: the class seen least so far decides on the next image.

    Each image is a random one of those that hold this class and at least ``min_classes`` classes;
    failing that, a random one that holds the class; failing that, the class is left out
    afterwards. Depends on the ids and the seed alone, not on their order.

    Args:
        ids: to choose from, at least ``count``.
        classes_of: the classes in an image's mask; called for as few images as possible.
        num_classes: C.
        count: how many.
        min_classes: m, how many classes an image should hold.
        seed: of the choice.
    """
    # `random` is the one method that Python promises to be the same in all versions.
    rng = random.Random(stable_seed("split", seed))
    remaining = set(ids)
    seen = [0] * num_classes
    obtainable = list(range(num_classes))
    chosen: list[str] = []

    def next_image() -> str:
        order = _shuffled(remaining, rng)
        while obtainable:
            fewest = min(seen[c] for c in obtainable)
            rarest = _shuffled([c for c in obtainable if seen[c] == fewest], rng)[0]
            for at_least in (min_classes, 1):
                for id in order:
                    classes = classes_of(id)
                    if rarest in classes and len(classes) >= at_least:
                        return id
            obtainable.remove(rarest)
        return order[0]

    while len(chosen) < count:
        id = next_image()
        chosen.append(id)
        remaining.remove(id)
        for c in classes_of(id):
            seen[c] += 1
    return sorted(chosen)


class _MaskIndex:
    """Which classes each mask holds. A mask is read once, on first use."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: dict[str, frozenset[int]] = {}
        self._broken: set[str] = set()

    def classes_if_whole(self, id: str) -> frozenset[int]:
        """No classes for a broken mask, which then is chosen only where nothing else is left."""
        try:
            if id not in self._known:
                self._known[id] = self._read(id)
            return self._known[id]
        except BrokenMaskError as error:
            if id not in self._broken:
                self._broken.add(id)
                warnings.warn(f"not chosen as a labelled image: {error}", stacklevel=2)
            return frozenset()

    def of_all(self, ids: Sequence[str]) -> list[frozenset[int]]:
        unread = [id for id in ids if id not in self._known]
        self._known.update(zip(unread, in_threads(self._read, unread, title=_TITLE), strict=True))
        return [self._known[id] for id in ids]

    def _read(self, id: str) -> frozenset[int]:
        if isinstance(self._reader, FileReader):
            return self._reader.classes(id)
        return present_classes(self._reader.label(id))


def _shuffled(items: Collection[_T], rng: random.Random) -> list[_T]:
    return sorted(sorted(items), key=lambda _: rng.random())


def _checked_count(count: Any, available: int) -> int:
    if not isinstance(count, int) or not 1 <= count <= available:
        raise ValueError(
            f"dataset.labelled_images = {count}: expected all, or 1 to {available}, the number of "
            "training images that have labels"
        )
    return count


def _listed(reader: Reader, path: str, ids: Sequence[str], key: str) -> list[str]:
    """Ids of the user's list, in any format of :mod:`reco.data.finding.lists`."""
    paths = {id: reader.path(id) if isinstance(reader, FileReader) else id for id in ids}
    return sorted(read_ids(Path(path), NameIndex(paths), key))


def require_all_classes(
    reader: Reader, images_per_class: dict[str, int], labelled: Sequence[str]
) -> None:
    """Raise a ``ValueError`` where no labelled mask has a class that the user named.

    Official data sets have fixed classes; there a missing one is a note.
    """
    missing = [name for name, images in images_per_class.items() if not images]
    if not missing or not isinstance(reader, FolderReader):
        return
    table = ", ".join(f"{name} in {images}" for name, images in images_per_class.items())
    raise ValueError(
        f"dataset.class_names: no labelled mask holds {', '.join(missing)}. Of {len(labelled)} "
        f"labelled images: {table}. {_remedy(reader, labelled)}"
    )


def _remedy(reader: FolderReader, labelled: Sequence[str]) -> str:
    """The values in the masks, and the key that may be missing."""
    contents = [reader.content(id) for id in labelled]
    by_colour = reader.table.by_colour or any(c.kind == "colour" for c in contents)
    values = sorted({value for content in contents for value in content.values})
    if not by_colour:
        # 255 beside several values is void; 0 and 255 alone are two classes.
        classes = [value for value in values if value not in reader.table.implied]
        values = classes if len(classes) > 1 else values
    found = [colour_name(v) for v in values] if by_colour else [str(v) for v in values]
    names = reader.spec.class_names
    line = "dataset.classes (such as {background: 0, crack: 255})"
    if len(found) == len(names):
        quote = '"' if by_colour else ""
        pairs = (f"{name}: {quote}{v}{quote}" for name, v in zip(names, found, strict=True))
        line = f"dataset.classes: {{{', '.join(pairs)}}}, or another order,"
    return f"The mask files hold {join_first(found)}; {line} says what each means"


def _notes(images_per_class: dict[str, int], labelled: int) -> tuple[str, ...]:
    rare = {name: n for name, n in images_per_class.items() if n < FEW_SHOT_IMAGES}
    return tuple(
        f"{name} is in {n} of the {labelled} labelled images, fewer than {FEW_SHOT_IMAGES}"
        for name, n in sorted(rare.items(), key=lambda item: item[1])
    )

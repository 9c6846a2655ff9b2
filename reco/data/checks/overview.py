"""The first lines of a run: number and folders of the images of each split, files left out."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from reco.data.checks.across_files import check_masks, same_pictures
from reco.data.checks.pages import masks_with_pages
from reco.data.datasets.folder import FolderReader
from reco.data.datasets.reader import FileReader, Reader
from reco.data.splits import Split
from reco.printing import counted, join_first

if TYPE_CHECKING:
    from reco.config import DatasetConfig


def overview(reader: Reader, split: Split, config: DatasetConfig) -> list[str]:
    """Lines about the data; checks that the masks that were read agree.

    Raises:
        ValueError: labelled masks, or those to evaluate on, that disagree or hold several pages.
        FileNotFoundError: no images to evaluate on.
    """
    evaluated = reader.ids(config.eval_split)
    groups = {
        "labelled": split.labelled,
        "unlabelled": split.unlabelled,
        {"val": "validation"}.get(config.eval_split, config.eval_split): evaluated,
    }
    if not isinstance(reader, FileReader):
        counts = ", ".join(f"{len(ids):,} {name}" for name, ids in groups.items())
        return [f"data: {counts} images of {reader.spec.name}"]
    checked = {*split.labelled, *evaluated} & reader.contents.keys()
    check_masks((reader.contents[id] for id in checked), reader.table)
    if lines := masks_with_pages(reader.files(id).mask for id in (*split.labelled, *evaluated)):
        raise ValueError(lines[0])
    counts_and_folders = (
        f"{len(ids):,} {name}{_places(reader, ids)}" if ids else f"no {name}"
        for name, ids in groups.items()
    )
    lines = [f"data: images in {reader.root.resolve()}: {', '.join(counts_and_folders)}"]
    lines += [f"note: {line}" for line in repeated(reader, split.labelled, evaluated)]
    if isinstance(reader, FolderReader):
        lines += [f"note: {line}" for line in reader.unread()]
    return lines


def repeated(
    reader: FileReader, train: Sequence[str], evaluated: Sequence[str], role: str = "for training"
) -> list[str]:
    """A line where the same pictures are used to train and to evaluate."""
    images = [[reader.root / reader.path(id) for id in ids] for ids in (train, evaluated)]
    pairs = same_pictures(*images)
    if not pairs:
        return []
    shown = [f"{a.relative_to(reader.root)} = {b.relative_to(reader.root)}" for a, b in pairs]
    pictures, are = counted(len(pairs), "picture"), "is" if len(pairs) == 1 else "are"
    return [f"{pictures} to evaluate on {are} also {role}: {join_first(shown)}"]


def _places(reader: FileReader, ids: Iterable[str]) -> str:
    """The top folders that images lie in."""
    by_first: dict[str, set[str]] = defaultdict(set)
    for id in ids:
        folder = reader.path(id).rpartition("/")[0]
        by_first[folder.partition("/")[0]].add(folder)
    folders = [os.path.commonpath(found) or "." for found in by_first.values()]
    return f" ({join_first(sorted(folders), 3)})"

"""Writing files: whole or not at all, beside their place and then renamed; and tables as CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

UNFINISHED = ".unfinished"
"""How the name of a file ends while it is written; a killed process may leave such a file."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, then give it its name: all of it or nothing.

    Whoever reads ``path`` meanwhile meets the old file. The name in between is hidden and holds the
    process's number, so that no reader takes it for an image and two processes do not meet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        write(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """:func:`write_whole` of a text, in UTF-8."""
    write_whole(path, lambda to: to.write_text(text, encoding="utf-8"))


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file of a line with the names of the columns and one for each row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)

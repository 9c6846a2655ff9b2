"""Writing files: whole or not at all, beside their place and then renamed; and tables as CSV.

Whatever keeps a file from being written (a full disk, a folder that is read-only) is a
:class:`WriteError`, whose one line names the file and the cause.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from reco.printing import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

UNFINISHED = ".unfinished-"
"""Prefix of a file's name while it is written; a killed process may leave such a file."""

# Characters of a file's name in its unfinished name: a whole name may be too long for a prefix.
_TAIL = 40


class WriteError(OSError):
    """A file that could not be written: with name and cause in the message. ``errno`` is set."""


@contextlib.contextmanager
def writing(path: Path, remedy: str = "") -> Iterator[None]:
    """Whatever the system refuses while ``path`` is written becomes a :class:`WriteError`.

    Args:
        path: file or folder.
        remedy: what to do then, for the message.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        hint = f"; {remedy}" if remedy else ""
        failed = WriteError(f"{path}: cannot be written: {error.strerror or error}{hint}")
        failed.errno = error.errno
        raise failed from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, then give it its name: all of it or nothing.

    Whoever reads ``path`` meanwhile meets the old file. The name in between is hidden, so that no
    reader takes it for an image, it ends as ``path`` does, so that formats follow from it, and it
    holds the numbers of process and thread, so that two writers do not meet.

    Raises:
        WriteError: the disk is full, say. The file that was at ``path`` is untouched then.
    """
    number = f"{os.getpid()}-{threading.get_ident()}"
    unfinished = path.with_name(f"{UNFINISHED}{number}-{path.name[-_TAIL:]}")
    with writing(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            write(path)  # a device, such as /dev/stdout, is not to be replaced
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(unfinished)
            unfinished.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise


def write_text_whole(path: Path, text: str) -> None:
    """:func:`write_whole` of a text, in UTF-8; what a file name may hold beside it is escaped."""
    content = printable(text).encode("utf-8")
    write_whole(path, lambda to: to.write_bytes(content))


def write_binary_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """:func:`write_whole` for writers such as ``torch.save``, which take an open file.

    On a file that cannot be written, torch raises a ``RuntimeError`` without the cause, or ends the
    process. So it writes to a file that does not raise, and the cause is raised afterwards. The
    content has been synchronised to the disk when this returns.
    """

    def write_and_sync(to: Path) -> None:
        raw = _NeverRaising(to, "wb")
        with io.BufferedWriter(raw) as file:
            write(file)
            file.flush()
            if raw.refused is not None:
                raise raw.refused
            os.fsync(file.fileno())

    write_whole(path, write_and_sync)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file of a line with the names of the columns and one for each row."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text_whole(path, text.getvalue())


class _NeverRaising(io.FileIO):
    """A file that notes the first error of a write, and drops what is written after it."""

    refused: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        if self.refused is None:
            try:
                return super().write(data)
            except OSError as error:
                self.refused = error
        return memoryview(data).nbytes

"""Lines for people: above the progress bars, and lists that stay short."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

from tqdm import tqdm


def say(text: str, *, error: bool = False) -> None:
    """Print ``text`` above the progress bars, on stderr if it tells of an error.

    Without that stream, as in a program without a terminal, nothing is printed; older versions of
    tqdm fail there.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is not None:
        tqdm.write(printable(text), file=stream)
        stream.flush()


def printable(text: str) -> str:
    """``text`` with what a file name may hold beside UTF-8 escaped."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def shell_line(words: Sequence[str]) -> str:
    """A command as it is typed in this system's shell, with quotes where they are needed."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def counted(count: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def join_first(items: Sequence[object], most: int = 8) -> str:
    """``a, b, c and 5 more``."""
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def ranges(values: Sequence[int]) -> str:
    """``0-10, 255`` for sorted values."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)

"""Lines for people, above the progress bars."""

from __future__ import annotations

import sys

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

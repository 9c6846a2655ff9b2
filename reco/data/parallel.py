"""One thing to do with many files, side by side in threads, whatever becomes of a few of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from reco.data.class_table import join_first
from reco.files import WriteError, printable

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def do_all(do: Callable[[_Item], _Result], items: Sequence[_Item], *, title: str) -> list[_Result]:
    """``do`` each of ``items``, and only then say which could not be done.

    Decoding, resizing and encoding of images, which the time goes into, run outside of Python's
    lock.

    Args:
        do: for one item; what it raises names the file.
        items: in the order of the results.
        title: of the progress bar.

    Raises:
        ValueError: files that cannot be read, after all others have been done.
        WriteError: at once, since the next file cannot be written either.
    """
    failures: list[str] = []

    def attempt(item: _Item) -> list[_Result]:
        try:
            return [do(item)]
        except WriteError:
            raise
        except (ValueError, OSError, MemoryError) as error:
            failures.append(str(error))
            tqdm.write(printable(f"error: {error}"), file=sys.stderr)
            return []

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(tqdm(pool.map(attempt, items), title, len(items)))
    if failures:
        raise ValueError(
            f"{len(failures)} of {len(items)} failed, the others are done: "
            f"{join_first(sorted(failures))}"
        )
    return [result for results in done for result in results]

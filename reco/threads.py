"""A function over many files in threads, with a progress bar when it takes long."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

from tqdm import tqdm

from reco import distributed
from reco.printing import join_first, say
from reco.writing import WriteError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Items that a thread takes at a time at most, to have fewer tasks.
_MOST_AT_ONCE = 64


def in_threads(
    do: Callable[[_Item], _Result], items: Sequence[_Item], *, title: str
) -> Iterator[_Result]:
    """What ``do`` returns for each of ``items``, in their order.

    Decoding, resizing and encoding of images run outside of Python's lock. The first error in the
    order of the items is raised. Those not begun are dropped then, and when the caller stops.

    Args:
        do: for one item, from any thread.
        items: any number.
        title: of the progress bar, which the first process shows after two seconds.
    """
    threads = os.cpu_count() or 1
    size = min(_MOST_AT_ONCE, max(1, len(items) // (8 * threads)))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    hidden = distributed.rank() != 0
    over = threading.Event()

    def do_part(part: Sequence[_Item]) -> list[_Result]:
        return [do(item) for item in part if not over.is_set()]

    pool = ThreadPoolExecutor(threads)
    try:
        results = chain.from_iterable(pool.map(do_part, parts))
        yield from tqdm(results, title, len(items), leave=False, delay=2, disable=hidden)
    finally:
        over.set()
        pool.shutdown(cancel_futures=True)


def do_all(do: Callable[[_Item], _Result], items: Sequence[_Item], *, title: str) -> list[_Result]:
    """``do`` each of ``items``; errors of single items are raised together at the end.

    Args:
        do: for one item; its errors name the file.
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
            say(f"error: {error}", error=True)
            return []

    done = list(in_threads(attempt, items, title=title))
    if failures:
        raise ValueError(
            f"{len(failures)} of {len(items)} failed, the others are done: "
            f"{join_first(sorted(failures))}"
        )
    return [result for results in done for result in results]

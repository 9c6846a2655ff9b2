"""Work in background threads, a few items at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Background(Generic[_Item]):
    """Works on items in threads and reports the end of each, in their order.

    A context manager: left without an error, it waits for all items; left by an error, it drops
    those that have not begun.

    Args:
        ended: called in the caller's thread, in the order of the items, with an item and a function
            that raises the error of its work, if any.
        most: items at a time; the caller waits before another one begins.
    """

    def __init__(
        self, ended: Callable[[_Item, Callable[[], object]], None], *, most: int = 4
    ) -> None:
        self._ended = ended
        self._most = most
        self._pool = ThreadPoolExecutor(most)
        self._under_way: deque[tuple[_Item, Future[None]]] = deque()

    def submit(self, item: _Item, work: Callable[[], None]) -> None:
        """Start ``work``. Raises what ``ended`` raises for an earlier item."""
        self._wait(self._most - 1)
        self._under_way.append((item, self._pool.submit(work)))

    def __enter__(self) -> Background[_Item]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._wait(0)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _wait(self, left: int) -> None:
        while len(self._under_way) > left:
            item, future = self._under_way.popleft()
            self._ended(item, future.result)

"""Work that goes on in threads behind the caller's, a few pieces at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Background(Generic[_Item]):
    """Does pieces of work in threads and tells in their order what became of each.

    A context manager: left without an error, it waits for all pieces; left by an error, it drops
    those that have not begun.

    Args:
        ended: told of each item and a function that raises what its work raised, if anything; in
            the caller's thread and in the order of the items.
        most: pieces under way at a time; the caller waits before another one begins.
    """

    def __init__(
        self, ended: Callable[[_Item, Callable[[], object]], None], *, most: int = 4
    ) -> None:
        self._ended = ended
        self._most = most
        self._pool = ThreadPoolExecutor(most)
        self._under_way: deque[tuple[_Item, Future[None]]] = deque()

    def do(self, item: _Item, work: Callable[[], None]) -> None:
        """Let ``work`` begin. Raises what ``ended`` raises of an earlier item."""
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

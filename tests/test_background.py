"""Work in the background: the order, the bound, and errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from reco.inference.background import Background


def test_ends_are_reported_in_order_with_their_errors():
    told: list[tuple[int, str]] = []

    def ended(item: int, result: Callable[[], object]) -> None:
        try:
            result()
            told.append((item, "done"))
        except ValueError as error:
            told.append((item, str(error)))

    def work(item: int) -> None:
        time.sleep(0.02 if item % 2 else 0)
        if item == 3:
            raise ValueError("broken")

    with Background(ended, most=3) as background:
        for item in range(8):
            background.submit(item, lambda item=item: work(item))
    assert told == [(item, "broken" if item == 3 else "done") for item in range(8)]


def test_no_more_than_so_many_are_under_way():
    go, begun = threading.Event(), []
    caller = threading.get_ident()

    def work() -> None:
        begun.append(threading.get_ident())
        go.wait(10)

    with Background(lambda _, result: result(), most=2) as background:
        background.submit(0, work)
        background.submit(1, work)
        threading.Timer(0.05, go.set).start()
        background.submit(2, work)  # waits for the first
        assert go.is_set()
    assert len(begun) == 3
    assert caller not in begun


def test_an_error_stops_what_has_not_begun():
    go, begun = threading.Event(), []

    def work() -> None:
        begun.append(1)
        go.wait(10)
        raise OSError("full")

    def fill() -> None:
        with Background(lambda _, result: result(), most=1) as background:
            for item in range(5):
                background.submit(item, work)

    threading.Timer(0.05, go.set).start()
    with pytest.raises(OSError, match="full"):
        fill()
    assert begun == [1]

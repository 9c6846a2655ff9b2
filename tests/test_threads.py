"""Many files side by side: the order, the first error, and the bar when it takes long."""

from __future__ import annotations

import itertools
import time

import pytest
from make_data import make_folder

from reco.data.finding import patterns
from reco.threads import in_threads


@pytest.fixture
def seconds_pass(monkeypatch):
    """Each call of tqdm's clock is a second later."""
    clock = itertools.count()
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))


@pytest.mark.parametrize("number", [0, 1, 7, 1000])
def test_results_come_in_the_order_of_the_items(number):
    items = list(range(number))
    assert list(in_threads(lambda item: item**2, items, title="")) == [n**2 for n in items]


def test_first_error_in_order_is_raised():
    def do(item: int) -> int:
        if item in (500, 700):
            raise ValueError(str(item))
        return item

    results = in_threads(do, range(1000), title="")
    with pytest.raises(ValueError, match="500"):
        list(results)


def test_the_rest_is_dropped_when_the_caller_stops():
    done = []

    def do(item: int) -> None:
        time.sleep(1e-3)
        done.append(item)

    results = in_threads(do, range(1000), title="")
    next(results)
    results.close()
    assert len(done) < 500


def test_what_takes_long_shows_a_bar(seconds_pass, capsys):
    list(in_threads(str, range(100), title="turning to text"))
    assert "turning to text" in capsys.readouterr().err


def test_listing_shows_a_bar_when_it_takes_long(seconds_pass, capsys, tmp_path):
    make_folder(tmp_path)
    images, masks = patterns.Pattern("images/{split}/{stem}.*"), patterns.Pattern("labels/**")
    patterns.find_files(tmp_path, images, masks, patterns.Pattern("unlabelled/{stem}.*"))
    assert "listing" in capsys.readouterr().err


def test_what_is_quick_shows_none(capsys, tmp_path):
    list(in_threads(str, range(100), title="turning to text"))
    assert capsys.readouterr().err == ""

"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reco.writing import write_text_whole, write_whole


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text_whole(path, "old")

    def write(to: Path) -> None:
        to.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, write)
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_folders_are_made_and_text_is_utf8(tmp_path):
    write_text_whole(tmp_path / "new" / "a.txt", "δ_w")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "δ_w".encode()

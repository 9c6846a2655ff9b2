"""Paths and text as users write them, in options and in list files."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from reco import printing
from reco.cli import command_parser
from reco.paths import checkpoint_file, read_lines, user_path
from reco.printing import shell_line


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "~/data")
    return tmp_path


def parse(*words: str) -> Namespace:
    return command_parser().parse_args(words)


def test_paths_are_filled_in(home):
    assert user_path("~") == home
    assert user_path("$HOME/${DATA}") == home / "~/data"  # a home is at the beginning alone
    assert user_path("$DATA/x") == home / "data/x"
    assert user_path("a/~/b") == Path("a/~/b")


def test_what_cannot_be_filled_in_is_named(home, monkeypatch):
    monkeypatch.chdir(home)
    for text, words in [
        ("$NOT_SET_HERE/x", "variable NOT_SET_HERE is not"),
        ("${NOT_SET_HERE}", "variable NOT_SET_HERE is not"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name is no user's home"),
        ("", "a path that is not empty"),
    ]:
        with pytest.raises(ValueError, match=words):
            user_path(text)
    # Names that are there are names.
    for name in ("price_$NOT_SET_HERE.png", "~nobody-of-this-name"):
        Path(name).touch()
        assert user_path(name) == Path(name)


def test_options_of_all_commands_are_filled_in(home):
    data = home / "data"
    predict = parse("predict", "--checkpoint", "~/a.pt", "--output=~/out", "$DATA/**/*.png")
    assert predict.checkpoint == home / "a.pt"
    assert predict.output == home / "out"
    assert predict.images == [data / "**/*.png"]
    assert parse("train", "--config", "x", "--resume=~/run").resume == home / "run"
    assert parse("train", "--config", "x", "--resume").resume is True
    assert parse("eval", "--checkpoint", "$DATA/a.pt").checkpoint == [data / "a.pt"]
    assert parse("export", "--checkpoint=x", "--images", "$DATA/a.png").images == [data / "a.png"]
    assert parse("prepare", "camvid", "--split=~/split.json").split == home / "split.json"
    assert parse("prepare", "import", "coco", "~/a.json", "--to=$DATA").source == home / "a.json"
    assert parse("study", "x", "--output-dir=~/studies").output_dir == home / "studies"


def test_an_option_that_cannot_be_filled_in_is_named(capsys):
    with pytest.raises(SystemExit):
        parse("report", "run", "--output", "$NOT_SET_HERE/a.html")
    assert "argument --output: '$NOT_SET_HERE/a.html': expected a path" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_lists_are_read_as_editors_save_them(tmp_path, encoding):
    path = tmp_path / "list.txt"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes((mark + "straße 1\r\n\r\n  002 \r\n").encode(encoding))
    assert read_lines(path) == ["straße 1", "002"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-32"])
def test_other_lists_are_named(tmp_path, encoding):
    path = tmp_path / "list.txt"
    path.write_bytes("straße 1\n".encode(encoding))
    with pytest.raises(ValueError, match=r"list\.txt: .*save it in UTF-8"):
        read_lines(path)


def test_a_runs_folder_stands_for_its_last_checkpoint(tmp_path):
    assert checkpoint_file(tmp_path) == tmp_path / "last.pt"
    assert checkpoint_file(str(tmp_path / "best.pt")) == tmp_path / "best.pt"


def test_a_command_is_quoted_for_the_shell_of_the_system(monkeypatch):
    words = ["reco", "eval", "--checkpoint", r"runs\my run\last.pt"]
    assert shell_line(words) == r"reco eval --checkpoint 'runs\my run\last.pt'"
    monkeypatch.setattr(printing, "os", Namespace(name="nt"))
    assert shell_line(words) == r'reco eval --checkpoint "runs\my run\last.pt"'
    assert shell_line([r"runs\a\last.pt"]) == r"runs\a\last.pt"

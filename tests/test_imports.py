"""Imports run one way, down the list of rooms in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "reco"
# Tensor code takes plain arguments.
WITHOUT_CONFIG = ("method", "models", "metrics", "loss")


@functools.cache
def read_rows() -> dict[str, int]:
    """The row of each room, from the top, as CONTRIBUTING.md lists them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(r"Imports run one way.*?```\n(.*?)```", text, re.DOTALL)
    assert found
    return {room: row for row, line in enumerate(found[1].splitlines()) for room in line.split()}


def imported_rooms(source: str) -> Iterator[tuple[int, str]]:
    """Line and room of each import from the package, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: expected an absolute import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, *parts = [*name.split("."), ""]
            if package == "reco":
                yield node.lineno, room_of(parts) if is_room(parts[0]) else "__init__"


def room_of(parts: Sequence[str]) -> str:
    """The room of a module, ``data/reading`` before ``data`` where the list has both."""
    inner = "/".join(parts[:2])
    return inner if inner in read_rows() else parts[0]


def is_room(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def violations(path: Path, source: str, rows: dict[str, int]) -> list[str]:
    """Imports of a file that the list forbids; those within a room are allowed."""
    room = room_of(path.relative_to(PACKAGE).with_suffix("").parts)
    if room not in rows:
        return [f"{path}: the room {room} is not in the list of CONTRIBUTING.md"]
    return [
        f"{path}:{line}: {room} imports {other}"
        for line, other in imported_rooms(source)
        if other != room
        and (rows.get(other, -1) <= rows[room] or (room in WITHOUT_CONFIG and other == "config"))
    ]


def test_rooms_import_from_rows_below_alone():
    rows = read_rows()
    assert [room for room in rows if not is_room(room)] == []
    # The package imports public names on first use.
    paths = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    assert [v for path in paths for v in violations(path, path.read_text("utf-8"), rows)] == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("data/new.py", "from reco.training.trainer import train"),
        ("data/reading/new.py", "from reco.data.datasets.camvid import CamVidReader"),
        ("data/reading/new.py", "from reco.data import open_dataset"),
        ("data/datasets/new.py", "from reco.data.checks import overview"),
        ("data/new.py", "def f():\n    import reco.training.trainer"),
        ("writing.py", "from reco import seeding"),  # the same row
        ("models/new.py", "from reco.config import Config"),
        ("new.py", ""),
    ],
)
def test_an_import_that_runs_up_is_found(room, source):
    assert len(violations(PACKAGE / room, source, read_rows())) == 1


def test_an_import_that_runs_down_is_fine():
    source = "import torch\nfrom reco import IGNORE, distributed\nfrom reco.config import Config"
    assert violations(PACKAGE / "data" / "new.py", source, read_rows()) == []
    source = "from reco.data.datasets.reader import Reader"
    assert violations(PACKAGE / "data" / "new.py", source, read_rows()) == []

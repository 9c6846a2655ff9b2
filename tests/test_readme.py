"""What the README shows works as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from reco.config import load_config

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_snippets_run(code):
    names: dict = {}
    exec(code, names)
    assert names["features"].grad.abs().sum() > 0


def test_own_images_configuration_loads(tmp_path):
    (text,) = blocks("yaml")
    assert len(text.strip().splitlines()) <= 10
    path = tmp_path / "crack.yaml"
    path.write_text(text)
    config = load_config(path)
    assert config.dataset.name == "folder"
    assert config.dataset.label_map == {0: 0, 255: 1}


def test_every_command_is_one_that_loads():
    commands = re.findall(r"python scripts/train\.py [^`\n]*", README)
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command.replace("…", ""))
        name = words[words.index("--config") + 1]
        if name not in ("crack.yaml", "<file>"):
            overrides = words[words.index("--set") + 1 :] if "--set" in words else []
            load_config(name, overrides)


def test_experiments_of_the_table_load():
    section = README[
        README.index("## The paper's experiments") : README.index("## Your own images")
    ]
    names = re.findall(r"`([a-z0-9_]+\.yaml)`", section)
    assert len(names) == 32
    for name in names:
        load_config(name)
    rows = re.findall(r"^\| [^|]+ \| `([a-z_.= ]+)`", section, re.MULTILINE)
    assert len(rows) >= 5
    for overrides in rows:
        load_config("cityscapes_5shot.yaml", overrides.split())


def test_pictures_are_there():
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (Path(__file__).parent.parent / picture).is_file()

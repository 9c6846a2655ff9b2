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
        if name != "crack.yaml":
            overrides = words[words.index("--set") + 1 :] if "--set" in words else []
            load_config(name, overrides)


def test_method_overrides_load():
    table = README[README.index("| method | `--set` |") : README.index("Ctrl-C leaves")]
    for cell in re.findall(r"`([a-z_.=  ]+)`", table):
        load_config("demo.yaml", cell.split())


def test_pictures_are_there():
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (Path(__file__).parent.parent / picture).is_file()

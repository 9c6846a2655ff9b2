"""What the README shows works as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from make_checkpoint import write_checkpoint
from PIL import Image

from reco.config import load_config
from reco.training import trainer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "best.pt")
    Image.new("RGB", (60, 40)).save("photo.jpg")
    training, predicting = blocks("python")
    names: dict = {}
    exec(training, names)
    assert names["features"].grad.abs().sum() > 0
    exec(predicting, names)
    assert names["labels"].shape == names["confidence"].shape == (40, 60)


def test_scripts_know_every_option_shown():
    shown = re.findall(r"python (scripts/\w+\.py)([^`\n]*)", README)
    assert len({script for script, _ in shown}) >= 7
    for script, arguments in shown:
        known = (ROOT / script).read_text(encoding="utf-8")
        for option in re.findall(r" (--[a-z-]+)", arguments):
            assert f'"{option}"' in known, f"{script} {option}"


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


def test_commands_for_several_gpus_give_each_a_share(monkeypatch):
    help_text = (ROOT / "scripts" / "train.py").read_text(encoding="utf-8")
    pattern = r"torchrun --nproc_per_node=(\d) scripts/train\.py --config (\S+)"
    for text in (README, help_text):
        commands = re.findall(pattern, text)
        assert commands
        for processes, name in commands:
            monkeypatch.setattr(trainer.distributed, "world_size", lambda n=int(processes): n)
            trainer._check_shares(load_config(name))


def test_the_folder_shown_is_that_of_the_demo():
    help_text = (ROOT / "scripts" / "report.py").read_text(encoding="utf-8")
    for text in (README, help_text):
        (shown,) = re.findall(r"runs/demo/(\w+)-s0", text)
        assert shown == load_config("demo.yaml").hash()


def test_studies_named_are_there():
    for text in (README, (ROOT / "docs" / "results.md").read_text(encoding="utf-8")):
        names = re.findall(r"studies/(\w+\.yaml)", text)
        assert names
        for name in names:
            assert (ROOT / "configs" / "studies" / name).is_file(), name


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
        assert (ROOT / picture).is_file()

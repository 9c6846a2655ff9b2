"""The data sets of docs/own_images.md, made to their descriptions, with the YAML of the page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from make_data import make_folder, make_mask, save_image, save_mask
from PIL import Image

from reco import IGNORE
from reco.cli import main
from reco.config import load_config
from reco.data import open_dataset

PAGE = (Path(__file__).parent.parent / "docs" / "own_images.md").read_text(encoding="utf-8")
COLOURS = ("#3c1098", "#8429f6", "#6ec1e4", "#fedd3a", "#e2a929", "#9b9b9b")


def make_leaves(root: Path) -> None:
    """Twelve photos in one folder, of which ten have a mask beside them."""
    for i in range(12):
        classes = make_mask((0, 1, 2), i)
        save_image(root / f"{i:04d}.jpg", classes, i)
        if i < 10:
            values = np.array([0, 128, 255], np.uint8)[classes]
            save_mask(root / f"{i:04d}_mask.png", values)


def make_aerial(root: Path) -> None:
    """Three tiles of equal names; every other mask went through a program that made it smaller."""
    colours = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS], np.uint8)
    for tile in range(1, 4):
        for part in range(4):
            classes = make_mask(range(6), tile + part)
            name = f"part_{part:03d}"
            save_image(root / f"Tile {tile}/images/{name}.jpg", classes, 10 * tile + part)
            mask = Image.fromarray(colours[classes])
            if part % 2:
                mask = mask.quantize(dither=Image.Dither.NONE)
            path = root / f"Tile {tile}/masks/{name}.png"
            path.parent.mkdir(exist_ok=True)
            mask.save(path)


@pytest.mark.parametrize(
    ("name", "make", "labelled", "unlabelled", "validation"),
    [("leaves", make_leaves, 8, 10, 2), ("aerial", make_aerial, 4, 4, 4)],
)
def test_from_files_as_they_lie_to_a_trained_network(
    tmp_path, monkeypatch, capsys, name, make, labelled, unlabelled, validation
):
    make(tmp_path / name)
    (text,) = re.findall(rf"```yaml\n(# {name}.yaml\n.*?)```", PAGE, re.DOTALL)
    (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "folder", "--config", f"{name}.yaml"]) == 0
    assert "no problems" in capsys.readouterr().out
    settings = [s for s in TINY if not s.startswith("dataset.labelled")]
    assert (
        main(["train", "--config", f"{name}.yaml", "--set", "model.weights=none", *settings]) == 0
    )
    first = capsys.readouterr().out.splitlines()[0]
    assert f": {labelled} labelled (" in first
    assert f" {unlabelled} unlabelled (" in first
    assert f" {validation} validation (" in first
    (run,) = [path for path in (tmp_path / "runs" / name).iterdir() if path.is_dir()]
    assert (run / "last.pt").is_file()


def test_masks_of_the_aerial_tiles_are_read_alike(tmp_path):
    make_aerial(tmp_path / "aerial")
    (text,) = re.findall(r"```yaml\n(# aerial.yaml\n.*?)```", PAGE, re.DOTALL)
    (tmp_path / "aerial.yaml").write_text(text)
    reader = open_dataset(load_config(tmp_path / "aerial.yaml").dataset)
    modes = set()
    for tile in range(1, 4):
        for part in range(4):
            id = f"Tile {tile}/images/part_{part:03d}"
            expected = make_mask(range(6), tile + part)
            expected[expected == 5] = IGNORE
            assert np.array_equal(np.asarray(reader.label(id)), expected)
            modes.add(Image.open(tmp_path / f"aerial/Tile {tile}/masks/part_{part:03d}.png").mode)
    assert modes == {"RGB", "P"}


def test_an_error_about_a_file_tells_what_lists_all(tmp_path, monkeypatch, capsys):
    make_folder(tmp_path / "data")
    masks = sorted((tmp_path / "data/labels/train").rglob("*.png"))
    for path in masks[:2]:
        path.write_bytes(path.read_bytes()[:40])
    text = "base: folder.yaml\ndataset: {{root: data, class_names: [{}]}}\nmodel: {{weights: none}}"
    (tmp_path / "my own.yaml").write_text(text.format("a, b, c"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.yaml").write_text("train: {iterations: 5}")
    files = ["my own.yaml", "short.yaml"]
    assert main(["train", "--config", *files]) == 1
    printed = capsys.readouterr().err
    assert "000.png: cannot be read as a mask" in printed
    hint = "`reco prepare folder --config 'my own.yaml' short.yaml` lists all such files\n"
    assert printed.endswith(hint)
    # Of data that are named otherwise too, and from their own folder.
    make_folder(tmp_path / "b")
    (tmp_path / "b" / masks[0].relative_to(tmp_path / "data")).write_bytes(b"")
    monkeypatch.chdir(tmp_path / "b")
    assert main(["train", "--config", "../my own.yaml", "--set", "dataset.root=."]) == 1
    hint = "--config '../my own.yaml' --set dataset.root=.` lists all such files\n"
    assert capsys.readouterr().err.endswith(hint)
    assert main(["train", "--config", "../my own.yaml", "--set", "dataset.validation=9.5"]) == 1
    assert "prepare" not in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "folder", "--config", *files]) == 1
    assert (tmp_path / "runs/my own+short_masks.png").is_file()
    listed = capsys.readouterr().out
    assert "2 problems" in listed
    assert all(str(path.relative_to(tmp_path)) in listed for path in masks[:2])

    make_folder(tmp_path / "data")
    (tmp_path / "my own.yaml").write_text(text.format("a, b, c, d"))
    assert main(["train", "--config", "my own.yaml"]) == 1
    assert "reco prepare" not in capsys.readouterr().err  # no file is broken

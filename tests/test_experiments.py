"""The configurations of the experiments train, each in a small form."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from make_data import make_camvid, make_cityscapes, make_folder, make_pascal, make_sun

from reco.config import CONFIG_FOLDER, load_config
from reco.data.datasets import synthetic
from reco.training.trainer import train

# Every reader; few labelled images or all of them, whole masks, single pixels and shares; images as
# they come or resized. All other configurations differ from one of these in numbers only.
PATHS = (
    "cityscapes_5shot.yaml",
    "pascal_200.yaml",
    "pascal_full.yaml",
    "sun_25percent.yaml",
    "camvid_1pixel.yaml",
    "folder.yaml",
    "demo.yaml",
)

SHRUNK = (
    "model.backbone=timm/test_byobnet",
    "model.weights=none",
    "model.channels=16",
    "model.representation_dim=16",
    "dataset.crop_size=[32, 32]",
    "method.unsupervised_threshold=0.1",
    "reco.num_queries=8",
    "reco.num_negatives=16",
    "reco.weak_threshold=0.02",
    "train.labelled_batch_size=2",
    "train.unlabelled_batch_size=2",
    "train.iterations=2",
    "train.log_every=2",
    "train.validate_every=2",
    "train.checkpoint_every=2",
    "train.panel_images=1",
    "train.workers=0",
    "train.device=cpu",
)


@pytest.fixture(scope="session")
def roots(tmp_path_factory) -> dict[str, Path]:
    """A synthetic data set in each official layout."""
    folder = tmp_path_factory.mktemp("data_sets")
    return {
        "camvid": make_camvid(folder / "camvid", val=2),
        "cityscapes": make_cityscapes(folder / "cityscapes", val=2),
        "pascal": make_pascal(folder / "pascal", val=2),
        "sun": make_sun(folder / "sun", test=2),
        "folder": make_folder(folder / "folder", val=2, values=(0, 1)),
    }


def test_names_say_how_much_is_labelled():
    paths = CONFIG_FOLDER.glob("*.yaml")
    names = [path.name for path in paths if "???" not in path.read_text(encoding="utf-8")]
    budgets = [(name, re.search(r"_(\d+)(pixel|percent)?\.yaml", name)) for name in names]
    for name, found in budgets:
        if found:
            dataset, (number, unit) = load_config(name).dataset, found.groups()
            partial = {None: None, "pixel": "pixel", "percent": int(number) / 100}[unit]
            images = "all" if unit else int(number)
            assert (dataset.labelled_images, dataset.partial_labels) == (images, partial), name
    assert any(found for _, found in budgets)


@pytest.mark.parametrize("name", PATHS)
def test_trains_and_evaluates(name, roots, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "SCENES", {"train": 8, "val": 2, "test": 2})
    original = load_config(name)
    overrides = [*SHRUNK]
    if original.dataset.name != "synthetic":
        overrides.append(f"dataset.root={roots[original.dataset.name]}")
    if original.dataset.labelled_images != "all":
        overrides.append("dataset.labelled_images=3")
    if original.dataset.image_size is not None:
        overrides.append("dataset.image_size=[36, 48]")
    outcome = train(load_config(name, overrides), tmp_path / "run")

    assert outcome.finished
    assert outcome.iteration == 2
    losses, validation = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert all(math.isfinite(losses[key]) and losses[key] > 0 for key in ("supervised", "reco"))
    assert math.isfinite(losses["unsupervised"])
    for network in ("student", "teacher"):
        assert 0 <= validation["validation"][network]["mean_iou"] <= 1
    split = json.loads((tmp_path / "run/split.json").read_text())
    if original.dataset.labelled_images != "all":
        assert len(split["labelled"]) == 3
        assert not set(split["labelled"]) & set(split["unlabelled"])
    else:
        assert set(split["labelled"]) <= set(split["unlabelled"])
    if original.dataset.name == "cityscapes":
        assert not any("bad-honnef" in id for id in split["unlabelled"])  # of train_extra
    if original.dataset.partial_labels is not None:
        assert 0 < losses["known_pixels"] < 0.7

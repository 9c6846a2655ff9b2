"""Every configuration in configs/ says what the paper's protocol says, and trains."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from make_data import make_camvid, make_cityscapes, make_folder, make_pascal, make_sun

from reco.config import CONFIG_FOLDER, load_config
from reco.data import synthetic
from reco.training import trainer

CONFIGS = sorted(path.name for path in CONFIG_FOLDER.glob("*.yaml"))

# What the experiments of a data set share: image_size, crop_size, scale_range, labelled and
# unlabelled batch, m of the few-shot splitter.
PROTOCOL = {
    "cityscapes": ((512, 1024), (512, 512), (1.0, 1.0), 2, 2, 12),
    "pascal": (None, (321, 321), (0.5, 1.5), 10, 10, 3),
    "sun": ((384, 512), (321, 321), (0.5, 1.5), 5, 5, 1),
    "camvid": ((360, 480), (321, 321), (0.5, 1.5), 5, 5, 9),
}
# Labelled images: 5-shot and the two budgets in the middle.
IMAGES = {
    "cityscapes": (20, 50, 150),
    "pascal": (60, 200, 600),
    "sun": (50, 150, 500),
    "camvid": (10, 20, 50),
}
PARTIAL = {"1pixel": "pixel", "1percent": 0.01, "5percent": 0.05, "25percent": 0.25}

# (labelled_images, partial_labels) by file name; the base files hold no experiment of their own.
BUDGETS: dict[str, tuple] = {}
for name, (few, *middle) in IMAGES.items():
    BUDGETS[f"{name}.yaml"] = BUDGETS[f"{name}_full.yaml"] = ("all", None)
    BUDGETS[f"{name}_5shot.yaml"] = (few, None)
    BUDGETS |= {f"{name}_{images}.yaml": (images, None) for images in middle}
    BUDGETS |= {f"{name}_{suffix}.yaml": ("all", share) for suffix, share in PARTIAL.items()}

SHRUNK = (
    "model.backbone=resnet18",
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
    "train.iterations=5",
    "train.log_every=5",
    "train.validate_every=5",
    "train.checkpoint_every=5",
    "train.panel_images=1",
    "train.workers=0",
    "train.device=cpu",
)


@pytest.fixture(scope="session")
def roots(tmp_path_factory) -> dict[str, Path]:
    """One drawn data set in each official layout."""
    folder = tmp_path_factory.mktemp("data_sets")
    return {
        "camvid": make_camvid(folder / "camvid", val=2),
        "cityscapes": make_cityscapes(folder / "cityscapes", val=2),
        "pascal": make_pascal(folder / "pascal", val=2),
        "sun": make_sun(folder / "sun", test=2),
        "folder": make_folder(folder / "folder", val=2, values=(0, 1)),
    }


def test_every_experiment_has_its_configuration():
    """A file added, renamed or lost has to be entered above."""
    assert set(CONFIGS) == {*BUDGETS, "camvid_cpu.yaml", "demo.yaml", "folder.yaml"}


@pytest.mark.parametrize("name", sorted(BUDGETS))
def test_settings_are_those_of_the_protocol(name):
    config = load_config(name)
    dataset, reco, batch = config.dataset, config.reco, config.train
    assert (
        dataset.image_size,
        dataset.crop_size,
        dataset.scale_range,
        batch.labelled_batch_size,
        batch.unlabelled_batch_size,
        dataset.min_classes_per_image,
    ) == PROTOCOL[dataset.name]
    assert (dataset.labelled_images, dataset.partial_labels) == BUDGETS[name]
    assert name.startswith(dataset.name)
    assert (batch.iterations, batch.learning_rate, batch.weight_decay) == (40_000, 2.5e-3, 5e-4)
    assert (reco.num_queries, reco.num_negatives) == (256, 512)
    assert (reco.temperature, reco.relation_temperature) == (0.5, 0.5)
    assert (reco.weak_threshold, reco.strong_threshold) == (0.7, 0.97)
    assert (config.method.mix, config.method.teacher_decay) == ("classmix", 0.99)
    assert config.model.backbone == ("resnet50" if dataset.name == "camvid" else "resnet101")


@pytest.mark.parametrize("name", CONFIGS)
def test_header_gives_the_command_and_says_what_was_measured(name):
    header = [line for line in (CONFIG_FOLDER / name).read_text().splitlines() if line[:1] == "#"]
    if name.removesuffix(".yaml") in PROTOCOL:
        return  # a base
    assert any(
        f"scripts/train.py --config {name}" in line or "--config my.yaml" in line for line in header
    )
    assert name in ("demo.yaml", "folder.yaml") or any("measured" in line for line in header)


@pytest.mark.parametrize("name", CONFIGS)
def test_trains_and_evaluates(name, roots, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(synthetic, "SCENES", {"train": 8, "val": 2, "test": 2})
    # Of so many runs the checkpoints would be ten gigabytes; test_trainer.py is about them.
    monkeypatch.setattr(trainer, "save_checkpoint", lambda *_: None)
    monkeypatch.setattr(trainer, "save_latest", lambda *_: None)
    original = load_config(name)
    overrides = [*SHRUNK]
    if original.dataset.name != "synthetic":
        overrides.append(f"dataset.root={roots[original.dataset.name]}")
    if original.dataset.labelled_images != "all":
        overrides.append("dataset.labelled_images=3")
    if original.dataset.image_size is not None:
        overrides.append("dataset.image_size=[36, 48]")
    outcome = trainer.train(load_config(name, overrides), tmp_path / "run")

    assert outcome.finished
    assert outcome.iteration == 5
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

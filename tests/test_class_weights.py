"""`train.class_weights`, and runs with two classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import TINY
from make_data import save_image, save_mask

from reco.config import ConfigError, load_config
from reco.data import open_dataset
from reco.data.class_weights import class_weights
from reco.training.build import build_run
from reco.training.trainer import Trainer, train


def two_classes(root, *, object_from: int = 0):
    """Folder of 40 x 40 images with an object of 4 x 10 pixels, 2.5 % of each."""
    for split, count in (("train", 6), ("val", 2)):
        for i in range(count):
            mask = np.zeros((40, 40), np.uint8)
            if i >= object_from:
                mask[10:14, 5 + i : 15 + i] = 1
            save_image(root / "images" / split / f"{i}.png", mask, i)
            save_mask(root / "labels" / split / f"{i}.png", mask)
    return root


def configuration(root, *overrides):
    names = "dataset.class_names=[background, crack]"
    folder = [f"dataset.root={root}", names, f"output_dir={root}/runs", "dataset.crop_size=[32,32]"]
    tiny = [o for o in TINY if not o.startswith(("dataset.", "output_dir"))]
    return load_config("folder.yaml", [*tiny, *folder, "model.weights=none", *overrides])


def weights_of(config):
    reader = open_dataset(config.dataset)
    return class_weights(reader, reader.ids("train"), config)


def test_balanced_weights_make_the_classes_count_alike(tmp_path):
    root = two_classes(tmp_path)
    assert weights_of(configuration(root)) is None
    weights = weights_of(configuration(root, "train.class_weights=balanced"))
    assert weights == pytest.approx([0.5 / 0.975, 0.5 / 0.025])
    assert 0.975 * weights[0] + 0.025 * weights[1] == pytest.approx(1)
    assert weights_of(configuration(root, "train.class_weights=[1, 20]")) == [1, 20]
    one_pixel = configuration(root, "train.class_weights=balanced", "dataset.partial_labels=pixel")
    assert weights_of(one_pixel) == pytest.approx([1, 1])


def test_weights_that_cannot_be_are_refused(tmp_path):
    root = two_classes(tmp_path)
    with pytest.raises(ConfigError, match=r"3 numbers, expected one for each of the 2 classes ba"):
        weights_of(configuration(root, "train.class_weights=[1, 2, 3]"))
    for value in ("[]", "[1, 0]", "[1, -2]", "equal"):
        with pytest.raises(ConfigError, match=r"train\.class_weights = "):
            configuration(root, f"train.class_weights={value}")


def test_two_classes_contrast_and_the_weights_reach_the_objective(tmp_path):
    config = configuration(two_classes(tmp_path), "train.class_weights=balanced")
    trainer = Trainer(build_run(config), tmp_path / "run")
    assert trainer.parts.objective.class_weights.tolist() == pytest.approx([0.5 / 0.975, 20])
    trainer.run()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines if "total" in line]
    assert all(record["reco"] > 0 for record in records)
    assert all(record["without_negatives"] == 0 for record in records)


def test_a_run_whose_steps_have_one_class_says_so(tmp_path, capsys):
    root = two_classes(tmp_path, object_from=5)  # one image of six
    alone = ["method.unsupervised=false", "train.labelled_batch_size=1"]
    alone += ["train.unlabelled_batch_size=0", "train.log_every=4", "train.checkpoint_every=4"]
    config = configuration(root, *alone)
    train(config, tmp_path / "run")
    printed = capsys.readouterr()
    assert "of the steps so far one class alone took part in ReCo" in printed.out + printed.err

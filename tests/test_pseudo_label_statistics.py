"""Pseudo-labels of each class, against counting by hand."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from make_checkpoint import write_checkpoint

import reco
from reco import IGNORE, cli
from reco.data.datasets import synthetic
from reco.data.splits import Split
from reco.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from reco.studies.pseudo_label_statistics import (
    LabelStatistics,
    _filled_cells,
    _statistics,
    label_statistics,
)


def test_shares_by_hand():
    everywhere = torch.tensor([[6, 2, 0], [0, 1, 0], [1, 0, 0]])
    sure = torch.tensor([[4, 1, 0], [0, 0, 0], [1, 0, 0]])
    cells = torch.tensor([[1.5, 0.125, 0], [2, 1, 0]])
    assert _statistics(["road", "car", "sky"], cells, everywhere, sure) == [
        LabelStatistics("road", 80.0, 75.0, 70.0, 71.43, 80.0),
        LabelStatistics("car", 10.0, 12.5, 30.0, 33.33, 0.0),
        LabelStatistics("sky", 10.0, None, 0.0, None, None),
    ]


def test_a_thin_class_fills_little_of_its_cells():
    labels = torch.zeros(2, 8, 12, dtype=torch.long)
    labels[0, :, 2] = 1  # of the first cells, it covers the centre alone
    labels[0, 4:, 8:] = 2
    labels[1, :4, :4] = IGNORE
    filled = _filled_cells(labels, 4)
    assert filled.tolist() == [[2 * 6 - 4.0, 2 * 0.25, 1.0, 0.0], [2 * 6 - 4, 2, 1, 0]]


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> Path:
    """An untrained teacher, and three unlabelled scenes."""
    monkeypatch.setattr(synthetic, "SCENES", {"train": 5, "val": 2, "test": 2})
    path = write_checkpoint(tmp_path / "last.pt", "reco.weak_threshold=0.14")
    content = load_checkpoint(path)
    ids = synthetic.SyntheticReader().ids("train")
    content["split"] = {"labelled": ids[:2], "unlabelled": ids[2:]}
    save_checkpoint(content, path)
    return path


def test_pixels_are_those_of_the_unlabelled_images(checkpoint):
    reader, teacher = synthetic.SyntheticReader(), reco.load(checkpoint, network="teacher")
    truth, pseudo, sure, cells = [], [], [], 0
    for id in reader.ids("train")[2:]:
        labels, confidence = teacher.predict(np.array(reader.image(id)))
        of_image = np.array(reader.label(id))
        cells = cells + _filled_cells(torch.from_numpy(of_image)[None], reader.spec.num_classes)
        known = of_image != IGNORE
        truth.append(of_image[known])
        pseudo.append(labels[known])
        sure.append(confidence[known] > 0.14)
    truth, pseudo, sure = map(np.concatenate, (truth, pseudo, sure))
    found = label_statistics([checkpoint], device="cpu")
    assert 0 < sure.mean() < 1
    for c, row in enumerate(found):
        assert row.of_cell == pytest.approx(100 * (cells[0, c] / cells[1, c]).item(), abs=0.01)
        assert row.truth == pytest.approx(100 * (truth == c).mean(), abs=0.01)
        assert row.pseudo_labels == pytest.approx(100 * (pseudo == c).mean(), abs=0.01)
        if row.right is not None:
            assert row.above_weak == pytest.approx(100 * sure[pseudo == c].mean(), abs=0.01)
            right = (truth == c)[sure & (pseudo == c)].mean()
            assert row.right == pytest.approx(100 * right, abs=0.01)
    assert any(row.right for row in found)
    assert label_statistics([checkpoint, checkpoint], device="cpu") == found


def test_the_script_writes_what_it_prints(checkpoint, monkeypatch, capsys):
    output = checkpoint.with_name("supply.csv")

    def script(*arguments: str) -> int:
        return cli.main(["pseudo-labels", *arguments])

    assert script(str(checkpoint), "--output", str(output), "--device", "cpu") == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    with output.open() as file:
        written = [[value or "-" for value in row] for row in csv.reader(file)]
    assert written[0] == list(LabelStatistics._fields)
    assert written[1:] == printed
    assert script(str(checkpoint.with_name("none.pt"))) == 1


def test_ids_are_those_of_split_json(checkpoint):
    content, of_earlier_version = load_checkpoint(checkpoint), label_statistics([checkpoint])
    ids = tuple(content["split"]["labelled"]), tuple(content["split"]["unlabelled"])
    split = Split(*ids, images_per_class={"sky": 2}, seed=0)
    save_checkpoint({**content, "split": split.summary_dict()}, checkpoint)
    with pytest.raises(CheckpointError, match=r"split.json: lists the images .* cannot be read"):
        label_statistics([checkpoint])
    listed = checkpoint.with_name("split.json")
    listed.write_text(split.to_json())
    assert label_statistics([checkpoint]) == of_earlier_version
    listed.write_text(dataclasses.replace(split, unlabelled=split.unlabelled[1:]).to_json())
    with pytest.raises(CheckpointError, match=f"was trained on the split {split.hash}"):
        label_statistics([checkpoint])


def test_runs_that_have_nothing_to_survey_are_named(checkpoint):
    content = load_checkpoint(checkpoint)
    save_checkpoint({**content, "split": {"unlabelled": ["elsewhere"]}}, checkpoint)
    with pytest.raises(CheckpointError, match="no labels to compare with"):
        label_statistics([checkpoint])
    supervised = checkpoint.with_name("supervised.pt")
    write_checkpoint(supervised, "method.unsupervised=false")
    with pytest.raises(CheckpointError, match="this run has the student alone"):
        label_statistics([supervised])

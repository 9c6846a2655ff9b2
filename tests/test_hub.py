"""Exported networks in Hugging Face's layout, and the model card beside them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from make_checkpoint import write_checkpoint

import reco
from reco.inference import hub
from reco.inference.export import export_checkpoint
from reco.inference.pretrained import FILES
from reco.pictures.analysis import RunAnalysis
from reco.runs.checkpoint import CheckpointError

IMAGE = np.random.default_rng(0).integers(0, 256, (41, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with its records, and an export in it."""
    folder = tmp_path_factory.mktemp("run")
    write_checkpoint(folder / "last.pt", "dataset.labelled_images=10")
    (folder / "environment.json").write_text('{"commit": "abc123"}')
    figures = {"student": {"mean_iou": 0.5}, "teacher": {"mean_iou": 0.512}}
    lines = [
        {"iteration": 0, "split": "val", "validation": figures},
        {"iteration": 9, "split": "val", "validation": {"student": {"mean_iou": 0.9}}},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tested = {"iteration": 0, "split": "test", "networks": {"teacher": {"mean_iou": 0.4}}}
    (folder / "last-test.json").write_text(json.dumps({**tested, "deviations": {}}))
    other = {**tested, "split": "flipped", "deviations": {"flip": True}}
    (folder / "last-flip.json").write_text(json.dumps(other))
    (result,) = export_checkpoint(folder / "last.pt", formats=["hub"])
    assert result.agreement == 1
    return folder


def test_a_folder_labels_as_its_checkpoint_does(run):
    expected = reco.load(run / "last.pt").predict(IMAGE)
    for predictor in (reco.load(run / "last-hub"), hub.from_pretrained(run / "last-hub")):
        found = predictor.predict(IMAGE)
        assert (found.labels == expected.labels).all()
        np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-5)
        assert predictor.spec == reco.load(run / "last.pt").spec
    assert sorted(path.name for path in (run / "last-hub").iterdir()) == sorted(FILES)


def test_a_folder_reads_images_as_its_checkpoint_does(tmp_path):
    """Two channels of 12 bits, at another size than in training."""
    write_checkpoint(
        tmp_path / "last.pt",
        "dataset.name=folder",
        "dataset.root=images",
        "dataset.class_names=[a, b]",
        "dataset.channels=2",
        "dataset.value_range=[0, 4095]",
        "dataset.image_size=[48, 64]",
    )
    image = np.random.default_rng(0).integers(0, 4096, (41, 60, 2), dtype=np.uint16)
    (result,) = export_checkpoint(tmp_path / "last.pt", formats=["hub"], images=[image])
    assert result.agreement == 1
    expected, found = (reco.load(tmp_path / name) for name in ("last.pt", "last-hub"))
    assert found.image_format == expected.image_format
    assert found.image_size == expected.image_size == (48, 64)
    assert (found.predict(image).labels == expected.predict(image).labels).all()


def test_the_card_says_what_it_is(run):
    card = (run / "last-card.md").read_text()
    assert card == (run / "last-hub" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: reco\n")
    for line in (
        "| training data | synthetic, labelled images: 10 |",
        "| method | Mean Teacher + classmix + ReCo |",
        "| exported network | teacher |",
        "| commit | abc123 |",
        "| 0 | sky |",
        "| val | student | 50.0 |",
        "| val | teacher | 51.2 |",
        "| test | teacher | 40.0 |",
    ):
        assert f"\n{line}\n" in card, line
    assert "90.0" not in card
    assert "flipped" not in card


def test_a_card_without_records_says_so(tmp_path):
    write_checkpoint(tmp_path / "last.pt", "method.unsupervised=false", "reco.enabled=false")
    export_checkpoint(tmp_path / "last.pt", formats=["state_dict"])
    card = (tmp_path / "last-card.md").read_text()
    assert "| method | supervised |" in card
    assert "| exported network | student |" in card
    assert "| commit | not recorded beside the checkpoint |" in card
    assert card.rstrip().endswith("## Figures\n\nnot recorded beside the checkpoint")


def test_mistakes_are_named(run, tmp_path):
    with pytest.raises(CheckpointError, match=r"no config.json in it"):
        reco.load(tmp_path)
    with pytest.raises(ValueError, match=r"holds one network"):
        reco.load(run / "last-hub", network="student")
    for name in FILES:
        (tmp_path / name).write_bytes((run / "last-hub" / name).read_bytes())
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"not readable"):
        reco.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"not readable.*image_size"):
        hub.push_to_hub(tmp_path, "me/it")


def test_upload_and_download(run, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, name, **options):
            calls.append((name, options))

        def upload_folder(self, **options):
            calls.append(options)
            return SimpleNamespace(commit_url="https://there")

    module = SimpleNamespace(
        HfApi=Api, snapshot_download=lambda *words, **options: str(run / "last-hub")
    )
    monkeypatch.setattr(hub, "import_extra", lambda name, purpose: module)
    assert hub.push_to_hub(run / "last-hub", "me/it") == "https://there"
    assert calls[0] == ("me/it", {"private": True, "exist_ok": True})
    assert calls[1]["folder_path"] == str(run / "last-hub")
    assert hub.from_pretrained("me/it").predict(IMAGE).labels.shape == (41, 60)


def test_a_runs_folder_stands_for_its_last_checkpoint(run, tmp_path):
    expected = reco.load(run / "last.pt", device="cpu").predict(IMAGE)
    assert (reco.load(run, device="cpu").predict(IMAGE).confidence == expected.confidence).all()
    export_checkpoint(run, tmp_path, formats=["state_dict"])
    assert (tmp_path / "last-state.pt").is_file()
    assert RunAnalysis(run, device="cpu").path == run / "last.pt"
    with pytest.raises(CheckpointError, match=r"last\.pt: no such file; a run keeps last\.pt"):
        export_checkpoint(tmp_path)

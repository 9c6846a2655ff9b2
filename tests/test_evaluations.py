"""Evaluations identify checkpoint, images and options; studies take no others."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from make_data import make_camvid
from PIL import Image

from reco import cli
from reco.config import load_config
from reco.data import open_dataset
from reco.data.datasets.synthetic import SyntheticReader
from reco.data.fingerprint import fingerprint
from reco.runs import results
from reco.runs.checkpoint import CheckpointError, checkpoint_digest, load_checkpoint
from reco.studies import runner
from reco.studies.progress import Progress
from reco.studies.runner import run_commands, run_study
from reco.studies.study import StudyRun, load_study, study_runs
from reco.training.trainer import train

OVERRIDES = (
    *(o for o in TINY if not o.startswith("dataset.labelled_images")),
    "dataset.image_size=null",
    "dataset.labelled_images=3",
    "model.weights=none",
    "train.iterations=2",
)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def relabel(mask: Path) -> None:
    """Set another class at one pixel, as a correction of the mask."""
    values = np.array(Image.open(mask))
    values[0, 0] = (values[0, 0] + 1) % 11
    Image.fromarray(values).save(mask)


# --- fingerprints ----------------------------------------------------------------------------


def test_a_fingerprint_is_of_ids_and_content_wherever_they_lie(tmp_path):
    root = make_camvid(tmp_path / "a", val=4)
    copy = tmp_path / "elsewhere"
    shutil.copytree(root, copy)

    def of(folder: Path, drop: int = 0) -> str:
        reader = open_dataset(load_config("camvid.yaml", [f"dataset.root={folder}"]).dataset)
        return fingerprint(reader, reader.ids("val")[drop:])

    before = of(root)
    assert len(before) == 16
    assert of(copy) == before
    assert of(root, drop=1) != before
    first = sorted((copy / "valannot").iterdir())[0]
    content = first.read_bytes()
    relabel(first)
    assert of(copy) != before
    first.write_bytes(content)
    assert of(copy) == before
    # Another image of the same length, as uncompressed files are.
    image = sorted((copy / "val").iterdir())[0]
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    image.write_bytes(bytes(data))
    assert of(copy) != before
    # Masks that have changed places.
    shutil.rmtree(copy)
    shutil.copytree(root, copy)
    one, two = sorted((copy / "valannot").iterdir())[:2]
    relabel(one)
    in_place, content = of(copy), one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    assert of(copy) != in_place


def test_a_fingerprint_of_a_long_image_reads_begin_middle_and_end(tmp_path):
    root = make_camvid(tmp_path / "a", val=1)
    reader = open_dataset(load_config("camvid.yaml", [f"dataset.root={root}"]).dataset)
    (image,) = (root / "val").iterdir()
    ids, length = reader.ids("val"), 300_001
    seen = set()
    for changed in (None, 0, length // 2, length - 1):
        data = bytearray(length)
        if changed is not None:
            data[changed] = 1
        image.write_bytes(bytes(data))
        seen.add(fingerprint(reader, ids))
    image.write_bytes(bytes(length + 1))
    seen.add(fingerprint(reader, ids))
    assert len(seen) == 5


def test_a_fingerprint_of_synthetic_scenes_is_of_their_pixels():
    ids = ["val-0000", "val-0001"]
    before = fingerprint(SyntheticReader(), ids)
    assert fingerprint(SyntheticReader(), ids[::-1]) == before
    assert fingerprint(SyntheticReader(seed=1), ids) != before


def test_a_digest_is_of_the_tensors(tmp_path):
    for name, value in (("a", 0.0), ("b", 0.0), ("c", 1e-7)):
        torch.save({"weight": torch.full((1000,), value)}, tmp_path / f"{name}.pt")
    a, b, c = (checkpoint_digest(tmp_path / f"{name}.pt") for name in "abc")
    assert a == b != c
    (tmp_path / "d.pt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match=r"d\.pt: not a readable checkpoint"):
        checkpoint_digest(tmp_path / "d.pt")


# --- evaluation files ------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run on files."""
    root = make_camvid(tmp_path / "data", val=3, test=2)
    config = load_config("camvid_5shot.yaml", [*OVERRIDES, f"dataset.root={root}"])
    train(config, tmp_path / "run")
    return tmp_path / "run"


def evaluate(run: Path, *options: str, checkpoint: str = "last.pt") -> None:
    assert cli.main(["eval", "--checkpoint", str(run / checkpoint), *options]) == 0


def test_a_file_says_what_it_is_of_and_no_other_takes_its_place(run, tmp_path, capsys):
    evaluate(run)
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line == f"written: {run / 'last-val.json'}, {run / 'last-val.csv'}"
    evaluate(run, checkpoint="")  # the folder
    assert capsys.readouterr().out.splitlines()[-1] == last_line
    plain = read(run / "last-val.json")
    checkpoint = load_checkpoint(run / "last.pt")
    assert plain["checkpoint_digest"] == checkpoint_digest(run / "last.pt")
    assert plain["images"]["fingerprint"] == checkpoint["images"]
    assert len(plain["images"]["ids"]) == 3
    assert plain["options"]["scales"] == [1.0]
    assert plain["deviations"] == {}
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["images"] == checkpoint["images"]
    assert last["validation"]["teacher"]["matrix"] == plain["networks"]["teacher"]["matrix"]

    # The same images in another place, and options that are the usual ones, change nothing.
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    evaluate(run, "--set", f"dataset.root={tmp_path / 'moved'}", "dataset.image_size=null")
    assert {path.name for path in run.glob("last-*")} == {"last-val.json", "last-val.csv"}
    kept = (run / "last-val.json").read_text()

    # Other evaluations get distinct names.
    relabel(sorted((tmp_path / "moved" / "valannot").iterdir())[0])
    relabel(sorted((tmp_path / "moved" / "testannot").iterdir())[0])
    for options, deviations in (
        (["--flip"], {"flip": True}),
        (["--scales", "1", "2"], {"scales": [1.0, 2.0]}),
        (["--network", "student"], {"networks": ["student"]}),
        (["--original-size", "--boundary-width", "2"], {"original_size": True}),
        (["--window", "32", "32"], {"window": [32, 32]}),
        (["--window", "32", "32", "--overlap", "0.25"], {"overlap": 0.25}),
        (["--set", "dataset.image_size=[36, 48]"], {"dataset.image_size": [36, 48]}),
        (["--set", f"dataset.root={tmp_path / 'moved'}"], {}),
    ):
        before = set(run.glob("last-val*.json"))
        evaluate(run, *options)
        (new,) = set(run.glob("last-val*.json")) - before
        assert deviations.items() <= read(new)["deviations"].items()
        assert bool(read(new)["deviations"]) == bool(deviations)
        assert new.with_suffix(".csv").is_file()
    names = set(run.glob("last-val*.json"))
    evaluate(run, *options)
    assert set(run.glob("last-val*.json")) == names  # the same again is the same file
    assert (run / "last-val.json").read_text() == kept
    # For a split that the run did not validate on, its images are those of the run's data.
    evaluate(run, "--split", "test")
    evaluate(run, "--split", "test", "--set", f"dataset.root={tmp_path / 'moved'}")
    assert len(list(run.glob("last-test*.json"))) == 2
    capsys.readouterr()
    assert cli.main(["eval", "--checkpoint", str(run / "last.pt"), "--overlap", "0.5"]) == 1
    assert "--overlap is for sliding windows: expected --window" in capsys.readouterr().err


def test_best_says_that_it_was_chosen_on_the_split(run, capsys):
    for checkpoint, options, said in (
        ("best.pt", (), True),
        ("best.pt", ("--split", "test"), False),
        ("last.pt", (), False),
    ):
        evaluate(run, *options, checkpoint=checkpoint)
        out = capsys.readouterr().out
        assert ("best.pt was chosen by its mIoU on val" in out) == said
    assert read(run / "best-val.json")["chosen_on"] == "val"
    assert read(run / "last-val.json")["chosen_on"] is None


def test_nothing_but_void_is_an_error_before_any_work(tmp_path, run):
    for split in ("val", "train"):
        root = make_camvid(tmp_path / split)
        for mask in (root / f"{split}annot").iterdir():
            Image.fromarray(np.full_like(np.array(Image.open(mask)), 11)).save(mask)
        config = load_config("camvid_5shot.yaml", [*OVERRIDES, f"dataset.root={root}"])
        with pytest.raises(ValueError, match=r"every pixel of .* masks is void"):
            train(config, tmp_path / "void")
        assert not (tmp_path / "void").exists()
    options = ["--set", f"dataset.root={tmp_path / 'val'}"]
    assert cli.main(["eval", "--checkpoint", str(run / "last.pt"), *options]) == 1
    assert not list(run.glob("last-val*"))


# --- studies ---------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(
        f"config: camvid_5shot.yaml\noutput_dir: {tmp_path}/study\nseeds: [0]\n"
        "test_split: test\nmethods: {plain: {reco.enabled: false}}\n"
    )
    return load_study(path)


def carry_out(study, run: StudyRun) -> None:
    for words in run_commands(run, study):
        assert cli.main(words[1:]) == 0


def pixels(run: StudyRun) -> list[int]:
    """How many were counted on val and on test, by the files that a study reads."""
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    last = [line for line in lines if "validation" in line][-1]["validation"]
    test = read(run.folder / "last-test.json")["networks"]
    return [sum(map(sum, figures["student"]["matrix"])) for figures in (last, test)]


def rows(study, overrides: Sequence[str]) -> list:
    progress = Progress(study, study_runs(study, overrides))
    return [row for found in progress.finished.values() for row in found]


def test_a_study_takes_no_figures_of_other_data(study, tmp_path):
    root, other = make_camvid(tmp_path / "data"), make_camvid(tmp_path / "other", val=2, test=1)
    overrides = [*OVERRIDES, f"dataset.root={root}"]
    (run,) = study_runs(study, overrides)
    carry_out(study, run)
    first, counted = rows(study, overrides), pixels(run)
    assert [row.split for row in first] == ["val", "test"]

    # Evaluations on other data or with other options do not replace its figures.
    for options in (["--set", f"dataset.root={other}"], ["--flip"]):
        evaluate(run.folder, "--split", "test", *options)
    assert rows(study, overrides) == first

    # Images are removed from both splits: an evaluation of the rest is not that of the study.
    for split in ("val", "test"):
        name = sorted((root / split).iterdir())[0].name
        (root / split / name).unlink()
        (root / f"{split}annot" / name).unlink()
    assert rows(study, overrides) == []
    evaluate(run.folder, "--split", "test")
    assert rows(study, overrides) == []  # val is still of the old ones
    before = load_checkpoint(run.folder / "last.pt")["student"]
    carry_out(study, run)
    assert torch.equal(
        next(iter(before.values())),
        next(iter(load_checkpoint(run.folder / "last.pt")["student"].values())),
    )
    again = rows(study, overrides)
    assert [row.split for row in again] == ["val", "test"]
    assert all(new < old for new, old in zip(pixels(run), counted, strict=True))
    progress = Progress(study, [run])
    progress.write()
    text = (study.results_dir / "results.md").read_text()
    assert "1 validations on other images" in text
    assert len((study.results_dir / "curves.csv").read_text().splitlines()) == 2

    # A relabelled pixel is enough.
    relabel(sorted((root / "testannot").iterdir())[0])
    assert rows(study, overrides) == []
    changed = Progress(study, [run])
    assert "1 trained, but without figures on the images of now" in changed.summary()
    assert "to evaluate" in changed.table()
    carry_out(study, run)
    assert rows(study, overrides)

    # Data that have moved are the same data; without them, images cannot be compared.
    root.rename(tmp_path / "moved")
    moved = [*OVERRIDES, f"dataset.root={tmp_path / 'moved'}"]
    assert len(rows(study, moved)) == 2
    assert len(rows(study, overrides)) == 2
    (tmp_path / "study" / "small" / "results.md").unlink()
    assert cli.main(["study", str(study.path), "--collect", "--set", *overrides]) == 0
    assert "The data are not here" in (study.results_dir / "results.md").read_text()


def test_a_study_takes_no_figures_of_other_training_images(study, tmp_path, capsys, monkeypatch):
    root = make_camvid(tmp_path / "data")
    overrides = [*OVERRIDES, f"dataset.root={root}"]
    (run,) = study_runs(study, overrides)
    carry_out(study, run)
    assert len(rows(study, overrides)) == 2

    names = [path.name for path in sorted((root / "train").iterdir())]
    for folder in ("train", "trainannot"):  # one more image
        (root / folder / f"new_{names[0]}").write_bytes((root / folder / names[0]).read_bytes())
    progress = Progress(study, [run])
    assert progress.finished == {}
    assert "0 of 1 runs finished, 1 failed" in progress.summary()
    assert re.search(r"was trained on other images .* newly unlabelled: .*new_", progress.summary())
    monkeypatch.setattr(runner, "start_command", None)  # nothing is started
    assert not run_study(study, overrides)
    for folder in ("train", "trainannot"):
        (root / folder / f"new_{names[0]}").unlink()
    assert rows(study, overrides)

    # Labels drawn anew are not those of the run; a single one that was mended is told of.
    labelled = json.loads((run.folder / "split.json").read_text())["labelled"]
    masks = [root / "trainannot" / f"{Path(id).name}.png" for id in labelled]
    capsys.readouterr()
    relabel(masks[0])
    assert rows(study, overrides)
    assert "labelled images changed" in capsys.readouterr().out
    for mask in masks[1:]:
        relabel(mask)
    assert rows(study, overrides) == []
    assert "trained on other files" in Progress(study, [run]).summary()

    # One checkpoint that cannot be read is no reason to show nothing of the other runs.
    last = run.folder / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    evaluated = run.folder / "last-test.json"
    content = json.loads(evaluated.read_text())
    monkeypatch.setattr(results, "checkpoint_digest", lambda _: content["checkpoint_digest"])
    assert re.search(r"1 failed\n.*last.pt: not a readable ch", Progress(study, [run]).summary())


def test_a_study_takes_no_figures_of_another_checkpoint(study, tmp_path):
    root = make_camvid(tmp_path / "data")
    overrides = [*OVERRIDES, f"dataset.root={root}"]
    (run,) = study_runs(study, overrides)
    carry_out(study, run)
    checkpoint = load_checkpoint(run.folder / "last.pt")
    for tensor in checkpoint["student"].values():
        if tensor.is_floating_point():
            tensor += 1e-3
    torch.save(checkpoint, run.folder / "last.pt")
    assert rows(study, overrides) == []
    evaluate(run.folder, "--split", "test")
    assert len(rows(study, overrides)) == 2
    (run.folder / "last.pt").unlink()  # to save space: its figures stay
    assert len(rows(study, overrides)) == 2

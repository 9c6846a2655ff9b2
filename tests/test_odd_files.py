"""Single files that are broken, too large, or of a name that is not UTF-8. The others are done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from make_checkpoint import write_checkpoint
from make_data import make_camvid
from PIL import Image

from reco.cli import main
from reco.config import load_config
from reco.data import open_dataset
from reco.data.checks.check_dataset import check_dataset
from reco.data.prepare import resize_dataset
from reco.inference.predict_files import predict_files
from reco.inference.predictor import load
from reco.printing import printable

NOT_UTF8 = os.fsdecode(b"caf\xe9")


def noise(path: Path, height: int = 20, width: int = 30) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        Image.fromarray(pixels).save(path)
    except OSError:
        pytest.skip("this file system has UTF-8 names alone")
    return path


def on_a_strict_terminal(*words: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "reco.cli", *map(str, words)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
    )


def test_predict_does_all_files_but_the_broken_ones(tmp_path):
    photos = tmp_path / "photos"
    for name in ("a", NOT_UTF8, "z"):
        noise(photos / f"{name}.png")
    (photos / f"broken-{NOT_UTF8}.png").write_bytes(b"no image")
    (photos / "circle.png").symlink_to("circle.png")
    checkpoint = write_checkpoint(tmp_path / "last.pt")
    output = tmp_path / f"out-{NOT_UTF8}"
    done = on_a_strict_terminal(
        "predict", photos, "--checkpoint", checkpoint, "--output", output, "--device", "cpu"
    )
    assert done.returncode == 1
    assert sorted(os.listdir(output / "labels")) == sorted(["a.png", f"{NOT_UTF8}.png", "z.png"])
    errors = [line for line in done.stderr.splitlines() if b"error: " in line]
    assert len(errors) == 2
    assert b"broken-caf\\udce9.png: cannot be read" in errors[0]
    assert b"circle.png: cannot be read" in errors[1]
    assert b"3 images labelled; results are in" in done.stdout
    assert b"Traceback" not in done.stderr


def test_files_without_any_value_stop_no_other(tmp_path, capsys):
    predictor = load(write_checkpoint(tmp_path / "last.pt"), device="cpu")
    noise(tmp_path / "photos" / "a.png")
    for name in ("b", "c"):
        empty = np.full((20, 30), np.nan, np.float32)
        Image.fromarray(empty).save(tmp_path / "photos" / f"{name}.tif")
    outcome = predict_files(predictor, [tmp_path / "photos"], tmp_path / "out")
    assert outcome.predicted == 1
    told = capsys.readouterr().err
    for name, failure in zip("bc", outcome.failures, strict=True):
        assert f"{name}.tif: no image has a value in channel 1: all are NaN" in failure
        assert failure in told
    assert (tmp_path / "out" / "labels" / "a.png").is_file()


def test_an_image_too_large_for_the_memory_stops_no_other(tmp_path, capsys):
    predictor = load(write_checkpoint(tmp_path / "last.pt"), image_size=None, device="cpu")
    for name in ("a", "b", "c"):
        noise(tmp_path / "photos" / f"{name}.png")
    predict_batch = predictor.predict_batch
    too_large = predictor.to_array(tmp_path / "photos" / "b.png").copy()
    too_large[0, 0] = 7
    Image.fromarray(too_large).save(tmp_path / "photos" / "b.png")

    def predict(arrays):
        if any((array[0, 0] == 7).all() for array in arrays):
            raise RuntimeError("CUDA out of memory. Tried to allocate 90.00 GiB")
        return predict_batch(arrays)

    predictor.predict_batch = predict
    outcome = predict_files(predictor, [tmp_path / "photos"], tmp_path / "out")
    assert outcome.predicted == 2
    (failure,) = outcome.failures
    assert "b.png: cannot be labelled: CUDA out of memory. Tried to" in failure
    assert failure in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "out" / "labels")) == ["a.png", "c.png"]


def test_a_result_whose_name_is_taken_by_a_folder_stops_no_other(tmp_path):
    predictor = load(write_checkpoint(tmp_path / "last.pt"), device="cpu")
    for name in ("a", "b"):
        noise(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "out" / "labels" / "a.png").mkdir(parents=True)
    outcome = predict_files(predictor, [tmp_path / "photos"], tmp_path / "out")
    assert outcome.predicted == 1
    assert "a.png: cannot be written: Is a directory" in outcome.failures[0]
    assert (tmp_path / "out" / "labels" / "b.png").is_file()


def test_a_folder_that_cannot_be_listed_is_a_failure(tmp_path, monkeypatch):
    predictor = load(write_checkpoint(tmp_path / "last.pt"), device="cpu")
    noise(tmp_path / "photos" / "a.png")
    locked = noise(tmp_path / "photos" / "locked" / "b.png").parent
    scandir = os.scandir

    def refuse(path):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for given in ("photos", "photos/**", "photos/**/*.png"):
        outcome = predict_files(predictor, [tmp_path / given], tmp_path / "out")
        assert outcome.predicted == 1, given
        assert outcome.failures == [f"{locked}: cannot be listed: Permission denied"], given
    for given in ("photos/*/*.png", "photos/locked/*"):
        with pytest.raises(
            ValueError, match=r"no images in .*locked: cannot be listed: Permission"
        ):
            predict_files(predictor, [tmp_path / given], tmp_path / "out")
    outcome = predict_files(predictor, [tmp_path / "photos/*.png"], tmp_path / "out")
    assert (outcome.predicted, outcome.failures) == (1, [])  # nothing of the folder is asked for


@pytest.fixture
def camvid(tmp_path) -> Path:
    """With a training image whose name is not UTF-8, and two files that are broken."""
    root = make_camvid(tmp_path / "camvid")
    first = sorted((root / "train").glob("*.png"))[0]
    for folder in ("train", "trainannot"):
        try:
            (root / folder / first.name).rename(root / folder / f"{NOT_UTF8}.png")
        except OSError:
            pytest.skip("this file system has UTF-8 names alone")
    for folder in ("train", "valannot"):
        path = sorted((root / folder).glob("*.png"))[-1]
        path.write_bytes(path.read_bytes()[:40])
    return root


def test_a_resized_copy_lacks_the_broken_files_alone(camvid, tmp_path, capsys):
    reader = open_dataset(load_config("camvid.yaml", [f"dataset.root={camvid}"]).dataset)
    copy = tmp_path / "copy"
    with pytest.raises(ValueError, match=r"^2 of .* failed, the others are done: "):
        resize_dataset(reader, copy, (18, 24))
    pictures = {p.relative_to(camvid) for p in camvid.rglob("*.png")}
    missing = pictures - {p.relative_to(copy) for p in copy.rglob("*.png")}
    broken = [sorted((camvid / f).glob("*.png"))[-1] for f in ("train", "valannot")]
    assert {path.name for path in missing} == {path.name for path in broken}
    printed = capsys.readouterr().err
    assert all(f"error: {printable(str(path))}: cannot be read" in printed for path in broken)
    with pytest.raises(ValueError, match="a resized copy that is not finished"):
        open_dataset(load_config("camvid.yaml", [f"dataset.root={copy}"]).dataset)


@pytest.mark.slow
def test_prepare_on_a_strict_terminal_names_the_broken_files(camvid):
    done = on_a_strict_terminal("prepare", "camvid", "--root", camvid)
    assert done.returncode == 1
    printed = done.stdout + done.stderr
    broken = sorted((camvid / "train").glob("*.png"))[-1]
    assert f"{broken}: cannot be read".encode("ascii", "backslashreplace") in printed
    assert b"Traceback" not in printed


def test_a_run_on_names_that_are_not_utf8(tmp_path, tiny):
    root = make_camvid(tmp_path / "camvid")
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            for number, path in enumerate(sorted((root / folder).glob("*.png"))):
                path.rename(path.with_name(f"{NOT_UTF8}{number}.png"))
    words = ["train", "--config", "camvid_5shot.yaml", "--set", *TINY, f"dataset.root={root}"]
    words += ["dataset.image_size=null", "model.weights=none", f"output_dir={tmp_path / 'runs'}"]
    assert main([*words, "train.iterations=2"]) == 0


def test_check_names_every_broken_file(camvid):
    reader = open_dataset(load_config("camvid.yaml", [f"dataset.root={camvid}"]).dataset)
    reader.image = lambda id: (_ for _ in ()).throw(MemoryError(f"{id}: not enough memory"))
    assert any("not enough memory" in problem for problem in check_dataset(reader).problems)

"""Images of other than three channels: through training, evaluation, prediction and export."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from test_images import camera, configuration, folder, write_png16, write_tiff

import reco
from reco.inference.evaluate_checkpoints import evaluate_checkpoints
from reco.inference.export import export_checkpoint
from reco.method.augmentation import photometric_flip
from reco.training.build import build_run
from reco.training.trainer import train


def bands(root, channels: int):
    """12-bit images; TIFF, but for one channel, which is PNG."""

    def write(path, seed: int) -> None:
        values = camera(12, channels, seed)
        values[..., -1] //= 4  # the last band is a dark one
        if channels == 1:
            write_png16(path.with_suffix(".png"), values)
        else:
            write_tiff(
                path.with_suffix(".tif"), values, photometric="minisblack", planarconfig="contig"
            )

    return folder(root, write)


@pytest.mark.parametrize("channels", [1, 5])
def test_channels_are_carried_from_the_files_to_the_exported_network(tmp_path, channels):
    root = bands(tmp_path, channels)
    config = configuration(root, f"dataset.channels={channels}", "train.iterations=2")
    train(config, tmp_path / "run")
    path = tmp_path / "run" / "last.pt"
    run = reco.runs.checkpoint.TrainedRun.read(path)
    top = 1023.0
    assert run.config.dataset.value_range == ((0.0, 4095.0),) * (channels - 1) + ((0.0, top),)
    network = run.network()
    pixels = np.stack(
        [np.array(run.reader().image(id)) for id in run.reader().ids("train")]
    ).reshape(-1, channels)
    np.testing.assert_allclose(network.mean.flatten(), pixels.mean(0) / 255, atol=1e-5)
    np.testing.assert_allclose(network.std.flatten(), pixels.std(0) / 255, atol=1e-5)

    predictor = reco.load(path, device="cpu")
    file = next((root / "images" / "val").glob("a.*"))
    prediction = predictor.predict(file)
    values = camera(12, channels, 0)
    values[..., -1] //= 4
    assert (predictor.predict(values).confidence == prediction.confidence).all()
    assert "mIoU" in evaluate_checkpoints([path], device="cpu")

    # As a state dict: it is built anew from the metadata alone, and compared on the file.
    (exported,) = export_checkpoint(path, formats=["state_dict"], images=[file])
    assert exported.agreement == 1
    metadata = json.loads(exported.path.with_suffix(".json").read_text())
    assert metadata["model"]["in_channels"] == channels
    assert metadata["value_range"][-1] == [0, 1023]
    assert metadata["mean"] == pytest.approx(network.mean.flatten().tolist(), abs=1e-5)


def test_files_of_other_channels_are_named_before_training(tmp_path):
    root = bands(tmp_path, 4)
    with pytest.raises(ValueError, match=r"\.tif: has 4 channels, expected 6 \(dataset.channels\)"):
        build_run(configuration(root, "dataset.channels=6"))


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_jitter_of_other_channels_keeps_their_order(channels):
    """Brightness and contrast, the same for all: a darker channel stays the darker one."""
    torch.manual_seed(0)
    levels = torch.linspace(0.2, 0.6, channels).view(1, -1, 1, 1)
    images = levels.expand(64, channels, 8, 8) + 0.05 * torch.rand(64, 1, 8, 8)
    jittered, masks = photometric_flip(images, torch.zeros(64, 8, 8, dtype=torch.long))
    assert jittered.shape == images.shape
    assert masks.shape == (64, 8, 8)
    means = jittered.mean((2, 3))
    assert (means.diff(dim=1) > 0).all()
    ratio = means / images.mean((2, 3))
    assert ratio.std(0).min() > 0.05
    assert (ratio > 0.5).all()
    assert (ratio < 1.6).all()

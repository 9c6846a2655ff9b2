"""The exported networks give the logits of the checkpoint, without this package."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from make_checkpoint import write_checkpoint

from reco import cli
from reco.data.datasets.synthetic import SyntheticReader
from reco.inference import export
from reco.inference.export import Deployable, Exported, export_checkpoint
from reco.inference.tracing import traceable
from reco.method.augmentation import to_unit
from reco.models.network import SegmentationNetwork
from reco.runs.checkpoint import TrainedRun

WITHOUT_RECO = """
import json, sys, torch
extra = {"metadata.json": ""}
network = torch.export.load(sys.argv[1], extra_files=extra).module()
results = [network(images) for images in torch.load(sys.argv[2])]
assert not any(name.split(".")[0] in ("reco", "torchvision") for name in sys.modules)
torch.save((json.loads(extra["metadata.json"]), results), sys.argv[3])
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run") / "best.pt")


@pytest.fixture
def teacher(checkpoint) -> SegmentationNetwork:
    return TrainedRun.read(checkpoint).network("teacher")


def images(*size: int) -> torch.Tensor:
    return torch.randint(0, 256, size, dtype=torch.uint8)


def reference(network: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = network(to_unit(batch)).logits
    return torch.nn.functional.interpolate(logits, batch.shape[2:], mode="bilinear")


BATCHES = [images(1, 3, 40, 300), images(3, 3, 33, 50), images(1, 3, 17, 17)]


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> dict[str, Exported]:
    """The formats that must be traced, traced once."""
    formats = ["pt2"]
    if all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript")):
        formats.append("onnx")
    folder = tmp_path_factory.mktemp("shipped")
    results = export_checkpoint(checkpoint, folder, formats=formats)
    return dict(zip(formats, results, strict=True))


def test_pt2_runs_with_torch_alone(exported, teacher, tmp_path):
    result = exported["pt2"]
    assert result.path.name == "best.pt2"
    assert result.difference < 1e-3
    assert result.agreement > 0.999
    head = sum(p.numel() for p in teacher.representation.parameters())
    assert head > 0
    assert result.parameters == sum(p.numel() for p in teacher.parameters()) - head
    program = torch.export.load(result.path)
    assert not any("representation" in name for name in program.state_dict)
    torch.save(BATCHES, tmp_path / "images.pt")
    (tmp_path / "run.py").write_text(WITHOUT_RECO)
    files = [tmp_path / "run.py", result.path, tmp_path / "images.pt", tmp_path / "out.pt"]
    subprocess.run([sys.executable, *files], check=True, cwd=tmp_path)
    metadata, results = torch.load(tmp_path / "out.pt")
    spec = SyntheticReader().spec
    assert metadata["class_names"] == list(spec.class_names)
    assert metadata["palette"] == [list(colour) for colour in spec.palette]
    assert metadata["input"].startswith("uint8 0..255 RGB")
    for batch, found in zip(BATCHES, results, strict=True):
        torch.testing.assert_close(found, reference(teacher, batch), rtol=1e-4, atol=1e-4)


def test_onnx_runs_in_onnxruntime(exported, teacher):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    result = exported["onnx"]
    assert result.agreement > 0.999
    model = onnx.load(result.path)
    assert not any("representation" in tensor.name for tensor in model.graph.initializer)
    metadata = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert metadata["class_names"] == list(SyntheticReader().spec.class_names)
    session = runtime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    for batch in BATCHES:
        (found,) = session.run(None, {"images": batch.numpy()})
        np.testing.assert_allclose(found, reference(teacher, batch), rtol=1e-3, atol=1e-3)


def test_state_dict_fills_the_network_it_describes(checkpoint, teacher, tmp_path, capsys):
    (result,) = export_checkpoint(checkpoint, tmp_path, formats=["state_dict"])
    words = ["export", "--checkpoint", str(checkpoint), "--format", "state_dict"]
    assert cli.main([*words, "--output", str(tmp_path / "again")]) == 0
    *_, measured, written = capsys.readouterr().out.splitlines()
    assert measured.startswith(str(tmp_path / "again" / "best-state.pt"))
    files = [tmp_path / "again" / f"best-{name}" for name in ("state.pt", "state.json", "card.md")]
    assert written == f"written: {', '.join(map(str, files))}"
    assert sorted(files) == sorted((tmp_path / "again").iterdir())
    assert result.path.name == "best-state.pt"
    assert result.agreement == 1
    metadata = json.loads((tmp_path / "best-state.json").read_text())
    network = SegmentationNetwork(**metadata["model"]).eval()
    network.load_state_dict(torch.load(result.path, weights_only=True))
    batch = images(2, 3, 40, 56)
    assert torch.equal(network(to_unit(batch)).logits, teacher(to_unit(batch)).logits)


@pytest.mark.parametrize("kind", ["uint8", "float", "normalised"])
def test_inputs(teacher, kind):
    batch = images(2, 3, 40, 56)
    expected = reference(teacher, batch)
    deployable = Deployable(teacher, input=kind)
    given = deployable.convert(batch)
    assert given.is_floating_point() == (kind != "uint8")
    torch.testing.assert_close(deployable(given), expected)


def test_images_are_compared_at_the_evaluations_size(tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "best.pt", "dataset.image_size=[32, 48]")
    seen = []
    compare = export._reference
    monkeypatch.setattr(export, "_reference", lambda n, x: (seen.append(x.shape), compare(n, x))[1])
    export_checkpoint(path, formats=["state_dict"], images=[np.zeros((90, 70, 3), np.uint8)])
    assert seen == [(1, 3, 32, 48)]
    assert (tmp_path / "best-state.pt").is_file()


def test_a_difference_is_found(checkpoint, tmp_path, monkeypatch):
    """The comparison is with the written files."""
    load = torch.load

    def spoil(path, **arguments):
        state = load(path, **arguments)
        if str(path).endswith("-state.pt"):
            state["classifier.1.bias"][3] += 1000
        return state

    monkeypatch.setattr(torch, "load", spoil)
    (result,) = export_checkpoint(checkpoint, tmp_path, formats=["state_dict"])
    assert result.agreement < 0.5
    assert result.difference == pytest.approx(1000, rel=1e-3)


def test_mistakes_are_named(checkpoint, monkeypatch):
    with pytest.raises(ValueError, match="format 'tflite': expected one of pt2, onnx"):
        export_checkpoint(checkpoint, formats=["tflite"])
    with pytest.raises(ValueError, match="input = 'bgr': expected one of uint8"):
        export_checkpoint(checkpoint, formats=["state_dict"], input="bgr")
    with pytest.raises(ValueError, match="image 1 to compare on is 30 x 4 pixels"):
        export_checkpoint(checkpoint, images=[np.zeros((4, 30, 3), np.uint8)])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"onnx.*: pip install onnx onnxscript onnxruntime$"):
        export_checkpoint(checkpoint, formats=["onnx"])


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_same_padding_of_timm_can_be_exported(format, tmp_path):
    timm = pytest.importorskip("timm")
    if format == "onnx":
        pytest.importorskip("onnxscript")
        onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    if format == "pt2" and torch.__version__.startswith("2.6."):
        pytest.skip("torch 2.6 cannot write this padding (docs/encoders.md)")
    convolutions = torch.nn.Sequential(
        timm.layers.Conv2dSame(3, 4, 3, stride=2),
        timm.layers.Conv2dSame(4, 4, (5, 3), stride=(2, 1), dilation=(1, 2)),
        timm.layers.Conv2dSame(4, 4, 1, stride=2),
        timm.layers.AvgPool2dSame(3, stride=1),
    )
    sizes = [(1, 3, 16, 20), (2, 3, 17, 23), (1, 3, 45, 6)]
    batches = [torch.randn(size) for size in sizes]
    with torch.no_grad():
        expected = [convolutions(batch) for batch in batches]
    dynamic = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)
    example = (torch.randn(2, 3, 33, 40),)
    with traceable():
        program = torch.export.export(convolutions, example, dynamic_shapes=dynamic)
    path = tmp_path / f"same.{format}"
    if format == "pt2":
        torch.export.save(program, path)
        run = torch.export.load(path).module()
    else:
        torch.onnx.export(program, dynamo=True, input_names=["x"], verbose=False).save(path)
        session = onnxruntime.InferenceSession(path)

        def run(batch):
            return torch.from_numpy(session.run(None, {"x": batch.numpy()})[0])

    for batch, result in zip(batches, expected, strict=True):
        torch.testing.assert_close(run(batch), result, rtol=1e-4, atol=1e-5)


def test_other_channels_than_three(tmp_path):
    folder = ("dataset.name=folder", "dataset.root=.", "dataset.class_names=[a, b]")
    path = write_checkpoint(tmp_path / "best.pt", *folder, "dataset.channels=4")
    (result,) = export_checkpoint(path, formats=["state_dict"])
    assert result.agreement == 1
    metadata = json.loads((tmp_path / "best-state.json").read_text())
    assert metadata["input"].startswith("float32 0..1 (batch, 4, height, width)")
    assert metadata["output"].endswith("about 1/4 of the input's height and width")
    assert metadata["output"] in (tmp_path / "best-card.md").read_text()
    assert len(metadata["mean"]) == 4


def test_size_of_a_bare_networks_logits():
    """It is four cells to a patch of a vision transformer, a quarter only where that has 16."""
    pytest.importorskip("timm")
    for patch, share in ((8, "1/2"), (32, "1/8")):
        name = f"timm/vit_small_patch{patch}_224"
        network = SegmentationNetwork(3, backbone=name, weights="none", channels=16)
        described = export._of_bare_network({}, network)["output"]
        assert described.endswith(f"at about {share} of the input's height and width")
        logits = network.eval()(torch.rand(1, 3, 64, 64)).logits
        assert logits.shape[2] == 64 * Fraction(share)

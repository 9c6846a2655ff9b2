"""Every kind of encoder through one set of tests; docs/encoders.csv has every family of timm."""

from __future__ import annotations

import copy
import csv
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import TINY
from torch import Tensor, nn

from reco.cli import main
from reco.config import CONFIG_FOLDER, Config, load_config
from reco.inference.export import Deployable, export_checkpoint, trace
from reco.method.teacher import MeanTeacher
from reco.models.decoders import DPTDecoder, without_padding
from reco.models.encoders import TIMM_FAMILIES
from reco.models.network import SegmentationNetwork
from reco.runs.build_networks import build_network

timm = pytest.importorskip("timm")
ODD = (97, 131)


def build(backbone: str, **arguments: Any) -> SegmentationNetwork:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"weights": "none", "representation_dim": 6, "channels": 8}
    return SegmentationNetwork(5, backbone=backbone, **{**defaults, **arguments})


def images(batch: int = 2, channels: int = 3, size: tuple[int, int] = ODD) -> Tensor:
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def step(network: SegmentationNetwork, batch: Tensor) -> None:
    logits, representations = network.train()(batch)
    (logits.square().mean() + representations.square().mean()).backward()


class EncoderTests:
    """Tests of every encoder; a subclass names one."""

    backbone: str
    cells: tuple[int, int]  # of the logits of an image of ODD pixels
    drop_path: float | None = None
    smaller: ClassVar[dict[str, Any]] = {}  # than timm has it
    not_exported = ""  # why

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        create, smaller = timm.create_model, self.smaller
        monkeypatch.setattr(
            timm, "create_model", lambda name, **given: create(name, **given, **smaller)
        )

    def test_a_step_reaches_every_parameter(self) -> None:
        network = build(self.backbone, drop_path=self.drop_path)
        step(network, images())
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        groups = network.parameter_groups()
        assert len(groups["encoder"]) == len(list(network.encoder.parameters()))
        assert sum(map(len, groups.values())) == len(list(network.parameters()))

    def test_a_frozen_encoder_stays_as_it_is(self) -> None:
        network = build(self.backbone, freeze=True)
        before = copy.deepcopy(network.encoder.state_dict())
        step(network, images())
        assert not any(module.training for module in network.encoder.modules())
        for name, parameter in network.named_parameters():
            assert (parameter.grad is None) == name.startswith("encoder."), name
        assert all(torch.equal(before[k], v) for k, v in network.encoder.state_dict().items())
        groups = network.parameter_groups()
        assert groups["encoder"] == []
        assert len(groups["decoder"]) == sum(p.requires_grad for p in network.parameters())
        teacher = MeanTeacher(network)
        teacher.pseudo_label(images())
        of_teacher = teacher.network.encoder.state_dict()
        assert all(torch.equal(before[k], v) for k, v in of_teacher.items())

    def test_one_image_of_any_size_in_eval_mode(self) -> None:
        network = build(self.backbone).eval()
        heads: list[nn.Module] = []
        assert network.representation is not None
        network.representation.register_forward_hook(lambda m, *_: heads.append(m))
        with torch.no_grad():
            logits, representations = network(images(1))
        assert logits.shape == (1, 5, *self.cells)
        assert logits.isfinite().all()
        assert representations is None
        assert heads == []

    def test_a_batch_of_one_trains(self) -> None:
        network = build(self.backbone, representation_dim=None).train()
        logits, representations = network(images(1))
        assert representations is None
        logits.mean().backward()

    @pytest.mark.parametrize("channels", [1, 4])
    def test_other_channels(self, channels: int) -> None:
        network = build(self.backbone, in_channels=channels)
        step(network, images(2, channels))
        assert network.mean.shape == network.std.shape == (channels, 1, 1)
        with pytest.raises(ValueError, match=rf"expected .*\(B, {channels}, H, W\)"):
            network(images(1, 3))

    def test_save_and_load(self, tmp_path: Path) -> None:
        network = build(self.backbone).eval()
        torch.save(network.state_dict(), tmp_path / "state.pt")
        torch.manual_seed(1)
        again = SegmentationNetwork(
            5, backbone=self.backbone, weights=None, representation_dim=6, channels=8
        ).eval()
        again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        with torch.no_grad():
            assert torch.equal(again(images(1)).logits, network(images(1)).logits)

    def test_one_exported_program_serves_every_size(self) -> None:
        if self.not_exported:
            pytest.skip(self.not_exported)
        network = build(self.backbone).eval()
        sizes = [(97, 131), (64, 96), (40, 33)]
        batches = [images(count, size=size) for count, size in zip((1, 3, 2), sizes, strict=True)]
        with torch.no_grad():
            expected = [network(batch).logits for batch in batches]
        program = trace(Deployable(network, input="float"))
        for batch, logits in zip(batches, expected, strict=True):
            with torch.no_grad():
                found = program.module()(batch)
            size = batch.shape[2:]
            logits = nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
            torch.testing.assert_close(found, logits, rtol=1e-3, atol=1e-4)


class TestResNet(EncoderTests):
    backbone, cells = "resnet18", (25, 33)


class TestDilatingOfTimm(EncoderTests):
    backbone, cells, drop_path = "timm/test_convnext", (24, 32), 0.5


class TestHRNet(EncoderTests):
    backbone, cells = "timm/hrnet_w18_small", (25, 33)


class TestChannelsLast(EncoderTests):
    backbone, cells = "timm/test_mambaout", (25, 33)


class TestMaxViT(EncoderTests):
    backbone, cells = "timm/test_maxvit", (25, 33)
    not_exported = "torch.export wants to know into how many windows an image is cut"


class TestPVT(EncoderTests):
    backbone, cells, drop_path = "timm/pvt_v2_b0", (25, 33), 0.5
    smaller: ClassVar = {"depths": (1, 1, 1, 1)}


class TestTransformer(EncoderTests):
    backbone, cells, drop_path = "timm/test_vit", (25, 33), 0.5
    smaller: ClassVar = {"depth": 4}


class TestRotaryTransformer(EncoderTests):
    backbone, cells = "timm/vit_tiny_patch16_dinov3_qkvb", (25, 33)
    smaller: ClassVar = {"depth": 4}


class TestBeit(EncoderTests):
    backbone, cells = "timm/beit_base_patch16_224", (25, 33)
    smaller: ClassVar = {"embed_dim": 32, "depth": 4, "num_heads": 2}
    # Its modules note the size of the map, which older versions refuse while they trace.
    not_exported = "torch 2.6 cannot export it" if torch.__version__ < "2.7" else ""

    def test_at_the_trained_size_it_is_timms(self) -> None:
        network = build(self.backbone).eval()
        reference = timm.create_model(
            self.backbone.removeprefix("timm/"), pretrained=False, num_classes=0
        ).eval()
        reference.load_state_dict(network.encoder.network.state_dict(), strict=False)
        for block in (*reference.blocks, *network.encoder.network.blocks):
            table = block.attn.relative_position_bias_table
            nn.init.normal_(table, generator=torch.Generator().manual_seed(len(table)))
        batch = images(1, size=(224, 224))
        expected = reference.forward_intermediates(
            batch, indices=4, norm=True, intermediates_only=True
        )
        for found, maps in zip(network.encoder(batch), expected, strict=True):
            torch.testing.assert_close(found, maps)


def test_convnext_at_stride_32_brings_the_maps_in_between() -> None:
    dilated, whole = (build("timm/test_convnext", output_stride=s) for s in (16, 32))
    assert dilated.encoder.strides == (4, 16)
    assert whole.encoder.strides == (4, 8, 16, 32)
    assert len(whole.decoder.between) == 2
    assert whole.decoder.aspp.branches[1][0].dilation == (3, 3)
    step(whole, images())


def test_drop_path_is_the_encoders() -> None:
    rates = [
        module.drop_prob
        for module in build("timm/test_vit", drop_path=0.3).modules()
        if type(module).__name__ == "DropPath"
    ]
    assert max(rates) == pytest.approx(0.3)


@pytest.mark.parametrize("backbone", ["resnet18", "timm/test_resnet"])
def test_first_layers_weights_are_adapted(backbone: str, tmp_path: Path) -> None:
    """A grey image gives what the same values in red, green and blue gave, from a file too."""

    def first_map(network: SegmentationNetwork, image: Tensor) -> Tensor:
        convolution = next(m for m in network.encoder.modules() if isinstance(m, nn.Conv2d))
        result: Tensor = convolution(image)
        return result

    rgb, grey = build(backbone), images(1, 1)
    expected = first_map(rgb, grey.expand(-1, 3, -1, -1))
    torch.save(rgb.encoder.network.state_dict(), tmp_path / "rgb.pth")
    for channels in (1, 2, 4):
        network = build(backbone, weights=str(tmp_path / "rgb.pth"), in_channels=channels)
        if channels == 1:
            torch.testing.assert_close(first_map(network, grey), expected)
        weights = next(network.encoder.parameters())
        repeated = next(rgb.encoder.parameters())[:, [0, 1, 2, 0][:channels]]
        if channels > 1:
            torch.testing.assert_close(weights, repeated * 3 / channels)


@pytest.mark.parametrize("size", [(97, 131), (112, 144), (98, 126), (32, 33)])
def test_cells_of_the_padding_are_left_out(size: tuple[int, int]) -> None:
    """A ramp over the padded image is, on the cells that stay, the ramp at their centres."""
    padded = [-(-extent // 14) * 14 for extent in size]
    counts = [4 * extent // 14 for extent in padded]
    y, x = ((torch.arange(n) + 0.5) * p / n for n, p in zip(counts, padded, strict=True))
    cells = torch.stack([y[:, None].expand(counts), x.expand(counts)])[None]
    found = without_padding(cells, size, Fraction(14, 4))[0]
    kept = [-(-s * 4 // 14) for s in size]
    assert list(found.shape[1:]) == kept
    y, x = ((torch.arange(n) + 0.5) * s / n for n, s in zip(kept, size, strict=True))
    inner = slice(1, -1)  # beyond the first and the last centre, values stay as they are
    torch.testing.assert_close(found[0, inner, 0], y[inner], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found[1, 0, inner], x[inner], atol=1e-3, rtol=1e-4)


def test_dpt_against_its_steps_by_hand() -> None:
    torch.manual_seed(0)
    decoder = DPTDecoder((3, 4, 5, 6), width=8).eval()
    features = [torch.rand(2, size, 3, 5) for size in (3, 4, 5, 6)]
    maps = [layer(m) for layer, m in zip(decoder.reassemble, features, strict=True)]
    assert [m.shape[2:] for m in maps] == [(12, 20), (6, 10), (3, 5), (2, 3)]

    def unit(module: nn.Module, x: Tensor) -> Tensor:
        _, (first, norm, _), second, last_norm = module.body
        return x + last_norm(second(norm(first(x.relu())).relu()))

    def enlarge(x: Tensor, like: Tensor) -> Tensor:
        return nn.functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)

    fused = decoder.projections[3](unit(decoder.fusions[3], maps[3]))
    for level in (2, 1, 0):
        fused = enlarge(fused, maps[level]) + unit(decoder.skips[level], maps[level])
        fused = decoder.projections[level](unit(decoder.fusions[level], fused))
    torch.testing.assert_close(decoder(features), fused)


def test_a_transformers_maps_are_four_depths_through_the_last_norm() -> None:
    network = build("timm/vit_tiny_patch16_dinov3_qkvb").eval()
    batch = images(1, size=(32, 48))
    found = network.encoder(batch)
    blocks = network.encoder.network.blocks
    assert len(blocks) == 12
    seen: list[Tensor] = []
    for depth in (2, 5, 8, 11):
        blocks[depth].register_forward_hook(lambda _m, _a, output: seen.append(output))
    network.encoder(batch)
    for tokens, maps in zip(seen, found, strict=True):
        patches = network.encoder.network.norm(tokens)[:, -6:]
        torch.testing.assert_close(maps.flatten(2).transpose(1, 2), patches)


def test_families_of_timm_are_there() -> None:
    assert set(TIMM_FAMILIES) <= set(timm.models.list_modules())
    docs = Path(__file__).parent.parent / "docs"
    page = (docs / "encoders.md").read_text(encoding="utf-8")
    assert set(TIMM_FAMILIES) <= set(re.findall(r"`(\w+)`", page))
    with (docs / "encoders.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            assert (row["trains"] == "yes") == (row["family"] in TIMM_FAMILIES), row
            assert row["kind"] == TIMM_FAMILIES.get(row["family"], row["kind"])


@pytest.mark.parametrize(
    "path", sorted((CONFIG_FOLDER / "encoders").glob("*.yaml")), ids=lambda path: path.stem
)
def test_configurations_of_encoders_build_networks(path: Path) -> None:
    """Behind any data set, with weights that timm or torchvision have."""
    list_file = ["dataset.labelled_ids=list.txt"]
    config = load_config(["pascal_92.yaml", f"encoders/{path.name}"], list_file)
    assert config.dataset == load_config("pascal_92.yaml", list_file).dataset
    assert config.model.weights == "imagenet"
    with torch.device("meta"):  # shapes alone
        network = build_network(config, 3, pretrained=False)
    name = config.model.backbone
    if name.startswith("timm/"):
        assert timm.models.is_model_pretrained(name.removeprefix("timm/"))
    factor = config.train.encoder_learning_rate_factor
    assert (network.encoder.kind == "transformer") == (factor == 0.025)


def test_weights_made_for_imagenets_normalisation_get_it() -> None:
    """Such as files into which the normalisation was folded."""
    lite0 = "model.backbone=timm/tf_efficientnet_lite0"
    for words, mean in (([lite0], 0.5), ([lite0, "model.normalisation=imagenet"], 0.485)):
        network = build_network(load_config("demo.yaml", [*TINY, *words]), 3, pretrained=False)
        assert network.mean[0].item() == pytest.approx(mean)


def test_a_frozen_transformer_goes_through_a_run(
    tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a file of weights to a checkpoint and its export; the run says what it loaded."""
    weights = build("timm/test_vit").encoder.network.state_dict()
    torch.save({"model": weights}, tmp_path / "pretrained.pth")
    words = [f"output_dir={tmp_path}/runs", f"model.weights={tmp_path}/pretrained.pth"]
    words += [*TINY, "model.backbone=timm/test_vit", "model.freeze=true", "train.iterations=2"]
    assert main(["train", "--config", "demo.yaml", "--set", *words]) == 0
    (last,) = tmp_path.glob("runs/**/last.pt")
    count = len(weights)
    assert f"loaded {count} of {count} tensors into backbone timm/test_vit; missing: nothing" in (
        capsys.readouterr().err
    )
    content = torch.load(last, weights_only=True)
    for network, prefix in (("student", ""), ("teacher", "network.")):
        for name, value in weights.items():
            assert torch.equal(content[network][f"{prefix}encoder.network.{name}"], value), name
    (exported,) = export_checkpoint(last, formats=["state_dict"])
    assert exported.agreement == 1

from __future__ import annotations

import copy
import functools
import logging
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, resnet50
from torchvision.models._api import WeightsEnum
from torchvision.transforms.functional import normalize

from reco.models.network import DeepLabV3Plus, SegmentationOutput
from reco.runs.checkpoint import load_state


def small_network(backbone: str = "resnet18", **arguments: Any) -> DeepLabV3Plus:
    """A narrow network without weights: quick to build and to run."""
    defaults: dict[str, Any] = {"weights": "none", "representation_dim": 12, "channels": 8}
    return DeepLabV3Plus(5, backbone=backbone, **{**defaults, **arguments})


def images(batch: int = 2, height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def high_level_map(network: DeepLabV3Plus, batch: Tensor) -> Tensor:
    """What ASPP receives."""
    seen: list[Tensor] = []
    handle = network.decoder.aspp.register_forward_pre_hook(
        lambda _module, args: seen.append(args[0])
    )
    network.forward_normalised(batch)
    handle.remove()
    return seen[0]


# --- shapes -------------------------------------------------------------------------------------

BACKBONES = [
    ("resnet18", 16),
    ("resnet18", 8),
    ("resnet50", 8),
    ("mobilenet_v3_large", 16),
    ("timm/resnet10t", 16),
    ("timm/resnet10t", 8),
    ("timm/tf_efficientnet_lite0", 16),
]


@pytest.mark.parametrize(("backbone", "output_stride"), BACKBONES)
def test_shapes_and_gradients_in_both_modes(backbone: str, output_stride: int) -> None:
    if backbone.startswith("timm/"):
        pytest.importorskip("timm")
    network = small_network(backbone, output_stride=output_stride)

    logits, representations = network(images(2, 64, 48))
    assert logits.shape == (2, 5, 16, 12)
    assert representations.shape == (2, 12, 16, 12)
    # DistributedDataParallel needs every parameter to take part in the loss.
    (logits.square().mean() + representations.square().mean()).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []

    network.eval()
    with torch.no_grad():
        assert network(images(1, 64, 48)).logits.shape == (1, 5, 16, 12)
        assert network(images(1, 45, 70)).logits.shape == (1, 5, 12, 18)  # rounded up
        high = high_level_map(network, images(1, 64, 48))
    assert high.shape[-2:] == (64 // output_stride, 48 // output_stride)


def test_resnet101_is_the_default_and_has_the_papers_widths() -> None:
    with torch.device("meta"):
        network = DeepLabV3Plus(19, weights=None)
    logits, representations = network(torch.empty(2, 3, 512, 512, device="meta"))
    assert logits.shape == (2, 19, 128, 128)
    assert representations.shape == (2, 256, 128, 128)
    assert len(list(network.encoder.network.layer3.children())) == 23
    assert network.decoder.low_level[0].weight.shape == (48, 256, 1, 1)
    assert [branch[0].dilation[0] for branch in network.decoder.aspp.branches] == [1, 6, 12, 18]
    assert network.decoder.aspp.branches[1][0].weight.shape == (256, 2048, 3, 3)
    for head, out_channels in ((network.classifier, 19), (network.representation, 256)):
        assert head[0][0].weight.shape == (256, 256 + 48, 3, 3)
        assert head[-1].weight.shape == (out_channels, 256, 1, 1)


def test_output_stride_8_doubles_the_rates() -> None:
    with torch.device("meta"):
        network = DeepLabV3Plus(19, weights=None, output_stride=8)
    assert [branch[0].dilation[0] for branch in network.decoder.aspp.branches] == [1, 12, 24, 36]


# --- output stride ------------------------------------------------------------------------------


@pytest.mark.parametrize("output_stride", [8, 16])
def test_resnet50_equals_torchvisions_dilated_network(output_stride: int) -> None:
    network = small_network("resnet50", output_stride=output_stride).eval()
    reference = resnet50(
        weights=None, replace_stride_with_dilation=[False, output_stride == 8, True]
    ).eval()
    reference.load_state_dict(network.encoder.network.state_dict(), strict=False)
    batch = images(1, 49, 64)
    with torch.no_grad():
        expected = reference.maxpool(reference.relu(reference.bn1(reference.conv1(batch))))
        for stage in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
            expected = stage(expected)
        assert torch.equal(high_level_map(network, batch), expected)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_resnet18s_dilation_only_fills_in_pixels(output_stride: int) -> None:
    """The plain network's stride-32 map is the dilated map at every second or fourth pixel."""
    network = small_network("resnet18", output_stride=output_stride).double().eval()
    plain = get_model("resnet18", weights=None).double().eval()
    plain.load_state_dict(network.encoder.network.state_dict(), strict=False)
    batch = images(1, 49, 64).double()
    expected: list[Tensor] = []
    plain.layer4.register_forward_hook(lambda _module, _args, output: expected.append(output))
    step = 32 // output_stride
    with torch.no_grad():
        plain(batch)
        torch.testing.assert_close(
            high_level_map(network, batch)[:, :, ::step, ::step], expected[0]
        )


# --- modes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_stride", [8, 16])
def test_batch_of_one_trains(output_stride: int) -> None:
    network = small_network(output_stride=output_stride).train()
    logits, representations = network(images(1))
    (logits.mean() + representations.mean()).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_image_level_branch_keeps_how_far_two_images_are_apart() -> None:
    """Batch norm on its 1×1 map would give the same for a small and for a large difference."""
    pooled = small_network().decoder.aspp.pooled.train()
    base = torch.rand(1, 512, 4, 4, generator=torch.Generator().manual_seed(0))
    small, large = (
        pooled(torch.cat([base, base * factor])).diff(dim=0).abs().mean() for factor in (1.01, 2.0)
    )
    assert large > 10 * small > 0


def test_representation_head_runs_in_train_mode_only() -> None:
    network = small_network()
    assert network.representation is not None
    calls: list[bool] = []
    network.representation.register_forward_hook(lambda *_: calls.append(network.training))
    logits, representations = network.train()(images())
    assert calls == [True]
    assert representations.shape == (2, 12, 16, 16)
    output = network.eval()(images())
    assert calls == [True]
    assert type(output) is SegmentationOutput
    assert output.logits.shape == logits.shape
    assert output.representations is None


def test_own_mode_decides_so_that_a_teacher_can_have_its_batch_norm_in_train_mode() -> None:
    network = small_network().eval()
    for module in network.modules():
        if module is not network and not isinstance(module, nn.Dropout):
            module.training = True
    with torch.no_grad():
        first, second = network(images()), network(images())
    assert first.representations is None
    assert torch.equal(first.logits, second.logits)


def test_dropout_is_active_in_train_mode() -> None:
    network = small_network().train()
    assert not torch.equal(network(images()).logits, network(images()).logits)


def test_without_representation_dim_there_is_no_head() -> None:
    torch.manual_seed(0)
    bare = small_network(representation_dim=None)
    torch.manual_seed(0)
    full = small_network()
    names = {name for name, _ in full.named_parameters()}
    bare_names = {name for name, _ in bare.named_parameters()}
    assert {name.split(".")[0] for name in names - bare_names} == {"representation"}
    assert bare_names < names
    assert torch.equal(bare.eval()(images()).logits, full.eval()(images()).logits)
    logits, representations = bare.train()(images())
    assert representations is None
    assert logits.shape == (2, 5, 16, 16)


# --- layouts, types, copies ---------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["resnet18", "timm/resnet10t"])
def test_deepcopy_is_equal_and_apart(backbone: str) -> None:
    if backbone.startswith("timm/"):
        pytest.importorskip("timm")
    network = small_network(backbone).eval()
    twin = copy.deepcopy(network)
    with torch.no_grad():
        before = network(images()).logits
        assert torch.equal(twin(images()).logits, before)
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(network(images()).logits, before)
        assert not torch.equal(twin(images()).logits, before)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large"])
def test_channels_last_is_kept_and_changes_nothing(backbone: str) -> None:
    network = small_network(backbone).eval()
    batch = images(2, 33, 48)
    expected = network(batch).logits
    network.to(memory_format=torch.channels_last)
    result = network(batch.to(memory_format=torch.channels_last)).logits
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    assert result.is_contiguous(memory_format=torch.channels_last)

    inputs: list[Tensor] = []
    network.decoder.aspp.project.register_forward_pre_hook(
        lambda _module, args: inputs.append(args[0])
    )
    network(batch.to(memory_format=torch.channels_last))
    assert inputs[0].is_contiguous(memory_format=torch.channels_last)


def test_autocast_bfloat16_trains() -> None:
    network = small_network("mobilenet_v3_large").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, representations = network(images(1, 33, 33))
    assert logits.dtype == representations.dtype == torch.bfloat16
    (logits.float().square().mean() + representations.float().square().mean()).backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in network.parameters()
    )


# --- weights ------------------------------------------------------------------------------------


@functools.cache
def backbone_state() -> dict[str, Tensor]:
    """A state dict of the small backbone with other values."""
    state = small_network("mobilenet_v3_large").encoder.network.state_dict()
    return {
        name: torch.full_like(tensor, index / 256)
        for index, (name, tensor) in enumerate(state.items())
        if not name.endswith("num_batches_tracked")
    }


def load(path: Path) -> DeepLabV3Plus:
    return small_network("mobilenet_v3_large", weights=str(path))


def assert_loaded(network: DeepLabV3Plus, expected: dict[str, Tensor]) -> None:
    loaded = network.encoder.network.state_dict()
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name


def test_load_reports_a_full_match_and_what_is_left_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = backbone_state()
    counter = {"0.1.num_batches_tracked": torch.tensor(7)}
    torch.save(state | counter | {"classifier.weight": torch.zeros(3, 2)}, tmp_path / "weights.pth")
    with caplog.at_level(logging.INFO, logger="reco.models.weights"):
        network = load(tmp_path / "weights.pth")
    assert_loaded(network, state)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "loaded 262 of 262 tensors into backbone mobilenet_v3_large" in record.message
    assert "missing: nothing; " in record.message
    assert record.message.endswith("left over in the file: classifier.weight")


def test_load_warns_of_missing_tensors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    absent = ("0.1.running_var", "16.0.weight")
    state = {name: value for name, value in backbone_state().items() if name not in absent}
    torch.save(state, tmp_path / "weights.pth")
    network = load(tmp_path / "weights.pth")
    assert_loaded(network, state)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "loaded 260 of 262" in record.message
    assert "missing: 0.1.running_var, 16.0.weight; " in record.message


def test_load_takes_float16_into_float32(tmp_path: Path) -> None:
    state = backbone_state()
    half = {name: value.half() if value.dim() == 4 else value for name, value in state.items()}
    torch.save(half, tmp_path / "weights.pth")
    network = load(tmp_path / "weights.pth")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert_loaded(network, {name: value.to(state[name].dtype) for name, value in half.items()})


@pytest.mark.parametrize("prefix", ["features.", "module.backbone."])
def test_load_sees_through_a_prefix(tmp_path: Path, prefix: str) -> None:
    state = backbone_state()
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "weights.pth")
    assert_loaded(load(tmp_path / "weights.pth"), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3},
        lambda state: {
            "meta": {"a": ["b"]},
            "state_dict": {f"backbone.{k}": state[k] for k in state},
        },
        lambda state: {"model": state, "optimizer": {"state": {}}},
        lambda state: {"model": {k: v + 1 for k, v in state.items()}, "model_ema": state},
        lambda state: {
            "student": {f"module.backbone.{k}": state[k] + 1 for k in state},
            "teacher": {f"backbone.{k}": state[k] for k in state},
        },
        lambda state: {
            "state_dict": {
                **{f"module.encoder_k.{k}": state[k] + 1 for k in state},
                **{f"module.encoder_q.{k}": state[k] for k in state},
                "module.queue": torch.zeros(3),
            }
        },
    ],
    ids=["lightning", "mmseg", "model", "model_ema", "dino", "moco"],
)
def test_load_finds_the_encoder_in_what_training_code_writes(
    tmp_path: Path, wrap: Any, caplog: pytest.LogCaptureFixture
) -> None:
    state = backbone_state()
    torch.save(wrap(state), tmp_path / "weights.pth")
    with caplog.at_level(logging.INFO, logger="reco.models.weights"):
        assert_loaded(load(tmp_path / "weights.pth"), state)
    assert "loaded 262 of 262 tensors into backbone" in caplog.text


def test_load_undoes_timms_renaming(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    # timm's feature network calls the classifier's `stages.0...` `stages_0...`.
    classifier = timm.create_model("convnext_atto", pretrained=False)
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    network = small_network("timm/convnext_atto", weights=str(tmp_path / "weights.pth"))
    expected = {name.replace(".", "_"): value for name, value in classifier.state_dict().items()}
    loaded = network.encoder.network.state_dict()
    assert any(name.startswith("stages_0.") for name in loaded)
    assert all(torch.equal(expected[name.replace(".", "_")], loaded[name]) for name in loaded)


def test_load_refuses_other_shapes_and_names_the_keys(tmp_path: Path) -> None:
    other = {"16.0.weight": torch.zeros(960, 80, 1, 1)}
    torch.save(backbone_state() | other, tmp_path / "weights.pth")
    with pytest.raises(
        ValueError,
        match=r"weights\.pth.*mobilenet_v3_large.*: 16\.0\.weight \(960, 80, 1, 1\) "
        r"instead of \(960, 160, 1, 1\)$",
    ):
        load(tmp_path / "weights.pth")


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_load_refuses_a_file_that_matches_less_than_half(tmp_path: Path, share: float) -> None:
    state = backbone_state()
    kept = dict(list(state.items())[: int(share * len(state))])
    torch.save(kept | {"other.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=rf"names {len(kept)} of the backbone's 262 tensors"):
        load(tmp_path / "weights.pth")


def test_load_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth.*neither 'imagenet' nor 'none'"):
        load(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "must hold a state dict, not a Tensor"),
        ({"epoch": 3, "weights": {}}, "it holds 'epoch': int, 'weights': dict"),
        ({"epoch": 3, "state_dict": {}}, "names 0 of the backbone's 262 tensors"),
        ({0: torch.zeros(3)}, "it holds 0: Tensor"),
        ({}, "names 0 of the backbone's 262 tensors"),
    ],
)
def test_load_refuses_what_is_no_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "weights.pth")


class Bomb:
    """Makes a file if it is unpickled unsafely."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_load_refuses_other_files_and_executes_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save(backbone_state(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:5000])
    torch.save({"conv1.weight": Bomb(tmp_path / "executed")}, tmp_path / "bomb.pth")
    for name in ("text.pth", "cut.pth", "bomb.pth"):
        with pytest.raises(ValueError, match=rf"{name}' cannot be read as a state dict") as caught:
            load(tmp_path / name)
        text = "".join(traceback.format_exception(caught.value))
        assert "Re-running" not in text  # torch's advice to load it unsafely
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_of_a_run_is_a_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of the teacher, heads that fit included; the classifier of other classes stays new."""
    student, trained = (small_network("mobilenet_v3_large") for _ in range(2))
    content = {"format": 1, "config": {}, "student": student.state_dict()}
    teacher = {f"network.{name}": value for name, value in trained.state_dict().items()}
    torch.save(
        {**content, "teacher": {**teacher, "_extra_state": {"updates": 3}}}, tmp_path / "a.pt"
    )
    torch.save({**content, "teacher": None}, tmp_path / "b.pt")
    with caplog.at_level(logging.INFO, logger="reco.models.weights"):
        network = DeepLabV3Plus(
            7,
            backbone="mobilenet_v3_large",
            weights=str(tmp_path / "a.pt"),
            representation_dim=12,
            channels=8,
        )
    loaded, expected = network.state_dict(), trained.state_dict()
    other = [name for name in loaded if not torch.equal(loaded[name], expected[name])]
    assert [name for name in other if not name.endswith("num_batches_tracked")] == [
        "classifier.1.weight",
        "classifier.1.bias",
    ]
    assert "a.pt (teacher): loaded 262 of 262 tensors into backbone mobilenet_v3_large and " in (
        caplog.text
    )
    assert "left over in the file: classifier.1.weight, classifier.1.bias" in caplog.text
    supervised = small_network("mobilenet_v3_large", weights=str(tmp_path / "b.pt")).state_dict()
    assert all(torch.equal(supervised[k], v) for k, v in student.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "network."])
def test_states_of_older_versions_keep_their_names_and_normalisation(prefix: str) -> None:
    """Their modules had other names, and normalisation was always ImageNet's."""
    network = small_network("timm/tf_efficientnet_lite0") if find_spec("timm") else small_network()
    old = {}
    for name, value in network.state_dict().items():
        if name not in ("mean", "std"):
            name = name.replace("encoder.network.", "backbone.").replace("decoder.", "")
            old[f"{prefix}{name}"] = value
    holder = network if prefix == "" else nn.ModuleDict({"network": network})
    load_state(holder, old, "old.pt")
    torch.testing.assert_close(network.mean.flatten(), torch.tensor((0.485, 0.456, 0.406)))
    torch.testing.assert_close(network.std.flatten(), torch.tensor((0.229, 0.224, 0.225)))


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large"])
def test_imagenet_asks_torchvision_for_its_first_weights(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        given = {k: torch.full_like(v, 2.0) for k, v in get_model(backbone).state_dict().items()}
    asked: list[str] = []

    def get_state_dict(self: WeightsEnum, *_args: Any, **_kwargs: Any) -> dict[str, Tensor]:
        asked.append(self.name)
        return given

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    network = small_network(backbone, weights="imagenet")
    assert asked == ["IMAGENET1K_V1"]
    prefix = "features." if backbone == "mobilenet_v3_large" else ""
    for name, value in network.encoder.network.state_dict().items():
        assert torch.equal(value, given[prefix + name]), name


def test_failed_download_says_what_else_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_state_dict(*_args: Any, **_kwargs: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    with pytest.raises(OSError, match=r"resnet18 could not be downloaded.*no route.*'none'"):
        small_network(weights="imagenet")


def test_imagenet_asks_timm_for_pretrained_weights(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timm = pytest.importorskip("timm")
    asked: list[bool] = []
    create_model = timm.create_model

    def record(name: str, *, pretrained: bool, **arguments: Any) -> nn.Module:
        asked.append(pretrained)
        network: nn.Module = create_model(name, pretrained=False, **arguments)
        return network

    monkeypatch.setattr(timm, "create_model", record)
    small_network("timm/resnet10t", weights="imagenet")
    small_network("timm/tf_efficientnet_lite0", weights="imagenet")
    small_network("timm/tf_efficientnet_lite0", weights=None)
    assert caplog.messages == []
    assert asked == [True, True, False]


# --- normalisation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [
        ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("timm/resnet10t", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("timm/tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_images_are_normalised_as_the_backbones_weights_want_it(
    backbone: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    if backbone.startswith("timm/"):
        pytest.importorskip("timm")
    network = small_network(backbone).eval()
    batch = torch.rand(2, 3, 33, 40)
    seen: list[Tensor] = []
    network.encoder.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    logits = network(batch).logits
    assert torch.equal(seen[0], normalize(batch, list(mean), list(std)))
    assert torch.equal(network.forward_normalised(seen[0]).logits, logits)
    with pytest.raises(ValueError, match=r"images are torch\.uint8 \(1, 3, 33, 40\): expected"):
        network(torch.zeros(1, 3, 33, 40, dtype=torch.uint8))


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet5O"}, "backbone='resnet5O' is unknown; the nearest is 'resnet50'"),
        ({"backbone": "mobilenet_v3"}, "the nearest is 'mobilenet_v3_large'"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"drop_path": 0.1}, "drop_path = 0.1: backbone='resnet18' has none"),
        ({"mean": (0.5, 0.5)}, r"mean = \[0.5, 0.5\]: expected 3 numbers"),
        ({"std": (0.5, 0.5, 0.0)}, "std = .*: expected 3 positive numbers"),
        (
            {"backbone": "mobilenet_v3_large", "output_stride": 8},
            "'mobilenet_v3_large' has output_stride 16 or 32, got 8",
        ),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"representation_dim": 0}, "representation_dim must be at least 1, got 0"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_network(**arguments)


def test_num_classes_is_checked() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        DeepLabV3Plus(0, backbone="resnet18", weights=None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet10", "timm/resnet10' is unknown to timm .*; the nearest are timm/resnet10t"),
        ("test_vit", "decoder='deeplabv3plus': backbone='timm/test_vit' needs 'dpt'"),
        ("test_coatnet", "test_coatnet' is of a family that does not"),
        ("mixer_s32_224", "mixer_s32_224' is of a family that does not .* hrnet, .*swin"),
    ],
)
def test_timm_mistakes_are_named(name: str, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        small_network(f"timm/{name}")


def test_missing_timm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"needs timm: pip install timm$"):
        small_network("timm/resnet10t")

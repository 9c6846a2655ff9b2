"""Encoders: images to feature maps, from torchvision or timm.

Three kinds, by what they can do:

- a pyramid that dilates (ResNet, EfficientNet, ...): strides 4 and 8 or 16;
- a pyramid that does not (Swin, HRNet, PVT, ...): strides 4, 8, 16, 32, as they are;
- a plain vision transformer (DINOv2, MAE, CLIP, ...): one stride, the patch, at four depths.

Shapes: B batch, H×W image.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model

from reco.models.weights import IMAGENET_MEAN, IMAGENET_STD, adapt_channels
from reco.optional_packages import import_extra

Kind = Literal["dilating", "pyramid", "transformer"]

# Per torchvision network: the last layer at stride 4, the last layer, and their channels.
_TORCHVISION_LAYERS: dict[str, tuple[str, str, int, int]] = {
    "resnet18": ("layer1", "layer4", 64, 512),
    "resnet50": ("layer1", "layer4", 256, 2048),
    "resnet101": ("layer1", "layer4", 256, 2048),
    "mobilenet_v3_large": ("3", "16", 24, 960),
}

# timm's families (modules of timm.models) that take images of any size, by kind.
# benchmarks/encoders.py tries a member of every family and writes a table of them.
_FAMILIES: dict[Kind, str] = {
    "dilating": (
        "byobnet convnext cspnet cspnext efficientnet hardcorenas inception_next mobilenetv3 "
        "mobilevit nfnet regnet res2net resnest resnet resnetv2 rexnet sknet xception_aligned"
    ),
    "pyramid": (
        "cpubone davit densenet dla dpn edgenext efficientvit_mit fasternet fastvit focalnet "
        "ghostnet hgnet hieradet_sam2 hrnet iformer lcnetv2 lowformer mambaout maxxvit "
        "metaformer mobilenetv5 mvitv2 nasnet nextvit pnasnet pvt_v2 rdnet repghost repvit "
        "selecsls senet starnet swiftformer swin_transformer swin_transformer_v2 "
        "swin_transformer_v2_cr tiny_vit tresnet twins vgg vovnet"
    ),
    "transformer": (
        "beit convmixer deepseek_vit deit eva gemma4_vit naflexvit qwen3_vit vision_transformer "
        "xcit"
    ),
}
TIMM_FAMILIES = {family: kind for kind, names in _FAMILIES.items() for family in names.split()}
# Options that let a family take other sizes than the one it was trained at.
_ANY_SIZE: dict[str, dict[str, bool]] = {
    "deit": {"dynamic_img_size": True},
    "eva": {"dynamic_img_size": True},
    "vision_transformer": {"dynamic_img_size": True},
    "swin_transformer": {"strict_img_size": False},
    "swin_transformer_v2": {"strict_img_size": False},
    "swin_transformer_v2_cr": {"strict_img_size": False},
}
_NUM_DEPTHS = 4  # of a vision transformer, from a quarter of its blocks to all of them


class Encoder(nn.Module):
    """Images to feature maps, from fine to coarse; for a transformer, from early to late.

    Args:
        network: images to a sequence of feature maps, whose height and width are those of the
            image divided by ``strides``.
        kind: what it can do.
        strides: of the maps.
        channels: of the maps.
        multiple: height and width that ``network`` takes are multiples of it; others are padded
            with zeros at the right and at the bottom.
        mean: of the images that its weights were trained on, in [0, 1], per channel.
        std: their deviation.
        frozen: no parameter has a gradient, the network stays in eval mode, and no activations
            are kept for a backward pass.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        kind: Kind,
        strides: Sequence[int],
        channels: Sequence[int],
        multiple: int = 1,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(not frozen)
        self.kind: Kind = kind
        self.strides, self.channels = tuple(strides), tuple(channels)
        self.multiple = multiple
        self.image_mean, self.image_std = tuple(mean), tuple(std)
        self.frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        """As of any module, but a frozen encoder stays in eval mode."""
        return super().train(mode and not self.frozen)

    def pad(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` with zeros up to the next ``multiple``."""
        if self.multiple == 1:
            return images
        missing = [
            (extent + self.multiple - 1) // self.multiple * self.multiple - extent
            for extent in images.shape[2:]
        ]
        return F.pad(images, (0, missing[1], 0, missing[0]))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps ``(B, channels[i], H / strides[i], W / strides[i])`` of padded images."""
        if not self.frozen:
            return self.features(images)
        with torch.no_grad():
            return self.features(images)

    def features(self, images: Tensor) -> list[Tensor]:
        """The maps of ``network``."""
        return list(self.network(images))


class _Layers(nn.Sequential):
    """The layers of a network up to the last of ``taps``; the output of each of ``taps``."""

    def __init__(self, network: nn.Module, taps: Sequence[str]) -> None:
        layers = OrderedDict[str, nn.Module]()
        for name, layer in network.named_children():
            layers[name] = layer
            if name == taps[-1]:
                break
        super().__init__(layers)
        self.taps = tuple(taps)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        for name, layer in self.named_children():
            images = layer(images)
            if name in self.taps:
                features.append(images)
        return features


class _TimmPyramid(Encoder):
    """Some of the maps of timm's feature networks."""

    def __init__(self, network: Any, taps: Sequence[int], **facts: Any) -> None:
        super().__init__(network, **facts)
        self.taps = tuple(taps)
        self.ends_with_channels = str(getattr(network, "output_fmt", "")).endswith("NHWC")

    def features(self, images: Tensor) -> list[Tensor]:
        maps = self.network(images)
        maps = [maps[tap] for tap in self.taps]
        if self.ends_with_channels:
            return [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        return maps


class _TimmTransformer(Encoder):
    """Patch tokens after some blocks, each through the last norm, as DINOv2's authors do."""

    def __init__(self, network: Any, blocks: Sequence[int], **facts: Any) -> None:
        network.prune_intermediate_layers(list(blocks), prune_norm=False, prune_head=True)
        super().__init__(network, **facts)
        self.blocks = list(blocks)

    def features(self, images: Tensor) -> list[Tensor]:
        network: Any = self.network
        maps: list[Tensor] = network.forward_intermediates(
            images, indices=self.blocks, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return maps


class _Beit(_TimmTransformer):
    """BEiT, whose table of relative positions is resized to each image's grid as it comes.

    timm resizes it once, for one size of images.
    """

    def __init__(self, network: Any, blocks: Sequence[int], **facts: Any) -> None:
        super().__init__(network, blocks, **facts)
        network.patch_embed.strict_img_size = False
        any_grid = _any_grid(type(network.blocks[0].attn))
        for block in network.blocks:
            block.attn.__class__ = any_grid

    def features(self, images: Tensor) -> list[Tensor]:
        network: Any = self.network
        for block in network.blocks:
            block.attn.grid = [extent // self.multiple for extent in images.shape[2:]]
        return super().features(images)


def _any_grid(attention: Any) -> type:
    """BEiT's attention with the biases of ``grid`` (rows and columns of patches)."""
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
    from timm.models.beit import gen_relative_position_index

    class AnyGridAttention(attention):  # type: ignore[misc]
        def _get_rel_pos_bias(self) -> Tensor:
            rows, columns = self.grid
            table = self.relative_position_bias_table
            count = (2 * rows - 1) * (2 * columns - 1) + 3  # 3: to, from and of the class token
            table = resize_rel_pos_bias_table_simple(
                table, (rows, columns), (count, table.shape[1])
            )
            index = gen_relative_position_index((rows, columns), device=table.device)
            bias: Tensor = table[index].permute(2, 0, 1)[None]
            return bias.contiguous()

    return AnyGridAttention


def build_encoder(
    name: str,
    *,
    pretrained: bool,
    output_stride: int,
    in_channels: int = 3,
    drop_path: float | None = None,
    frozen: bool = False,
) -> Encoder:
    """The encoder called ``name``; see :class:`reco.models.network.SegmentationNetwork`."""
    try:
        if name.startswith("timm/"):
            options = {} if drop_path is None else {"drop_path_rate": drop_path}
            return _timm_encoder(
                name.removeprefix("timm/"), pretrained, output_stride, in_channels, options, frozen
            )
        if drop_path is not None:
            raise ValueError(
                f"drop_path = {drop_path}: backbone={name!r} has none; those of timm/<name> may"
            )
        return _torchvision_encoder(name, pretrained, output_stride, in_channels, frozen)
    except OSError as error:
        raise OSError(
            f"weights='imagenet': the weights of {name} could not be downloaded ({error}); "
            "`weights` may also be the path of a file, or 'none'"
        ) from error


def _torchvision_encoder(
    name: str, pretrained: bool, output_stride: int, in_channels: int, frozen: bool
) -> Encoder:
    if name not in _TORCHVISION_LAYERS:
        (nearest,) = difflib.get_close_matches(name, _TORCHVISION_LAYERS, n=1, cutoff=0.0)
        raise ValueError(
            f"backbone={name!r} is unknown; the nearest is {nearest!r}. "
            f"Known are {', '.join(_TORCHVISION_LAYERS)} and timm/<name>"
        )
    weights = "IMAGENET1K_V1" if pretrained else None
    if name == "mobilenet_v3_large":
        if output_stride == 8:
            raise ValueError(f"backbone={name!r} has output_stride 16 or 32, got {output_stride}")
        network = get_model(name, weights=weights, dilated=output_stride == 16).features
    else:
        network = get_model(name, weights=weights)
        if output_stride == 8:
            _replace_stride_with_dilation(network.layer3, dilation=1)
            _replace_stride_with_dilation(network.layer4, dilation=2)
        elif output_stride == 16:
            _replace_stride_with_dilation(network.layer4, dilation=1)
    if in_channels != 3:
        _replace_first_convolution(network, in_channels)
    low, high, *channels = _TORCHVISION_LAYERS[name]
    return Encoder(
        # The public create_feature_extractor makes a graph module, whose deep copies lose eval
        # mode.
        _Layers(network, (low, high)),
        kind="dilating",
        strides=(4, output_stride),
        channels=channels,
        frozen=frozen,
    )


def _replace_stride_with_dilation(stage: nn.Module, *, dilation: int) -> None:
    """Remove the stride of 2 from a ResNet stage and dilate the convolutions after it, in place.

    As torchvision's ``replace_stride_with_dilation``, which BasicBlock networks refuse. Every
    second pixel of the new output equals the old output.

    Args:
        stage: ``layer3`` or ``layer4``.
        dilation: of the stage's input: the product of the strides taken out of earlier stages.
    """
    for module in stage.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if module.kernel_size == (3, 3):
            # The convolution that had the stride keeps the rate of its input.
            rate = dilation if module.stride == (2, 2) else 2 * dilation
            module.dilation = module.padding = (rate, rate)
        module.stride = (1, 1)  # in the 3×3 and in the shortcut's 1×1


def _replace_first_convolution(network: nn.Module, in_channels: int) -> None:
    """Let the first convolution take other than three channels, in place."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.in_channels = in_channels
    first.weight = nn.Parameter(adapt_channels(first.weight.detach(), in_channels))


def _timm_encoder(
    name: str,
    pretrained: bool,
    output_stride: int,
    in_channels: int,
    options: Mapping[str, Any],
    frozen: bool,
) -> Encoder:
    timm = import_extra("timm", f"backbone='timm/{name}'")
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.0)
        raise ValueError(
            f"backbone='timm/{name}' is unknown to timm {timm.__version__}; "
            f"the nearest are {', '.join(f'timm/{other}' for other in nearest)}"
        )
    family = next((f for f in TIMM_FAMILIES if timm.models.is_model_in_modules(name, [f])), None)
    if family is None or "coatne" in name:  # CoAtNet, of MaxViT's family, has one size
        raise ValueError(
            f"backbone='timm/{name}' is of a family that does not take images of any size, or has "
            f"no maps to decode. The families that work are {', '.join(sorted(TIMM_FAMILIES))}"
        )
    kind = TIMM_FAMILIES[family]
    if kind == "dilating" and output_stride == 32:
        kind = "pyramid"
    network = _create_timm_network(
        name,
        {
            "pretrained": pretrained,
            "in_chans": in_channels,
            **({"num_classes": 0} if kind == "transformer" else {"features_only": True}),
            **({"output_stride": output_stride} if kind == "dilating" else {}),
            **_ANY_SIZE.get(family, {}),
            **options,
        },
    )
    facts: dict[str, Any] = {"kind": kind, "frozen": frozen}
    trained = timm.get_pretrained_cfg(name)
    if trained is not None:
        facts |= {"mean": trained.mean, "std": trained.std}
    if kind == "transformer":
        info = network.feature_info
        blocks = [len(info) * (i + 1) // _NUM_DEPTHS - 1 for i in range(_NUM_DEPTHS)]
        return (_Beit if family == "beit" else _TimmTransformer)(
            network,
            blocks,
            strides=[info[block]["reduction"] for block in blocks],
            channels=[info[block]["num_chs"] for block in blocks],
            multiple=info[-1]["reduction"],
            **facts,
        )
    strides, channels = network.feature_info.reduction(), network.feature_info.channels()
    last = output_stride if kind == "dilating" else 32
    if 4 not in strides or strides[-1] != last:
        raise ValueError(
            f"backbone='timm/{name}' must have a feature map of stride 4 and end with stride "
            f"{last}; its strides are {strides}"
        )
    if kind == "pyramid" and output_stride == 8:
        raise ValueError(
            f"output_stride = 8: backbone='timm/{name}' does not dilate; 16 and 32 take its "
            f"strides as they are: {strides}"
        )
    first = strides.index(4)
    taps = [first, len(strides) - 1] if kind == "dilating" else range(first, len(strides))
    return _TimmPyramid(
        network,
        taps,
        strides=[strides[tap] for tap in taps],
        channels=[channels[tap] for tap in taps],
        multiple=1 if kind == "dilating" else last * _partition_size(network),
        **facts,
    )


def _create_timm_network(name: str, options: Mapping[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(name, **options)
    except (AssertionError, RuntimeError, TypeError) as error:
        # The network has no such option, or no pretrained weights.
        raise ValueError(
            f"backbone='timm/{name}' cannot be created with "
            f"{', '.join(f'{key}={value}' for key, value in options.items())}: {error!r}"
        ) from error


def _partition_size(network: nn.Module) -> int:
    """Cells of the last map that an image must fill without a rest: MaxViT's windows."""
    sizes = [getattr(module, "partition_size", (1, 1)) for module in network.modules()]
    return max(max(size) for size in sizes)

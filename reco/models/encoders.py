"""Encoders: a network that returns feature maps, from torchvision or timm."""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

from torch import nn
from torchvision.models import get_model
from torchvision.models._utils import IntermediateLayerGetter

from reco.models.weights import IMAGENET_MEAN, IMAGENET_STD, load_backbone

ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}


class Backbone(NamedTuple):
    """A network that returns feature maps, where to find two of them, and how wide they are."""

    network: nn.Module
    low: str | int
    high: str | int
    low_channels: int
    high_channels: int
    # Of the images that its weights were trained on, in [0, 1].
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


# Per torchvision network: the last layer at stride 4, the last layer, and their channels.
_TORCHVISION_LAYERS: dict[str, tuple[str, str, int, int]] = {
    "resnet18": ("layer1", "layer4", 64, 512),
    "resnet50": ("layer1", "layer4", 256, 2048),
    "resnet101": ("layer1", "layer4", 256, 2048),
    "mobilenet_v3_large": ("3", "16", 24, 960),
}


def build_backbone(backbone: str, weights: str | None, output_stride: int) -> Backbone:
    """Backbone with its weights, from torchvision or timm."""
    imagenet = weights == "imagenet"
    try:
        if backbone.startswith("timm/"):
            extractor = _timm_backbone(backbone.removeprefix("timm/"), imagenet, output_stride)
        else:
            extractor = _torchvision_backbone(backbone, imagenet, output_stride)
    except OSError as error:
        raise OSError(
            f"weights='imagenet': the weights of {backbone} could not be downloaded ({error}); "
            "`weights` may also be the path of a file, or 'none'"
        ) from error
    if weights not in ("imagenet", "none", None):
        load_backbone(extractor.network, weights, backbone)
    return extractor


def _torchvision_backbone(name: str, imagenet: bool, output_stride: int) -> Backbone:
    if name not in _TORCHVISION_LAYERS:
        (nearest,) = difflib.get_close_matches(name, _TORCHVISION_LAYERS, n=1, cutoff=0.0)
        raise ValueError(
            f"backbone={name!r} is unknown; the nearest is {nearest!r}. "
            f"Known are {', '.join(_TORCHVISION_LAYERS)} and timm/<name>"
        )
    weights = "IMAGENET1K_V1" if imagenet else None
    if name == "mobilenet_v3_large":
        if output_stride != 16:
            raise ValueError(f"backbone={name!r} has output_stride 16 only, got {output_stride}")
        network = get_model(name, weights=weights, dilated=True).features
    else:
        network = get_model(name, weights=weights)
        if output_stride == 8:
            _replace_stride_with_dilation(network.layer3, dilation=1)
            _replace_stride_with_dilation(network.layer4, dilation=2)
        else:
            _replace_stride_with_dilation(network.layer4, dilation=1)
    low, high, low_channels, high_channels = _TORCHVISION_LAYERS[name]
    # torchvision's segmentation networks are built with it too. The public create_feature_extractor
    # makes a graph module, and a deep copy of that forgets that it was in eval mode.
    extractor = IntermediateLayerGetter(network, return_layers={low: low, high: high})
    return Backbone(extractor, low, high, low_channels, high_channels)


def _replace_stride_with_dilation(stage: nn.Module, *, dilation: int) -> None:
    """Take the stride of 2 out of a ResNet stage and dilate what follows it, in place.

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
            # The convolution that had the stride still sees the input's grid.
            rate = dilation if module.stride == (2, 2) else 2 * dilation
            module.dilation = module.padding = (rate, rate)
        module.stride = (1, 1)  # in the 3×3 and in the shortcut's 1×1


def _timm_backbone(name: str, imagenet: bool, output_stride: int) -> Backbone:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"backbone='timm/{name}' needs timm: pip install timm") from error
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.0)
        raise ValueError(
            f"backbone='timm/{name}' is unknown to timm {timm.__version__}; "
            f"the nearest are {', '.join(f'timm/{other}' for other in nearest)}"
        )
    try:
        network: Any = timm.create_model(
            name, pretrained=imagenet, features_only=True, output_stride=output_stride
        )
    except (AssertionError, RuntimeError, TypeError) as error:
        # What timm raises for a network that knows no features_only or no output_stride, or that
        # has no pretrained weights.
        raise ValueError(
            f"backbone='timm/{name}' cannot be had with features_only=True, "
            f"output_stride={output_stride}, pretrained={imagenet}: {error!r}"
        ) from error
    reductions, widths = network.feature_info.reduction(), network.feature_info.channels()
    if 4 not in reductions or reductions[-1] != output_stride:
        raise ValueError(
            f"backbone='timm/{name}' must have a feature map of stride 4 and end with stride "
            f"{output_stride} (output_stride); its strides are {reductions}"
        )
    low = reductions.index(4)
    high = len(reductions) - 1
    pretrained: Any = timm.get_pretrained_cfg(name)
    return Backbone(network, low, high, widths[low], widths[high], pretrained.mean, pretrained.std)

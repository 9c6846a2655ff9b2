"""DeepLabv3+ with a representation head beside the classifier.

    images ─ backbone ─┬─ high-level map ─ ASPP ─ upsample ─┐
                       └─ low-level map ─ 1×1 to 48 ────────┴─ concatenate ─┬─ classifier
                                                                            └─ representation head

Shapes: B batch, C classes, D representation, H×W image, h×w low-level feature map (h = H/4 and
w = W/4, rounded as the backbone rounds).
"""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models._utils import IntermediateLayerGetter

from reco.models.weights import load_tensors

logger = logging.getLogger(__name__)

_LOW_LEVEL_CHANNELS = 48
_ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}


class _Backbone(NamedTuple):
    """A network that returns feature maps, where to find two of them, and how wide they are."""

    network: nn.Module
    low: str | int
    high: str | int
    low_channels: int
    high_channels: int


# Per torchvision network: the last layer at stride 4, the last layer, and their channels.
_TORCHVISION_LAYERS: dict[str, tuple[str, str, int, int]] = {
    "resnet18": ("layer1", "layer4", 64, 512),
    "resnet50": ("layer1", "layer4", 256, 2048),
    "resnet101": ("layer1", "layer4", 256, 2048),
    "mobilenet_v3_large": ("3", "16", 24, 960),
}


class DeepLabV3Plus(nn.Module):
    """Backbone, ASPP, decoder and two parallel heads at a quarter of the image's size.

    In train mode the network maps images to ``(logits, representations)``, in eval mode to the
    logits alone: the representation head is not run then. The mode that counts is that of this
    module, not of its children; a teacher with only its batch norm in train mode returns logits.

    Images are float ``(B, 3, H, W)``, RGB in ImageNet's normalisation. A batch of one image trains.
    Convolutions in front of a ReLU start from Kaiming's normal distribution (fan-in), the 1×1
    convolution that ends each head from PyTorch's default; batch norm starts at 1 and 0.

    Args:
        num_classes: C, at least 1.
        backbone: ``resnet18``, ``resnet50``, ``resnet101``, ``mobilenet_v3_large`` (torchvision),
            or ``timm/<name>`` for a timm network that offers ``features_only`` with
            ``output_stride`` (extra ``timm``).
        weights: of the backbone. ``"imagenet"`` downloads torchvision's ``IMAGENET1K_V1`` (for timm
            the network's default weights); ``"none"`` or None starts from random numbers; anything
            else is the path of a file that holds a state dict under the backbone's own names,
            with or without a common prefix such as ``module.``. What was loaded from a file is
            logged, as a warning if something was missing.
        representation_dim: D, or None to build no representation head.
        output_stride: of the backbone's high-level map, 8 or 16 (``mobilenet_v3_large``: 16).
        channels: width of the convolutions in ASPP and heads; the paper's network has 256.

    Raises:
        ValueError: for an unknown backbone, one that cannot have this output stride, a size below
            1, or a weights file that does not fit (its names or shapes, or not a state dict).
        FileNotFoundError: if ``weights`` names no file.
        ImportError: if the backbone is timm's and timm is not installed.
        OSError: if ImageNet weights cannot be downloaded.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet101",
        weights: str | None = "imagenet",
        representation_dim: int | None = 256,
        output_stride: int = 16,
        channels: int = 256,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "channels": channels}
        if representation_dim is not None:
            sizes["representation_dim"] = representation_dim
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if output_stride not in _ATROUS_RATES:
            raise ValueError(f"output_stride must be 8 or 16, got {output_stride}")

        extractor = _build_backbone(backbone, weights, output_stride)
        self.backbone = extractor.network
        self._low, self._high = extractor.low, extractor.high
        self.low_level = _conv_bn_relu(extractor.low_channels, _LOW_LEVEL_CHANNELS, kernel_size=1)
        self.aspp = _ASPP(extractor.high_channels, channels, _ATROUS_RATES[output_stride])
        decoder_channels = channels + _LOW_LEVEL_CHANNELS
        self.classifier = _head(decoder_channels, channels, num_classes)
        self.representation: nn.Module | None = None
        if representation_dim is not None:
            self.representation = _head(decoder_channels, channels, representation_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None] | Tensor:
        """Run the network.

        Args:
            images: ``(B, 3, H, W)`` float, RGB in ImageNet's normalisation.

        Returns:
            In train mode logits ``(B, C, h, w)`` and representations ``(B, D, h, w)``, the latter
            None if ``representation_dim`` is; in eval mode the logits only.
        """
        features = self.backbone(images)
        low = self.low_level(features[self._low])
        high = self.aspp(features[self._high])
        high = F.interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=False)
        decoded = torch.cat([high, low], dim=1)
        logits: Tensor = self.classifier(decoded)
        if not self.training:
            return logits
        return logits, None if self.representation is None else self.representation(decoded)


class _ASPP(nn.Module):
    """Atrous spatial pyramid pooling: ``(B, in_channels, ...)`` to ``(B, out_channels, ...)``.

    torchvision's ASPP but for the image-level branch, which has no batch norm here. On a 1×1 map
    batch norm sees one value per image and channel: it refuses a batch of one, and in a batch of
    two it turns every channel into ±1, whatever the images show.
    """

    def __init__(self, in_channels: int, out_channels: int, rates: tuple[int, int, int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_conv_bn_relu(in_channels, out_channels, kernel_size=1)])
        for rate in rates:
            self.branches.append(
                _conv_bn_relu(in_channels, out_channels, kernel_size=3, dilation=rate)
            )
        pooled = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        nn.init.kaiming_normal_(pooled.weight, nonlinearity="relu")
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), pooled, nn.ReLU())
        self.project = nn.Sequential(
            _conv_bn_relu((len(rates) + 2) * out_channels, out_channels, kernel_size=1),
            nn.Dropout(0.5),
        )

    def forward(self, features: Tensor) -> Tensor:
        branches = [branch(features) for branch in self.branches]
        # One value per channel everywhere. `expand` says the same, but its zero strides would make
        # `cat` give up a channels_last layout.
        pooled = self.pooled(features) + torch.zeros_like(branches[0])
        projected: Tensor = self.project(torch.cat([*branches, pooled], dim=1))
        return projected


def _conv_bn_relu(
    in_channels: int, out_channels: int, *, kernel_size: int, dilation: int = 1
) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    convolution = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=False,
    )
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


def _head(in_channels: int, channels: int, out_channels: int) -> nn.Sequential:
    """The shape of both heads."""
    return nn.Sequential(
        _conv_bn_relu(in_channels, channels, kernel_size=3),
        nn.Conv2d(channels, out_channels, kernel_size=1),
    )


def _build_backbone(backbone: str, weights: str | None, output_stride: int) -> _Backbone:
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
        _load_backbone(extractor.network, weights, backbone)
    return extractor


def _torchvision_backbone(name: str, imagenet: bool, output_stride: int) -> _Backbone:
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
    return _Backbone(extractor, low, high, low_channels, high_channels)


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


def _timm_backbone(name: str, imagenet: bool, output_stride: int) -> _Backbone:
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
    if imagenet:
        _warn_of_other_normalisation(name, timm.get_pretrained_cfg(name))
    low = reductions.index(4)
    high = len(reductions) - 1
    return _Backbone(network, low, high, widths[low], widths[high])


def _warn_of_other_normalisation(name: str, pretrained: Any) -> None:
    """Say so when timm's weights were trained on inputs in another normalisation than ImageNet's.

    The difference cannot be folded into the first convolution exactly, because of its padding;
    training takes it up through batch norm.
    """
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    if (pretrained.mean, pretrained.std) != (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD):
        logger.warning(
            "backbone='timm/%s': its weights were trained with mean %s and std %s, "
            "but images come with ImageNet's mean and std",
            name,
            pretrained.mean,
            pretrained.std,
        )


def _load_backbone(network: nn.Module, path: str, backbone: str) -> None:
    """Load a state dict from a file into a backbone and log what was loaded and what was not.

    float16 tensors become float32, since parameters keep their own type.
    """
    state = _read_state_dict(path)
    # Batch norm's step counter is not a weight: whether the file has it does not matter.
    targets = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    sources = _match_names(list(targets), list(state))
    if len(sources) < len(targets) / 2:
        raise ValueError(
            f"weights={path!r} does not fit backbone={backbone!r}: it names {len(sources)} of the "
            f"backbone's {len(targets)} tensors. "
            f"Expected are {_shorten(list(targets))}; the file has {_shorten(list(state))}"
        )
    mismatched = [
        f"{name} {tuple(state[source].shape)} instead of {tuple(targets[name].shape)}"
        for name, source in sources.items()
        if state[source].shape != targets[name].shape
    ]
    if mismatched:
        raise ValueError(
            f"weights={path!r} does not fit backbone={backbone!r}: {_shorten(mismatched)}"
        )
    network.load_state_dict({name: state[key] for name, key in sources.items()}, strict=False)

    missing = [name for name in targets if name not in sources]
    used = set(sources.values())
    left_over = [
        key for key in state if key not in used and not key.endswith("num_batches_tracked")
    ]
    logger.log(
        logging.WARNING if missing else logging.INFO,
        "%s: loaded %d of %d tensors into backbone %s; missing: %s; left over in the file: %s",
        path,
        len(sources),
        len(targets),
        backbone,
        _shorten(missing),
        _shorten(left_over),
    )


def _read_state_dict(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights={path!r} is neither 'imagenet' nor 'none' nor a file")
    try:
        state = load_tensors(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"weights={path!r} cannot be read as a state dict: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"weights={path!r} must hold a state dict, not a {type(state).__name__}")
    other = [
        f"{key!r}: {type(value).__name__}"
        for key, value in state.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if other:
        raise ValueError(
            f"weights={path!r} must hold a state dict (names to tensors) and nothing else; "
            f"it holds {_shorten(other)}"
        )
    return state


def _match_names(targets: list[str], keys: list[str]) -> dict[str, str]:
    """The file's key for each of the backbone's names that the file has.

    All keys may have a common prefix (``module.``, ``backbone.``, MobileNet's ``features.``). Dots
    and underscores count as the same, because timm's feature networks call ``stages.0.norm``
    ``stages_0.norm``.
    """
    plain = {key.replace(".", "_"): key for key in keys}
    first = targets[0].replace(".", "_")
    matches = []
    for prefix in ["", *sorted(key.removesuffix(first) for key in plain if key.endswith(first))]:
        found = {name: plain.get(prefix + name.replace(".", "_")) for name in targets}
        matches.append({name: key for name, key in found.items() if key is not None})
    return max(matches, key=len)


def _shorten(items: list[str]) -> str:
    """At most six items of a list, for a message."""
    shown = ", ".join(items[:6]) or "nothing"
    return shown if len(items) <= 6 else f"{shown} and {len(items) - 6} more"

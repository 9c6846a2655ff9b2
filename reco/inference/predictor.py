"""A trained network, ready to label images of any size and kind.

Shapes: images (H, W, channels) uint8, of RGB unless the data set says otherwise; network inputs
(B, channels, h, w); probabilities (C, h, w) for C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from reco import distributed
from reco.classes import DatasetSpec
from reco.data.reading.images import (
    RGB,
    ImageFormat,
    image_values,
    is_wide,
    read_pixels,
    to_8_bit,
    with_channels,
)
from reco.data.reading.large_images import LargeImage
from reco.data.reading.value_range import find_value_range
from reco.inference.pretrained import Pretrained
from reco.inference.probabilities import InferenceMode, predict_probabilities
from reco.inference.tiles import MOST_PIXELS, TensorSource, Tile, label_large, label_tiles
from reco.paths import checkpoint_file
from reco.runs.checkpoint import Network, TrainedRun

AnyImage: TypeAlias = "Image.Image | str | Path | npt.NDArray[np.uint8]"

# Numbers (classes x pixels) that are resized at a time.
_BAND_NUMBERS = 2**25


class Prediction(NamedTuple):
    """Labels and confidence of one image, at its size."""

    labels: npt.NDArray[np.uint8]  # (H, W) class indices
    confidence: npt.NDArray[np.float32]  # (H, W) softmax probability of the label, 0 to 1


class Predictor:
    """Labels images.

    As in an evaluation, an image is brought to ``image_size`` for the network, and the
    probabilities are resized to the image. Without ``image_size`` the network sees
    the image as it is; one of more than two megapixels in tiles, so that memory stays bounded.

    Args:
        network: images in [0, 1] to logits; put into eval mode.
        spec: class names and palette.
        image_size: (height, width) that the network sees, or ``None``.
        device: where to compute.
        image_format: channels that the network takes, and the range of values that becomes black
            and white in files of more than 8 bits; where it is not known, it is found in each file.
        mode: windows, scales and mirroring; by default the whole image once.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: DatasetSpec,
        *,
        image_size: tuple[int, int] | None = None,
        device: torch.device | str = "cpu",
        image_format: ImageFormat = RGB,
        mode: InferenceMode | None = None,
    ) -> None:
        self.device = torch.device(device)
        network = network.to(self.device).to(memory_format=torch.channels_last)
        self.network = network.eval()
        self.spec = spec
        self.image_size = image_size
        self.image_format = image_format
        self.mode = mode or InferenceMode()

    def predict(self, image: AnyImage) -> Prediction:
        """Label one image.

        Args:
            image: a PIL image of any mode, a path, or uint8 ``(H, W)`` grey, ``(H, W, 3)`` RGB or
                ``(H, W, 4)`` RGBA. EXIF orientation is applied.

        Raises:
            ValueError: a file that cannot be read, or an array of another kind.
        """
        return self.predict_batch([image])[0]

    @torch.no_grad()
    def predict_batch(self, images: Sequence[AnyImage]) -> list[Prediction]:
        """Label several images: at once where their input size is the same."""
        arrays = [self.to_array(image) for image in images]
        inputs = [self.to_input(array) for array in arrays]
        one_size = len({tensor.shape for tensor in inputs}) == 1
        groups = [torch.stack(inputs)] if one_size else [tensor[None] for tensor in inputs]
        predictions: list[Prediction] = []
        for group in groups:
            if group.shape[2] * group.shape[3] > MOST_PIXELS:
                for image in group:
                    size = arrays[len(predictions)].shape[:2]
                    predictions.append(self._label_large(image, size))
                continue
            group = group.to(self.device)
            for probabilities in predict_probabilities(self.network, group, self.mode):
                size = arrays[len(predictions)].shape[:2]
                predictions.append(_most_probable(probabilities, size))
        return predictions

    def tiles(self, image: LargeImage) -> Iterator[Tile]:
        """Labels of a file as it is, part by part; see :func:`reco.inference.tiles.label_tiles`."""
        return label_tiles(
            self.network, image, self.spec.num_classes, self.mode, device=self.device
        )

    def _label_large(self, image: Tensor, size: tuple[int, int]) -> Prediction:
        """Labels at ``size`` of an image ``(C, h, w)`` that is cut into tiles."""
        labels, confidence = label_large(
            self.network, TensorSource(image), self.spec.num_classes, self.mode, device=self.device
        )
        if labels.shape != size:
            labels = F.interpolate(labels[None, None], size, mode="nearest-exact")[0, 0]
            confidence = F.interpolate(confidence[None, None], size, mode="bilinear")[0, 0]
        return Prediction(labels.numpy(), confidence.numpy())

    def to_array(self, image: AnyImage) -> npt.NDArray[np.uint8]:
        """``(H, W, C)`` uint8 of anything that :meth:`predict` takes.

        Raises:
            ValueError: a file that cannot be read, or another kind of array.
        """
        return to_array(image, self.image_format)

    def input_size(self, image: npt.NDArray[np.uint8]) -> tuple[int, int]:
        """(height, width) of the network's input for ``image``, ``(H, W, channels)``."""
        return self.image_size or (image.shape[0], image.shape[1])

    def to_input(self, image: AnyImage) -> Tensor:
        """The network's input for ``image``: ``(channels, h, w)`` uint8, resized as to evaluate."""
        pixels = self.to_array(image)
        tensor = torch.tensor(pixels).permute(2, 0, 1).contiguous()
        size = self.input_size(pixels)
        if tuple(tensor.shape[1:]) == size:
            return tensor
        resized: Tensor = functional.resize(tensor, list(size), antialias=True)
        return resized


def load(
    path: str | Path,
    *,
    network: Network = "auto",
    image_size: tuple[int, int] | Literal["config"] | None = "config",
    device: str = "auto",
    mode: InferenceMode | None = None,
) -> Predictor:
    """Read a checkpoint, trained on whatever device, and make it ready to label images.

    For example ``reco.load("last.pt").predict("street.jpg").labels``.

    Args:
        path: ``last.pt`` or ``best.pt`` of a run, its folder, which stands for ``last.pt``, or a
            folder of ``reco export --format hub``.
        network: ``"auto"`` is the teacher, or the student of a supervised run.
        image_size: (height, width) the network sees, ``None`` for the image as it is, or
            ``"config"`` for what the run was trained and evaluated at.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        mode: windows, scales and mirroring.

    Raises:
        CheckpointError: not a checkpoint of this project, or one without a teacher when the
            teacher is asked for.
        ValueError: no such device.
    """
    path = Path(path)
    if path.is_dir() and not checkpoint_file(path).is_file():
        if network != "auto":
            raise ValueError(f"network = {network!r}: {path} holds one network, that exported")
        pretrained = Pretrained.read(path)
        return Predictor(
            pretrained.network,
            pretrained.spec,
            image_size=pretrained.image_size if image_size == "config" else image_size,
            device=distributed.find_device(device),
            image_format=pretrained.image_format,
            mode=mode,
        )
    run = TrainedRun.read(path)
    return Predictor(
        run.network(network),
        run.spec,
        image_size=run.config.dataset.image_size if image_size == "config" else image_size,
        device=distributed.find_device(device),
        image_format=ImageFormat.from_config(run.config.dataset),
        mode=mode,
    )


def to_array(image: AnyImage, format: ImageFormat = RGB) -> npt.NDArray[np.uint8]:
    """``(H, W, C)`` uint8 of anything that :meth:`Predictor.predict` takes.

    Raises:
        ValueError: a file that cannot be read, or another kind of array.
    """
    if isinstance(image, str | Path):
        if format.value_range is None and is_wide(image):
            found = find_value_range([Path(image)], format.channels)
            format = format._replace(value_range=found)
        return read_pixels(image, format)
    if isinstance(image, np.ndarray):
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in {1, 3, 4, format.channels})
        known = image.dtype == np.uint8 or format.value_range is not None
        if not known or not fits or image.size == 0:
            raise ValueError(
                f"image is an array of {image.dtype} {image.shape}: expected uint8 (H, W), "
                f"(H, W, 3), (H, W, 4) or (H, W, {format.channels}), not empty; other types where "
                "dataset.value_range is known"
            )
        values = image if image.ndim == 3 else image[..., None]
        pixels = to_8_bit(with_channels(values, format.channels), format.value_range)
        return np.ascontiguousarray(pixels)
    return np.array(to_8_bit(image_values(image, format.channels), format.value_range))


def _most_probable(probabilities: Tensor, size: Sequence[int]) -> Prediction:
    """Label and confidence ``(H, W)`` of probabilities ``(C, h, w)`` brought to ``size``.

    Bilinear, as in an evaluation, but a band of rows at a time: all classes of a large photograph
    would not fit into memory.
    """
    height, width = size
    classes, rows, columns = probabilities.shape
    labels = torch.empty((height, width), dtype=torch.uint8)
    confidence = torch.empty((height, width), dtype=torch.float32)
    band = max(1, _BAND_NUMBERS // (classes * max(width, columns)))
    at = ((torch.arange(height, device=probabilities.device) + 0.5) * rows / height - 0.5).clamp(0)
    above = at.long().clamp(max=rows - 1)
    below = (above + 1).clamp(max=rows - 1)
    share = (at - above)[:, None]
    for top in range(0, height, band):
        part = slice(top, min(top + band, height))
        if (height, width) == (rows, columns):
            values = probabilities[:, part]
        else:
            upper, lower = probabilities[:, above[part]], probabilities[:, below[part]]
            values = torch.lerp(upper, lower, share[part].to(upper))
            values = F.interpolate(
                values[None], (values.shape[1], width), mode="bilinear", align_corners=False
            )[0]
        best: Any = values.max(0)
        confidence[part], labels[part] = best.values, best.indices.to(torch.uint8)
    return Prediction(labels.numpy(), confidence.numpy())

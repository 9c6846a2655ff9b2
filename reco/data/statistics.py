"""Mean and deviation of a data set's channels, where those of pretrained weights do not apply."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reco.data.datasets.reader import Reader
from reco.data.reading.images import image_tensor
from reco.threads import in_threads

_MOST_IMAGES = 500
_LEAST_DEVIATION = 1 / 255  # of a channel that is the same everywhere


def mean_and_std(reader: Reader, ids: Sequence[str]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in [0, 1], over at most 500 of the images.

    Args:
        reader: of the data set.
        ids: of the training images, at least one, labelled or not.

    Raises:
        ValueError, OSError: none of them can be read.
    """
    chosen = sorted(ids)[:: max(1, -(-len(ids) // _MOST_IMAGES))]

    def sums(id: str) -> Tensor | Exception:
        try:
            pixels = image_tensor(reader.image(id)).flatten(1).double() / 255
        except (ValueError, OSError) as error:
            return error
        ones = torch.full((len(pixels),), float(pixels.shape[1]), dtype=torch.float64)
        return torch.stack([ones, pixels.sum(1), pixels.square().sum(1)])

    results = list(in_threads(sums, chosen, title="mean of images"))
    read = [counted for counted in results if isinstance(counted, Tensor)]
    if not read and isinstance(results[0], Exception):
        raise results[0]
    count, total, squares = torch.stack(read).sum(0)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=_LEAST_DEVIATION)
    return mean.tolist(), std.tolist()

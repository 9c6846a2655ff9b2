"""Analyses of a trained network: which pixels ReCo would sample, which classes are close.

Shapes: H×W image, h×w feature map, C classes, D representation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from reco import IGNORE, distributed
from reco.data.loading import EvalDataset
from reco.data.reading.images import to_rgb
from reco.inference.probabilities import predict_probabilities
from reco.loss import (
    class_means,
    label_confidence,
    negative_class_probabilities,
    relation_graph,
    sample_negatives,
    sample_queries,
    sort_pixels,
)
from reco.method.augmentation import to_unit
from reco.panels import Pixels, PredictedImage
from reco.runs.checkpoint import CheckpointError, Network, TrainedRun

# Images over which the relation graph is taken; more change it little.
_RELATION_IMAGES = 40


class SampledPixels(NamedTuple):
    """The pixels that ReCo would take in one image; points are (x, y) in the image, 0..W, 0..H."""

    hard: npt.NDArray[np.bool_]  # (h, w) at or below the strong threshold (Eq. 4)
    classes: npt.NDArray[np.int64]  # (h, w); C where the truth is IGNORE
    queries: dict[int, npt.NDArray[np.float64]]  # class -> (Q, 2)
    negatives: dict[int, npt.NDArray[np.float64]]  # class -> (K, 2)


class RunAnalysis:
    """A network of a trained run on the images of a split.

    Args:
        path: the checkpoint, or a run's folder for its ``last.pt``.
        overrides: ``key=value`` over its configuration, such as ``dataset.root=…``.
        network: as :func:`reco.load` takes it.
        split: of the images; ``dataset.eval_split`` by default.
        device: of the network; ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        CheckpointError, ConfigError, FileNotFoundError: a checkpoint or data that do not fit.
    """

    def __init__(
        self,
        path: Path,
        *,
        overrides: Sequence[str] = (),
        network: Network = "auto",
        split: str | None = None,
        device: str = "auto",
    ) -> None:
        run = TrainedRun.read(path, overrides)
        self.path = run.path
        self.config = run.config
        self.reader = run.reader()
        self.split = split or self.config.dataset.eval_split
        self.ids = self.reader.ids(self.split)
        self.data = EvalDataset(self.reader, self.ids, self.config.dataset.image_size)
        self.device = distributed.find_device(device)
        self.network = run.network(network).to(self.device)

    def check_images(self, indices: Sequence[int]) -> None:
        """Raises a ``ValueError`` for numbers that are none of the split's images."""
        for index in indices:
            if not 0 <= index < len(self.ids):
                raise ValueError(
                    f"--images {index}: expected 0 .. {len(self.ids) - 1}, "
                    f"the images of the split of {self.path}"
                )

    def predict(self, index: int) -> PredictedImage:
        """Image ``index`` of the split, labelled."""
        image, truth, _ = self.data[index]
        confidence, prediction = (
            predict_probabilities(self.network, image[None].to(self.device)).cpu().max(1)
        )
        return PredictedImage(
            to_rgb(image.permute(1, 2, 0).numpy()),
            truth.numpy(),
            prediction[0].to(torch.uint8).numpy(),
            confidence[0].numpy(),
        )

    def relation_graph(self) -> tuple[npt.NDArray[np.float32], list[str], int]:
        """Eq. 3 over the truth of the split's images, or of up to 40 evenly spaced ones of more.

        Returns:
            ``(P, P)`` cosines of the P classes that the images hold, their names, and the number
            of images.
        """
        spec = self.reader.spec
        sums, counts = torch.zeros(()), torch.zeros(spec.num_classes)
        indices = range(0, len(self.ids), -(-len(self.ids) // _RELATION_IMAGES))
        for index in indices:
            _, representations, classes = self._features(index)
            of_image = torch.bincount(classes.flatten(), minlength=spec.num_classes + 1)[:-1]
            means = class_means(representations, classes, of_image, joint=False)
            sums, counts = sums + means * of_image[:, None], counts + of_image
        present = counts > 0
        graph = relation_graph(sums[present] / counts[present, None])
        names = zip(spec.class_names, present.tolist(), strict=True)
        return graph.numpy(), [name for name, held in names if held], len(indices)

    def representation_colours(self, index: int) -> Pixels:
        """``(h, w, 3)``: the three main axes of the pixels' unit representations as RGB."""
        _, representations, _ = self._features(index)
        height, width = representations.shape[2:]
        pixels = F.normalize(representations[0].flatten(1).t(), dim=1)
        pixels = pixels - pixels.mean(0)
        _, _, axes = torch.linalg.svd(pixels.t() @ pixels)
        scores = torch.zeros(len(pixels), 3)
        scores[:, : min(3, len(axes))] = pixels @ axes[:3].t()
        low, high = scores.quantile(0.01, dim=0), scores.quantile(0.99, dim=0)
        shares = ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
        colours: Pixels = (255 * shares).round().to(torch.uint8).view(height, width, 3).numpy()
        return colours

    def sample_pixels(self, index: int, *, seed: int = 0) -> SampledPixels:
        """The queries and negative keys that ReCo would take if image ``index`` were its batch."""
        reco = self.config.reco
        logits, representations, classes = self._features(index)
        num_classes = self.reader.spec.num_classes
        hard = label_confidence(logits, classes) <= reco.strong_threshold
        table = sort_pixels(classes.flatten(), hard.flatten(), num_classes, joint=False)
        counts = table.bucket_counts().sum(1)
        graph = relation_graph(class_means(representations, classes, counts, joint=False))
        probabilities = negative_class_probabilities(
            graph,
            counts,
            key_sampling=reco.key_sampling,
            temperature=reco.relation_temperature,
        )
        generator = torch.Generator().manual_seed(seed)
        positions, has_queries = sample_queries(
            table, reco.num_queries, query_sampling=reco.query_sampling, generator=generator
        )
        keys = sample_negatives(table, probabilities, reco.num_negatives, generator=generator)
        takes_part = torch.nonzero(has_queries & (probabilities.sum(1) > 0)).flatten().tolist()
        size, feature_size = self.data[index].image.shape[1:], classes.shape[1:]

        def points(positions: Tensor) -> npt.NDArray[np.float64]:
            rows, _ = table.locate(positions)
            y, x = rows // feature_size[1], rows % feature_size[1]
            scale = (size[1] / feature_size[1], size[0] / feature_size[0])
            return np.stack([(x + 0.5) * scale[0], (y + 0.5) * scale[1]], axis=1)

        return SampledPixels(
            hard=hard[0].numpy(),
            classes=classes[0].numpy(),
            queries={c: points(positions[c]) for c in takes_part},
            negatives={c: points(keys[c]) for c in takes_part},
        )

    @torch.no_grad()
    def _features(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and representations ``(1, ., h, w)``, true classes ``(1, h, w)`` (C: ignored)."""
        if self.network.representation is None:
            raise CheckpointError(
                f"{self.path}: trained without ReCo (reco.enabled=false), so it has no "
                "representations to show"
            )
        image, truth, _ = self.data[index]
        # The mode of the outermost module decides what it returns; its children stay in eval mode.
        self.network.training = True
        outputs = self.network(to_unit(image[None].to(self.device)))
        logits, representations = (output.cpu() for output in outputs)
        self.network.training = False
        labels = F.interpolate(
            truth[None, None].float(), tuple(logits.shape[2:]), mode="nearest-exact"
        )[:, 0].long()
        return (
            logits,
            representations,
            torch.where(labels == IGNORE, self.reader.spec.num_classes, labels),
        )

"""Evaluating the networks of a run while it trains: figures, a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from reco import distributed
from reco.config import Config
from reco.data.datasets.reader import Reader
from reco.data.fingerprint import fingerprint
from reco.data.loading import EvalDataset, eval_loader
from reco.data.reading.images import to_rgb
from reco.inference.evaluate_networks import Evaluation, evaluate, format_evaluations
from reco.panels import PredictedImage, panel
from reco.printing import say
from reco.runs.build_networks import main_network
from reco.runs.folder import RunFolder
from reco.writing import write_whole


class Validation:
    """Evaluates networks on the evaluation split.

    Args:
        reader: the data set.
        config: of the run.
        folder: of the run; pictures go there.
    """

    def __init__(self, reader: Reader, config: Config, folder: RunFolder) -> None:
        dataset, train = config.dataset, config.train
        self.split = dataset.eval_split
        self.num_pictures = train.panel_images
        self.spec, self.folder = reader.spec, folder
        ids = reader.ids(self.split)
        self.data = EvalDataset(reader, ids, dataset.image_size)
        # Figures are compared on the same images alone.
        self.images = fingerprint(reader, ids) if distributed.rank() == 0 else ""
        self.workers = train.workers
        self.table = ""  # IoU by class, of the last evaluation
        self.panel: Path | None = None  # of the last evaluation

    def evaluate(self, networks: Mapping[str, nn.Module], iteration: int) -> dict[str, Evaluation]:
        """Figures of each network; the first rank logs them and writes a panel of the main one.

        Args:
            networks: by name, all on one device.
            iteration: that they have reached.
        """
        device = next(next(iter(networks.values())).parameters()).device
        loader = eval_loader(
            self.data,
            workers=self.workers,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            pin_memory=device.type == "cuda",
        )
        results = evaluate(
            networks,
            loader,
            self.spec.num_classes,
            device=device,
            num_examples=self.num_pictures,
        )
        if distributed.rank() == 0:
            self.table = format_evaluations(results, self.spec.class_names)
            scores = {name: result.confusion.mean_iou() for name, result in results.items()}
            say(
                f"iteration {iteration}: mIoU on {self.split} "
                + ", ".join(f"{name} {100 * score:.2f} %" for name, score in scores.items())
            )
            name = main_network(networks)
            self._write_panel(
                results[name], f"{name}, {self.split}, iteration {iteration}", iteration
            )
        return results

    def _write_panel(self, result: Evaluation, title: str, iteration: int) -> None:
        rows = []
        for index, (prediction, confidence) in sorted(result.examples.items()):
            image, label, _ = self.data[index]
            rows.append(
                PredictedImage(
                    to_rgb(image.permute(1, 2, 0).numpy()),
                    label.numpy(),
                    prediction.numpy(),
                    confidence.numpy(),
                )
            )
        if rows:
            self.panel = self.folder.panel_path(iteration)
            write_whole(self.panel, panel(rows, self.spec, title=title).save)

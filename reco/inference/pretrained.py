"""A trained network in Hugging Face's layout: a folder with ``config.json`` and weights.

``model.safetensors`` holds the state dict, ``config.json`` the metadata of the export, and
``README.md`` the model card. Needs the extra ``hub``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reco.classes import DatasetSpec
from reco.data.reading.images import ImageFormat, as_value_range
from reco.models.network import SegmentationNetwork
from reco.optional_packages import import_extra
from reco.runs.checkpoint import CheckpointError, load_state
from reco.writing import write_binary_whole, write_text_whole

_CONFIG, _WEIGHTS, _CARD = "config.json", "model.safetensors", "README.md"
FILES = (_CONFIG, _WEIGHTS, _CARD)
"""Files of the folder."""


@dataclass(frozen=True)
class Pretrained:
    """A network and its metadata."""

    network: SegmentationNetwork
    spec: DatasetSpec
    image_size: tuple[int, int] | None
    image_format: ImageFormat

    @classmethod
    def read(cls, folder: Path) -> Pretrained:
        """Read what :func:`write_pretrained` wrote; the network is on the CPU and in eval mode.

        Raises:
            CheckpointError: no such folder, or files that do not fit each other.
            ImportError: the extra ``hub`` is missing.
        """
        for name in (_CONFIG, _WEIGHTS):
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"{folder}: no {name} in it, nor last.pt: expected a checkpoint, a run's "
                    "folder, or one that `reco export --format hub` wrote"
                )
        tensors = import_extra("safetensors.torch", "Hugging Face's layout")
        unreadable = import_extra("safetensors", "Hugging Face's layout").SafetensorError
        try:
            metadata = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
            size, channels = metadata["image_size"], metadata["model"].get("in_channels", 3)
            palette = tuple((red, green, blue) for red, green, blue in metadata["palette"])
            spec = DatasetSpec(metadata["name"], tuple(metadata["class_names"]), palette)
            network = SegmentationNetwork(**metadata["model"])
            state = tensors.load_file(folder / _WEIGHTS)
        except (KeyError, TypeError, ValueError, unreadable) as error:
            raise CheckpointError(f"{folder}: not readable: {error!r}") from error
        load_state(network, state, str(folder / _WEIGHTS))
        return cls(
            network.eval(),
            spec,
            None if size is None else (size[0], size[1]),
            ImageFormat(channels, as_value_range(metadata["value_range"])),
        )


def write_pretrained(
    network: SegmentationNetwork, metadata: Mapping[str, Any], card: str, folder: Path
) -> None:
    """Write a network without representation head, its metadata and its card to ``folder``.

    Raises:
        ImportError: the extra ``hub`` is missing.
        WriteError: the disk is full, say.
    """
    tensors = import_extra("safetensors.torch", "Hugging Face's layout")
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    content = tensors.save(state, metadata={"format": "pt"})
    write_binary_whole(folder / _WEIGHTS, lambda file: file.write(content))
    write_text_whole(folder / _CONFIG, json.dumps(metadata, indent=1) + "\n")
    write_text_whole(folder / _CARD, card)

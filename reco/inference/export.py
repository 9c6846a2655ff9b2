"""The deployable network: no representation head, no training code.

Four forms hold the same network: ``torch.export``'s ``.pt2`` and ONNX, which run without this
package, a plain state dict for a network built in code, and a folder in Hugging Face's layout.

Shapes: images (B, I, H, W), any B and any H, W >= 17, RGB where I is 3; logits (B, C, H, W).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reco.data.reading.images import ImageFormat
from reco.inference.model_card import model_card
from reco.inference.predictor import AnyImage, Predictor
from reco.inference.pretrained import Pretrained, write_pretrained
from reco.inference.probabilities import resize_logits
from reco.inference.tracing import traceable
from reco.method.augmentation import to_unit
from reco.models.network import SegmentationNetwork, logits_of
from reco.runs.build_networks import network_arguments
from reco.runs.checkpoint import Network, TrainedRun
from reco.writing import write_binary_whole, write_text_whole, write_whole

Format = Literal["pt2", "onnx", "state_dict", "hub"]
Input = Literal["uint8", "float", "normalised"]

_ENDINGS: dict[Format, str] = {
    "pt2": ".pt2",
    "onnx": ".onnx",
    "state_dict": "-state.pt",
    "hub": "-hub",
}
# The size of the traced example: one that no stride divides, and so large that windowed networks
# have more than one window, since tracing takes a size of 1 for a constant. Tracing costs the same
# at every size.
_EXAMPLE = (2, 1057, 1217)
# Traced networks fail on images whose feature map, a sixteenth of them, is one pixel wide.
_SMALLEST = 17
_RANDOM_IMAGES = ((96, 128), (75, 203))


class Deployable(nn.Module):
    """Images to logits at the size of the images.

    Args:
        network: images in [0, 1] to logits; its representation head is taken off.
        input: what ``images`` are: ``"uint8"`` 0..255, ``"float"`` 0..1, or already
            ``"normalised"`` by the caller.
    """

    def __init__(self, network: SegmentationNetwork, *, input: Input = "uint8") -> None:
        super().__init__()
        if input not in get_args(Input):
            raise ValueError(f"input = {input!r}: expected one of {', '.join(get_args(Input))}")
        network.representation = None
        self.network = network
        self.input = input
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, C, H, W)`` float32 of images ``(B, I, H, W)``."""
        if self.input == "normalised":
            logits = self.network.forward_normalised(images).logits
        else:
            logits = self.network(to_unit(images)).logits
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)

    def convert(self, images: Tensor) -> Tensor:
        """uint8 images as the kind that :meth:`forward` takes."""
        if self.input == "uint8":
            return images
        unit = to_unit(images)
        return unit if self.input == "float" else (unit - self.network.mean) / self.network.std


class Exported(NamedTuple):
    """A written file, and how it compares with the checkpoint."""

    path: Path
    parameters: int
    difference: float  # largest absolute difference of a logit
    agreement: float  # share of pixels with the same label

    def summary(self) -> str:
        """One line of text."""
        return (
            f"{self.path}: {self.parameters / 1e6:.2f} M parameters, logits differ by at most "
            f"{self.difference:.1e}, {100 * self.agreement:.3f} % of pixels have the same label"
        )


def export_checkpoint(
    path: Path,
    output: Path | None = None,
    *,
    formats: Sequence[Format] = ("pt2", "state_dict"),
    network: Network = "auto",
    input: Input = "uint8",
    images: Sequence[AnyImage] = (),
    written: list[Path] | None = None,
) -> list[Exported]:
    """Write a checkpoint's network in deployable forms and compare each with the checkpoint.

    Files are called as the checkpoint, with the endings ``.pt2``, ``.onnx`` and ``-state.pt``; the
    folder of ``hub`` ends in ``-hub``. A model card ``-card.md`` lies beside them.
    Classes, palette and expected input are in the file: ``metadata.json``
    among the extra files of the ``.pt2``, the metadata of the ONNX model, ``-state.json`` beside
    the state dict.

    Args:
        path: the checkpoint, or a run's folder for its ``last.pt``.
        output: folder of the files; beside the checkpoint by default.
        formats: which to write. ``onnx`` and ``hub`` need the extras of these names.
        network: as :func:`reco.load` takes it.
        input: what the exported network takes; see :class:`Deployable`. A state dict is of the
            bare network, which always takes floats in 0..1 and normalises them itself.
        images: to compare on; random ones by default. They are brought to the size at which the
            run was evaluated.
        written: a list that the paths of the files, and of the folder of ``hub``, are appended to.

    Raises:
        CheckpointError: not a checkpoint, or without the network asked for.
        ImportError: an extra is missing.
        ValueError: an unknown format or input, or an image that cannot be read.
    """
    for name in formats:
        if name not in get_args(Format):
            raise ValueError(f"format {name!r}: expected one of {', '.join(get_args(Format))}")
    if "onnx" in formats:
        _require_onnx()
    run = TrainedRun.read(path)
    path = run.path
    trained = run.network(network)
    samples = _samples(run, trained, images)
    # Of the whole checkpoint, by the code that evaluates.
    expected = [_reference(trained, sample) for sample in samples]
    deployable = Deployable(trained, input=input)
    folder = path.parent if output is None else output
    targets = {name: folder / f"{path.stem}{_ENDINGS[name]}" for name in formats}
    metadata = _metadata(run, trained, input)
    bare = _of_bare_network(metadata, trained)
    card = partial(model_card, run, run.which(network))
    runs = _write(deployable, targets, metadata, bare, card)
    card_path = folder / f"{path.stem}-card.md"
    whole = "pt2" in targets or "onnx" in targets
    write_text_whole(card_path, card(metadata if whole else bare))
    if written is not None:
        described = [_description(targets["state_dict"])] if "state_dict" in targets else []
        written += [*targets.values(), *described, card_path]
    parameters = sum(p.numel() for p in deployable.parameters())
    results = []
    for name in formats:
        found = [runs[name](deployable.convert(sample)) for sample in samples]
        results.append(Exported(targets[name], parameters, *_compare(found, expected)))
    return results


def _samples(
    run: TrainedRun, network: SegmentationNetwork, images: Sequence[AnyImage]
) -> list[Tensor]:
    """Images to compare on, as the run was evaluated on them: ``(1, I, H, W)`` uint8 each.

    Raises:
        ValueError: an image that cannot be read, or too small a one.
    """
    dataset = run.config.dataset
    format = ImageFormat.from_config(dataset)
    predictor = Predictor(network, run.spec, image_size=dataset.image_size, image_format=format)
    samples = [
        predictor.to_input(image)[None] for image in (images or _random_images(format.channels))
    ]
    for number, sample in enumerate(samples):
        if min(sample.shape[2:]) < _SMALLEST:
            raise ValueError(
                f"image {number + 1} to compare on is {sample.shape[3]} x {sample.shape[2]} "
                f"pixels: expected at least {_SMALLEST} x {_SMALLEST}"
            )
    return samples


def _metadata(run: TrainedRun, network: SegmentationNetwork, input: Input) -> dict[str, Any]:
    """Classes, palette, input and output of a file."""
    dataset, spec = run.config.dataset, run.spec
    return {
        "name": spec.name,
        "class_names": list(spec.class_names),
        "palette": [list(colour) for colour in spec.palette],
        "input": _describe(input, dataset.channels),
        "output": "float32 logits (batch, classes, height, width) at the input's size",
        "image_size": dataset.image_size,
        # Values that became 0 and 255 in files of more than 8 bits.
        "value_range": dataset.value_range,
        "mean": _numbers(network.mean),
        "std": _numbers(network.std),
        # Arguments of reco.models.network.SegmentationNetwork, which takes the state dict.
        "model": {
            **network_arguments(run.config, spec.num_classes),
            "weights": "none",
            "representation_dim": None,
        },
        "iteration": run.iteration,
    }


def _write(
    deployable: Deployable,
    targets: Mapping[Format, Path],
    metadata: dict[str, Any],
    bare: dict[str, Any],
    card: Callable[[dict[str, Any]], str],
) -> dict[Format, Callable[[Tensor], Tensor]]:
    """Write the files, read them again, and return what runs each."""
    runs: dict[Format, Callable[[Tensor], Tensor]] = {}
    if "pt2" in targets or "onnx" in targets:
        program = trace(deployable)
        if "pt2" in targets:
            runs["pt2"] = _write_pt2(program, targets["pt2"], metadata)
        if "onnx" in targets:
            runs["onnx"] = _write_onnx(program, targets["onnx"], metadata)
    if "state_dict" in targets:
        runs["state_dict"] = _write_state(deployable, targets["state_dict"], bare)
    if "hub" in targets:
        runs["hub"] = _write_hub(deployable, targets["hub"], bare, card(bare))
    return runs


def _compare(found: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, float]:
    """Largest difference of a logit, and share of pixels with the same label."""
    pairs = list(zip(found, expected, strict=True))
    difference = max(float((logits - other).abs().max()) for logits, other in pairs)
    same = torch.cat([(logits.argmax(1) == other.argmax(1)).flatten() for logits, other in pairs])
    return difference, same.double().mean().item()


def _describe(input: Input, channels: int) -> str:
    kind = {"uint8": "uint8 0..255", "float": "float32 0..1", "normalised": "float32 normalised"}
    colours = "RGB " if channels == 3 else ""
    return (
        f"{kind[input]} {colours}(batch, {channels}, height, width), "
        f"height and width >= {_SMALLEST}"
    )


def _numbers(values: Tensor) -> list[float]:
    """Numbers as in the configuration: float32 has seven digits."""
    return [round(value, 6) for value in values.flatten().tolist()]


def _random_images(channels: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    generator = np.random.default_rng(0)
    return [
        generator.integers(0, 256, (*size, channels), dtype=np.uint8) for size in _RANDOM_IMAGES
    ]


@torch.no_grad()
def _reference(network: nn.Module, images: Tensor) -> Tensor:
    return resize_logits(logits_of(network(to_unit(images))), images.shape[2:])


def trace(deployable: Deployable) -> torch.export.ExportedProgram:
    """A program for any number of images of any size from 17 x 17 on."""
    batch, *size = _EXAMPLE
    zeros = torch.zeros(batch, len(deployable.network.mean), *size, dtype=torch.uint8)
    images = deployable.convert(zeros)
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    with torch.no_grad(), traceable():
        return torch.export.export(deployable, (images,), dynamic_shapes=(dynamic,))


def _write_pt2(
    program: torch.export.ExportedProgram, path: Path, metadata: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    extra_files = {"metadata.json": json.dumps(metadata)}
    write_binary_whole(path, lambda file: torch.export.save(program, file, extra_files=extra_files))
    run: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return torch.no_grad()(run)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"ONNX needs {error.name}: pip install onnx onnxscript onnxruntime", name=error.name
        ) from error


def _write_onnx(
    program: torch.export.ExportedProgram, path: Path, metadata: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    import onnx
    import onnxruntime

    exported = torch.onnx.export(
        program, dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
    )
    assert exported is not None
    model = exported.model_proto
    _name_axes(model.graph)
    onnx.helper.set_model_props(model, {k: json.dumps(v) for k, v in metadata.items()})
    onnx.checker.check_model(model)
    write_whole(path, lambda to: onnx.save(model, to))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return run


def _name_axes(graph: Any) -> None:
    """Name the free axes of input and output, which are called ``s34`` and the like."""
    for value in (*graph.input, *graph.output):
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name


def _write_state(
    deployable: Deployable, path: Path, metadata: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    write_binary_whole(path, lambda file: torch.save(deployable.network.state_dict(), file))
    write_text_whole(_description(path), json.dumps(metadata, indent=1) + "\n")
    again = SegmentationNetwork(**metadata["model"])
    again.load_state_dict(torch.load(path, weights_only=True))
    rebuilt = Deployable(again, input=deployable.input)
    return torch.no_grad()(rebuilt)


def _description(state: Path) -> Path:
    """The file that says of which network a state dict is."""
    return state.with_suffix(".json")


def _write_hub(
    deployable: Deployable, folder: Path, metadata: dict[str, Any], card: str
) -> Callable[[Tensor], Tensor]:
    write_pretrained(deployable.network, metadata, card, folder)
    rebuilt = Deployable(Pretrained.read(folder).network, input=deployable.input)
    return torch.no_grad()(rebuilt)


def _of_bare_network(metadata: dict[str, Any], network: SegmentationNetwork) -> dict[str, Any]:
    """Metadata of the network alone: floats in 0..1 and its own size, whatever the export has."""
    size = f"about {1 / network.stride} of the input's height and width"
    return {
        **metadata,
        "input": _describe("float", len(network.mean)),
        "output": f"float32 logits (batch, classes, height, width) at {size}",
    }

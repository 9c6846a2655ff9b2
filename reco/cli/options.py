"""Options that several commands share, and what is made of them."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reco.paths import user_path

if TYPE_CHECKING:
    from reco.inference.probabilities import InferenceMode

Work = Callable[[Namespace], int]
"""What a command does with its parsed options; the exit code."""


class PathParser(ArgumentParser):
    """Fills in ``~`` and ``$VARIABLES`` in every option of ``type=Path``; so do its sub-parsers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register("type", Path, _path)


def _path(text: str) -> Path:
    try:
        return user_path(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}: expected {error}") from error


def add_overrides(parser: ArgumentParser) -> None:
    """``--set``, as ``overrides``."""
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change keys of the configuration, e.g. train.seed=1 dataset.root=/data/camvid",
    )


def add_checkpoint(parser: ArgumentParser) -> None:
    """``--checkpoint``, one of them."""
    parser.add_argument(
        "--checkpoint", required=True, type=Path, help="last.pt or best.pt of a run, or its folder"
    )


def add_network(parser: ArgumentParser) -> None:
    """``--network``: which of a checkpoint's networks."""
    parser.add_argument(
        "--network",
        choices=["auto", "student", "teacher"],
        default="auto",
        help="auto: the teacher, or the student of a supervised run",
    )


def add_mode(parser: ArgumentParser) -> None:
    """What :func:`inference_mode` reads: windows, scales and flip."""
    add = parser.add_argument
    add("--window", nargs=2, type=int, metavar=("H", "W"), help="slide a window of this size")
    add("--overlap", type=float, help="share of the window (default 0.5)")
    add("--blend", choices=["hann", "uniform"], help="of windows (default hann)")
    add("--scales", nargs="+", type=float, default=[1.0], help="average over these scales")
    add("--flip", action="store_true", help="average with the mirror image")


def print_written(paths: Sequence[Path]) -> None:
    """One line with the files that a command wrote, unless there are none."""
    if paths:
        print(f"written: {', '.join(map(str, paths))}")


def inference_mode(arguments: Namespace) -> InferenceMode:
    """From the options of :func:`add_mode`."""
    from reco.inference.probabilities import InferenceMode

    windows = {"overlap": arguments.overlap, "blend": arguments.blend}
    windows = {name: value for name, value in windows.items() if value is not None}
    if windows and not arguments.window:
        raise ValueError(f"--{next(iter(windows))} is for sliding windows: expected --window too")
    return InferenceMode(
        window=tuple(arguments.window) if arguments.window else None,
        scales=tuple(arguments.scales),
        flip=arguments.flip,
        **windows,
    )


def add_device(parser: ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def add_images(parser: ArgumentParser) -> None:
    """``--images``, by their numbers."""
    parser.add_argument(
        "--images", nargs="+", type=int, default=[0, 1, 2], help="numbers in the split"
    )

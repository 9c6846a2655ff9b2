"""Experiment configuration: frozen dataclasses, read from YAML files and ``key=value`` overrides.

A file may name others with ``base:`` and then only states what differs. Every mistake is one
:class:`ConfigError` that names the file (or ``--set``), the key, the value and what was expected.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from reco.fields import (
    Count,
    NotNegative,
    Positive,
    Probability,
    WholeNumber,
    advice,
    check,
    field_types,
    holds_nothing,
    is_text,
    nearest,
    needs_quotes,
    read_value,
    takes_text,
)
from reco.loss import ReCoOptions
from reco.paths import read_text, user_path

_PACKAGE = Path(__file__).resolve().parent.parent
# In a wheel the configurations lie inside the package, in a checkout beside it.
CONFIG_FOLDER = next(
    (folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()),
    Path("configs"),
)


# Removed keys: the default, which older files may still have, and the remedy for other values.
_REMOVED = {
    "reco.true_labels": (False, "it served one study (docs/earlier_results.md), at commit 99f6276"),
}

# Prefix of a value that the user has to set; the rest says what is expected.
_REQUIRED = "???"

FOLDER_KEYS = (
    *("class_names", "label_map", "ignore_values", "classes", "ignore", "jpeg_masks"),
    *("images", "masks", "unlabelled", "validation", "test"),
    *("channels", "value_range", "turn_masks"),
)
"""Keys of ``folder`` data sets alone."""
# Files that exist before a run: relative paths are relative to the YAML file that names them.
_LISTS = ("labelled_ids", "unlabelled_ids", "images", "unlabelled", "validation", "test")
_PATHS = {"dataset": ("root", *_LISTS), "model": ("weights",)}

# Keys that take colours, which need quotes in YAML.
_COLOUR_KEYS = ("dataset.classes", "dataset.ignore")
_HEX_COLOUR = re.compile(r"(?:0x)?([0-9a-f]{6})", re.IGNORECASE)
# In a line of text: one of these keys, or a colour as a value of it or of a class.
_COLOUR_IN_TEXT = re.compile(
    r"\b(?P<key>classes|ignore)\s*[:=]|(?<=[:=,[{-])\s*(?P<colour>#(?:[0-9a-f]{6}|[0-9a-f]{3})\b)",
    re.IGNORECASE,
)

NOT_THE_EXPERIMENT = frozenset(
    {
        "dataset.cache",
        "dataset.root",
        "dataset.skip_unreadable",  # where it would change a run, the run without it fails
        "output_dir",
        "train.checkpoint_every",
        "train.deterministic",
        "train.device",
        "train.log_every",
        "train.panel_images",
        "train.validate_every",
        "train.workers",
    }
)
"""Keys that change no number of a run (a device, its rounding alone): where data and run are kept,
what it runs on, how often it logs and saves.

The hash of a run, ``--resume``, evaluations and studies leave them out. The seed is part of the
experiment to all but the hash.
"""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, key, value and remedy."""


PathText = Annotated[str, lambda text: str(user_path(text))]
"""Text that is a path: ``~`` and ``$VARIABLES`` in it are filled in when it is read."""

Share = Annotated[float, check(lambda share: 0 < share <= 1, "a share in (0, 1]")]
Size = Annotated[tuple[int, int], check(lambda size: min(size) >= 1, "a positive height and width")]
CropSize = Annotated[
    tuple[int, int], check(lambda size: min(size) >= 16, "a height and width of at least 16")
]
Scales = Annotated[
    tuple[float, float], check(lambda scales: 0 < scales[0] <= scales[1], "0 < smallest <= largest")
]
ClassWeights = Annotated[
    tuple[float, ...],
    check(lambda weights: bool(weights) and min(weights) > 0, "a number > 0 for each class"),
]
ValueRange = Annotated[
    tuple[float, float],
    check(lambda pair: pair[0] < pair[1], "the lowest value before the highest, such as [0, 4095]"),
]
AreaRange = Annotated[
    tuple[float, float],
    check(lambda areas: 0 < areas[0] <= areas[1] < 1, "0 < smallest <= largest < 1"),
]
Jitter = Annotated[
    tuple[float, float, float, float],
    check(
        lambda shares: min(shares) >= 0 and max(shares) <= 1 and shares[3] <= 0.5,
        "four shares in [0, 1], the last (hue) at most 0.5",
    ),
]
Decay = Annotated[float, check(lambda decay: 0 <= decay < 1, "a number in [0, 1)")]
Momentum = Annotated[float, check(lambda momentum: 0 < momentum < 1, "a number in (0, 1)")]


@dataclass(frozen=True)
class DatasetConfig:
    """Which images, which of them are labelled, and how large they are."""

    # Synthetic scenes, a public data set, or a folder.
    name: Literal["synthetic", "camvid", "cityscapes", "pascal", "sun", "folder"]
    root: PathText | None = None  # where the images are; synthetic scenes need none
    labelled_images: Count | Literal["all"] = "all"  # training images that keep their labels
    min_classes_per_image: Count = 1  # a labelled image holds so many at least, where any does
    labelled_ids: PathText | None = None  # list of the labelled images; null: a random choice
    unlabelled_ids: PathText | None = None  # list of the unlabelled images, in place of all others
    # All images are labelled, but only in one pixel of each class, or in a share of its pixels.
    partial_labels: Literal["pixel"] | Share | None = None
    split_seed: int = 0  # seed of the choice of labelled images or pixels
    image_size: Size | None = None  # (height, width) all images are resized to; null: none
    crop_size: CropSize = (321, 321)  # (height, width) that the network is trained on
    scale_range: Scales = (1.0, 1.0)  # smallest and largest random scale before a crop
    eval_split: str = "val"  # what validation and `reco eval` measure on
    extra_images: bool = True  # use images beside the training split, as unlabelled ones
    skip_unreadable: bool = False  # train without unlabelled images that cannot be read
    # Keep training images in memory once they are read, in each process that reads: for small sets.
    cache: bool = False

    # From here on: of `folder` data sets alone.

    class_names: tuple[str, ...] | None = None  # in the order of the values 0, 1, 2 … in the masks
    label_map: dict[int, int] | None = None  # value -> class index; `classes` also takes colours
    ignore_values: tuple[int, ...] = ()  # values that mean unknown; `ignore` takes colours too
    # For each name, in the order of the network's outputs: value(s) or colour(s) in the masks.
    classes: dict[str, int | str | tuple[int | str, ...]] | None = None
    ignore: int | str | tuple[int | str, ...] = ()  # value(s) or colour(s) that mean unknown
    jpeg_masks: bool = False  # masks that went through JPEG, whatever format they have now
    images: PathText | None = None  # images with masks: pattern, folder or list
    masks: PathText | None = None  # their masks: pattern or folder
    unlabelled: PathText | None = None  # images without masks: pattern, folder or list
    validation: Share | PathText | None = None  # a share of the images, or which: pattern or list
    test: PathText | None = None  # images of the test split: pattern or list
    channels: Count = 3  # colours or bands of an image
    # Values that are black and white in files of more than 8 bits, of all channels or of each.
    value_range: ValueRange | tuple[ValueRange, ...] | None = None
    turn_masks: bool = False  # photos are turned by EXIF, and their masks are not yet


@dataclass(frozen=True)
class ModelConfig:
    """The network; see :class:`reco.models.network.SegmentationNetwork`."""

    # The encoder: torchvision's resnet18, resnet50, resnet101, mobilenet_v3_large; or timm/<name>.
    backbone: str = "resnet101"
    weights: PathText = "imagenet"  # the encoder's: imagenet, none, or a file with a state dict
    decoder: Literal["auto", "deeplabv3plus", "dpt"] = "auto"  # auto: what the encoder needs
    output_stride: Literal[8, 16, 32] = 16  # height of the image over that of its last feature map
    representation_dim: Count = 256  # numbers for each pixel in ReCo's head
    channels: Count = 256  # width of decoder and heads
    # Mean and deviation that images are brought to: those that the backbone's weights were trained
    # with, or ImageNet's, for files of weights that need these.
    normalisation: Literal["backbone", "imagenet"] = "backbone"
    freeze: bool = False  # do not train the encoder, which then needs no memory for gradients
    drop_path: Decay | None = None  # rate of stochastic depth in timm's encoders; null: timm's own


@dataclass(frozen=True)
class MethodConfig:
    """Mean Teacher and mixing; ``unsupervised: false`` trains on labelled images alone."""

    # How unlabelled images are mixed.
    mix: Literal["classmix", "cutmix", "cutout", "none"] = "classmix"
    cutmix_probability: Probability = 1.0  # probability that an image gets a box
    cutmix_area: AreaRange = (0.5, 0.5)  # smallest and largest box, in shares of the image's area
    # Smallest and largest height : width of a box; null: all that fit.
    cutmix_aspect: Scales | None = None
    strong_views: Literal[1, 2] = 1  # augmented copies of an unlabelled image for the student
    feature_dropout: bool = False  # each view lacks the channels of features that the other has
    jitter: Jitter = (
        0.25,
        0.25,
        0.25,
        0.25,
    )  # most change of brightness, contrast, saturation, hue
    grey_probability: Probability = 0.0  # probability that a view loses its colours
    blur_sigma: Scales = (0.15, 1.15)  # smallest and largest σ of a view's blur, in pixels
    unsupervised: bool = True  # learn from unlabelled images; false: from labels alone
    # Weigh each image by η (share), or take confident pixels alone (threshold).
    unsupervised_loss: Literal["share", "threshold"] = "share"
    unsupervised_threshold: Probability = 0.97  # confidence that a confident pixel has
    teacher_decay: Decay = 0.99  # largest decay of the moving average that makes the teacher
    teacher_mode: Literal["train", "eval"] = "train"  # mode of its batch norm when it pseudo-labels
    # Its running statistics in mode eval: the student's, or their moving average.
    teacher_buffers: Literal["copied", "averaged"] = "copied"


@dataclass(frozen=True)
class ReCoConfig(ReCoOptions):
    """The options of the loss, and what part it has in training."""

    enabled: bool = True  # train with the ReCo loss; false: no second head either
    # The second head's loss: Eq. 1, or as a control a cross-entropy on the same queries.
    loss: Literal["contrast", "cross_entropy"] = "contrast"
    weight: NotNegative = 1.0  # factor on the ReCo loss in the sum of losses
    weak_threshold: Probability = 0.7  # confidence above which an unlabelled pixel takes part
    # Take keys from all pixels that take part, or from labelled ones that the student gets right.
    keys_from: Literal["all", "right_labels"] = "all"


@dataclass(frozen=True)
class TrainConfig:
    """Length, batch, optimiser and housekeeping of one run. Batch sizes are over all ranks."""

    iterations: Count = 40_000  # steps of the optimiser
    labelled_batch_size: Count = 2  # labelled images in a step, over all GPUs
    unlabelled_batch_size: WholeNumber = 2  # unlabelled images in a step, over all GPUs
    accumulation_steps: Count = 1  # parts that a batch is cut into, to save memory
    optimizer: Literal["sgd", "adamw"] = "sgd"  # SGD has Nesterov momentum
    learning_rate: Positive = 2.5e-3  # at the start; falls to 1e-6 as (1 - t / iterations) ** 0.9
    encoder_learning_rate_factor: Positive = 1.0  # the encoder's learning rate over the others'
    weight_decay: NotNegative = 5e-4  # weight decay of all parameters
    momentum: Momentum = 0.9  # of SGD
    # Weights of the classes in both cross-entropies; balanced: the rarer, the more.
    class_weights: Literal["balanced"] | ClassWeights | None = None
    # Arithmetic of the network; auto: bf16 on a GPU that has it, else fp32.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"  # `cpu`, `cuda` or `cuda:N`; auto: a GPU where there is one
    compile: bool = False  # run the network through torch.compile
    deterministic: bool = False  # on CUDA the same bits every time, by slower kernels
    sync_batchnorm: bool = False  # batch statistics over all ranks; needs CUDA
    seed: int = 0  # seed of new weights, order of images and augmentation
    # Processes of each loader that read images; auto: a quarter of the cores, 1 to 8.
    workers: WholeNumber | Literal["auto"] = "auto"
    log_every: Count = 20  # steps between two lines of metrics.jsonl
    validate_every: Count = 1000  # steps between two validations
    # Training batches whose mean batch norm's running statistics are in validations and their
    # checkpoints; 0: exponential averages over the last ten or so.
    statistics_batches: WholeNumber = 0
    checkpoint_every: Count = 1000  # steps between two checkpoints
    panel_images: WholeNumber = 4  # images in the panel of each validation


@dataclass(frozen=True)
class Config:
    """One experiment, whole."""

    dataset: DatasetConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    reco: ReCoConfig = field(default_factory=ReCoConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    output_dir: PathText = "runs"  # folder of all runs

    @property
    def labelled_batch_size(self) -> int:
        """Labelled images a step, over all ranks.

        The supervised baseline has no unlabelled images and takes as many labelled ones in their
        place, so that all methods see batches of one size.
        """
        if self.method.unsupervised:
            return self.train.labelled_batch_size
        return self.train.labelled_batch_size + self.train.unlabelled_batch_size

    @property
    def images_per_step(self) -> int:
        """Labelled and unlabelled images a step, over all ranks."""
        return self.train.labelled_batch_size + self.train.unlabelled_batch_size

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict of lists, numbers and strings, as YAML and checkpoints hold it."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    def overrides_over(self, other: Config) -> list[str]:
        """``key=value`` strings that turn ``other`` into this configuration."""
        before = other.flat()
        return [
            f"{key}={value if isinstance(value, str) else _flow(value)}"
            for key, value in self.flat().items()
            if value != before[key]
        ]

    def flat(self) -> dict[str, Any]:
        """:meth:`to_dict` by dotted keys such as ``train.seed``."""
        return {
            f"{section}.{key}" if key else section: value
            for section, content in self.to_dict().items()
            for key, value in (content if isinstance(content, dict) else {"": content}).items()
        }

    def experiment(self) -> dict[str, Any]:
        """What the numbers of a run depend on, by dotted key: all but ``NOT_THE_EXPERIMENT``."""
        return {key: value for key, value in self.flat().items() if key not in NOT_THE_EXPERIMENT}

    def differences(self, other: Config) -> dict[str, tuple[Any, Any]]:
        """Keys of the experiment whose values differ: ``{key: (here, in other)}``."""
        here, there = self.experiment(), other.experiment()
        return {key: (here[key], there[key]) for key in here if here[key] != there[key]}

    def hash(self) -> str:
        """Eight hex digits of the experiment without its seed."""
        content = self.experiment()
        del content["train.seed"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    def to_yaml(self) -> str:
        """Text of a YAML file that loads to this configuration without a base."""
        text: str = yaml.safe_dump(self.to_dict(), sort_keys=False)
        return text


def load_config(
    files: str | Path | Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    changes: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> Config:
    """Read configuration files, their bases, and ``key=value`` overrides on top.

    Args:
        files: One or several, the later ones over the earlier ones: paths, or names of files in the
            project's ``configs/``.
        overrides: Strings such as ``"train.seed=1"``; values are read as YAML.
        changes: Laid over the files before the overrides, one after another: where each comes from,
            for errors, and its keys, with dots or section by section. A key ``base`` names files
            that lie below the other keys of the change.

    Raises:
        ConfigError: unknown key, wrong type, value out of range, or combination that cannot work.
    """
    config, _ = _load(files, overrides, changes)
    return config


def explain_config(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> str:
    """The resolved configuration as YAML; behind each value, where it came from.

    Arguments and errors as for :func:`load_config`.
    """
    config, origins = _load(files, overrides, ())
    lines: list[tuple[str, str]] = []
    for section, content in config.to_dict().items():
        keys = content if isinstance(content, dict) else {"": content}
        if keys is content:
            lines.append((f"{section}:", ""))
        for key, value in keys.items():
            name = f"{section}.{key}" if key else section
            text = f"{'  ' if key else ''}{key or section}: {_flow(value)}"
            origin = origins.get(name, "default")
            if name == "dataset.class_names" and config.dataset.classes:
                origin += ": the names in dataset.classes"
            lines.append((text, f"# {origin}"))
    width = max(len(text) for text, _ in lines if len(text) < 60)
    return "\n".join(f"{text:<{width}}  {origin}".rstrip() for text, origin in lines)


def config_name(files: Sequence[str | Path]) -> str:
    """Folder name of the runs of these files: their names without ending, joined by ``+``."""
    return "+".join(Path(file).stem for file in files)


def _load(
    files: str | Path | Sequence[str | Path],
    overrides: Sequence[str],
    changes: Sequence[tuple[str, Mapping[str, Any]]],
) -> tuple[Config, dict[str, str]]:
    """A configuration, and where each key that is not a default came from."""
    files = [files] if isinstance(files, str | Path) else list(files)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for file in files:
        for source, content in _read_chain(find_config(file)):
            _merge(values, origins, content, source)
    for source, keys in changes:
        for base in _bases(keys.get("base"), source):
            for file, content in _read_chain(find_config(base)):
                _merge(values, origins, content, file)
        for key, value in keys.items():
            if key != "base":
                _set_value(values, origins, str(key), value, source)
    _override(values, origins, overrides)
    default_origin = ", ".join(map(str, files))
    config = _build_config(values, origins, default_origin=default_origin)
    _require(_contradictions(config), config, origins, default_origin)
    return config, origins


def config_from_dict(
    values: Mapping[str, Any], source: str, overrides: Sequence[str] = ()
) -> Config:
    """Configuration from :meth:`Config.to_dict`, with ``key=value`` overrides on top.

    ``source`` names where it came from in errors. That of a run from before contradicting keys were
    refused is read as that run was.
    """
    copied, origins = copy.deepcopy(dict(values)), dict[str, str]()
    _override(copied, origins, overrides)
    return _build_config(copied, origins, default_origin=source)


def check_option(option: str, value: object, key: str, overrides: Sequence[str]) -> None:
    """Refuse an option of a command that contradicts the value of a key in ``--set``.

    Args:
        option: its name, for the error.
        value: of the option; ``None`` where it was not given.
        key: of a section's field, such as ``dataset.root``.
        overrides: the strings of ``--set``.

    Raises:
        ConfigError: both were given and differ.
    """
    values: dict[str, Any] = {}
    _override(values, {}, overrides)
    section, _, name = key.partition(".")
    given = values.get(section)
    if value is None or not isinstance(given, Mapping) or name not in given:
        return
    if str(given[name]) != str(value):
        raise ConfigError(f"{option} {value} and --set {key}={given[name]}: expected one of them")


def find_config(path: str | Path) -> Path:
    """Path of a configuration: as given, or looked up by name in the project's ``configs/``."""
    try:
        path = user_path(path)
    except ValueError as error:
        raise ConfigError(f"{str(path)!r}: expected {error}") from error
    for candidate in (path, CONFIG_FOLDER / path):
        if candidate.is_file():
            return candidate
    names = sorted(p.relative_to(CONFIG_FOLDER).as_posix() for p in CONFIG_FOLDER.rglob("*.yaml"))
    raise ConfigError(
        f"{str(path)!r}: no such file, neither as a path nor in {CONFIG_FOLDER}"
        f"{nearest(str(path), names)}. There: {', '.join(names) or 'nothing'}"
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file; none of an empty one.

    Raises:
        ConfigError: not YAML, not ``key: value`` lines, or a key that is there twice.
    """
    try:
        text = read_text(path)
        loader = _Loader(text)
        node = loader.get_single_node()
        content = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        if commented := _commented_colour(text):
            raise ConfigError(f"{path}: {commented}") from error
        mark = getattr(error, "problem_mark", None)
        line = text.splitlines()[mark.line :][:1] if mark else []
        unquoted = any(re.search(r":\s+[*{][\w.}/]", text) for text in line)
        hint = '; a pattern needs quotes: "{stem}.jpg", "*.jpg"' if unquoted else ""
        raise ConfigError(f"{path}: not a YAML file: {error}{hint}") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for key in _COLOUR_KEYS:
        _refuse_unquoted_colours(_below(node, key.split(".")), f"{path}: {key}")
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, got {content!r}")
    return content


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys, of which YAML takes the last silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                message = f"the key {key!r} is there twice"
                raise yaml.constructor.ConstructorError(
                    problem=message, problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)


def _commented_colour(text: str) -> str:
    """What to do about a colour that YAML takes for a comment, and where it is; empty if none is.

    Args:
        text: of a file that is not YAML: where the rest of a line is a comment, a bracket is open.
    """
    key, lines = None, text.splitlines()
    for number, line in enumerate(lines, 1):
        for found in _COLOUR_IN_TEXT.finditer(line):
            if found["key"]:
                key = found["key"]
            elif key:
                line_number = f" in line {number}" if len(lines) > 1 else ""
                return f"dataset.{key}{line_number}: {needs_quotes(found['colour'])}"
    return ""


def _below(node: yaml.Node | None, keys: Sequence[str]) -> yaml.Node | None:
    """The node that ``keys`` lead to."""
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for name, value in pairs if name.value == key), None)
    return node


def _refuse_unquoted_colours(node: yaml.Node | None, where: str) -> None:
    """Raise for six hex digits without quotes, such as 0x804080: YAML takes most for numbers."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            _refuse_unquoted_colours(value, f"{where}: {name.value}")
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_unquoted_colours(item, where)
    elif (
        isinstance(node, yaml.ScalarNode)
        and node.style is None  # no quotes
        and (found := _HEX_COLOUR.fullmatch(node.value))
    ):
        raise ConfigError(f'{where} = {node.value}: a colour needs quotes and #: "#{found[1]}"')


def _flow(value: Any) -> str:
    """A value as one line of YAML, in its own order: that of classes counts."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _override(values: dict[str, Any], origins: dict[str, str], overrides: Sequence[str]) -> None:
    """Lay ``key=value`` strings over ``values``."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {override!r}: expected key=value, e.g. train.seed=1")
        try:
            value = _read_value(text, _hint(key))
            if key in _COLOUR_KEYS and not isinstance(value, str):
                _refuse_unquoted_colours(yaml.compose(text, yaml.SafeLoader), f"--set: {key}")
        except yaml.YAMLError as error:
            if key in _COLOUR_KEYS and (commented := _commented_colour(override)):
                raise ConfigError(f"--set {override!r}: {commented}") from error
            raise ConfigError(f"--set {override!r}: the value is not YAML: {error}") from error
        _set_value(values, origins, key, value, "--set")


def _hint(key: str) -> Any:
    """The type of a key such as ``train.seed``; ``None`` of one that is not there."""
    hint: Any = Config
    for part in key.split("."):
        section = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        fields = field_types(hint) if section else {}
        if part not in fields:
            return None
        hint = fields[part]
    return hint


def _read_value(text: str, hint: Any) -> Any:
    """What stands behind ``key=``: YAML, but text as it is where the key takes text.

    There, too, quotes are left out and ``null`` is null. Where the key takes other things as well,
    text is what YAML takes for text or for nothing but a comment, or cannot read.
    """
    text = text.strip()
    if not takes_text(hint) or text[:1] in ("'", '"') or text.lower() in ("", "null"):
        return yaml.safe_load(text)
    if is_text(hint):
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if value is None or isinstance(value, str) else value


def _set_value(
    values: dict[str, Any], origins: dict[str, str], key: str, value: Any, source: str
) -> None:
    """Lay one value over ``values``; ``key`` may lead through sections with dots."""
    for part in reversed(key.split(".")):
        value = {part: value}
    _merge(values, origins, value, source)


def _read_chain(path: Path, below: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """``(file, content)`` of a configuration and its bases, in the order in which they are laid.

    Args:
        path: of the configuration.
        below: the files that it is a base of.
    """
    if path.resolve() in below:
        raise ConfigError(f"{path}: base: the chain of bases comes back to this file")
    content = read_yaml(path)
    chain: list[tuple[str, dict[str, Any]]] = []
    for base in _bases(content.pop("base", None), str(path)):
        try:
            beside = path.parent / user_path(base)
            found = beside if beside.is_file() else find_config(base)
        except ValueError as error:
            raise ConfigError(f"{path}: base = {base!r}: {error}") from error
        chain += _read_chain(found, (*below, path.resolve()))
    _rebase_paths(content, path.parent)
    return [*chain, (str(path), content)]


def _rebase_paths(content: dict[str, Any], folder: Path) -> None:
    """Make relative paths to something in ``folder`` absolute.

    The others stay relative to the current folder, such as ``root: data/camvid`` in ``configs/``.
    """
    for section, keys in _PATHS.items():
        values = content.get(section)
        if not isinstance(values, dict):
            continue
        for key in keys:
            if not isinstance(values.get(key), str):
                continue
            with contextlib.suppress(ValueError):  # reported when the value is read
                path = folder / user_path(values[key])
                if path.is_dir() if key == "root" else path.is_file():
                    values[key] = str(path)


def _bases(value: Any, source: str) -> list[str]:
    """The files that a key ``base`` names."""
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{source}: base = {value!r}: expected the name of a YAML file, or a list of names"
        )
    return names


def _merge(
    values: dict[str, Any], origins: dict[str, str], new: Any, source: str, prefix: str = ""
) -> None:
    """Lay ``new`` over ``values`` section by section, noting which source each key came from."""
    given = {key for key in ("classes", "class_names") if new.get(key) is not None}
    if prefix == "dataset." and len(given) == 1:
        # Alternative keys: the later one counts.
        for key in ("class_names", "label_map") if "classes" in given else ("classes",):
            values.pop(key, None)
            origins.pop(f"{prefix}{key}", None)
        origins["dataset.class_names"] = source  # they are the names in `classes`
    for key, value in new.items():
        name = f"{prefix}{key}"
        origins[name] = source
        # Sections are one level deep; a mapping below is a value, such as `label_map`.
        if isinstance(value, dict) and not prefix:
            section = values.setdefault(key, {})
            if isinstance(section, dict):
                _merge(section, origins, value, source, prefix=f"{name}.")
                continue
        values[key] = value


def _build_config(
    values: Mapping[str, Any], origins: Mapping[str, str], default_origin: str
) -> Config:
    def fail(key: str, message: str) -> typing.NoReturn:
        raise ConfigError(f"{origins.get(key, default_origin)}: {key}{message}")

    def build(cls: type[Any], values: Any, prefix: str) -> Any:
        if not isinstance(values, Mapping):
            fail(prefix.rstrip("."), f" = {values!r}: expected a section of `key: value` lines")
        hints = field_types(cls)
        fields = {f.name: f for f in dataclasses.fields(cls)}
        arguments = {}
        for key, value in values.items():
            name = f"{prefix}{key}"
            if name in _REMOVED:
                before, remedy = _REMOVED[name]
                if value != before:
                    fail(name, f" = {value!r}: this key was removed; {remedy}")
                continue
            if isinstance(value, str) and value.startswith(_REQUIRED):
                asked = value.removeprefix(_REQUIRED).strip()
                fail(name, f" has to be set (--set {name}=...): {asked}")
            if key not in fields:
                fail(name, f": unknown key{nearest(str(key), list(fields))}")
            if dataclasses.is_dataclass(hints[key]):
                arguments[key] = build(typing.cast(type, hints[key]), value, f"{name}.")
                continue
            try:
                arguments[key] = read_value(value, hints[key])
            except ValueError as error:
                comment = name == "dataset.ignore" and holds_nothing(value)
                hint = f" ({needs_quotes()})" if comment else advice(value, hints[key])
                fail(name, f" = {value!r}: expected {error}{hint}")
        for key, f in fields.items():
            required = f.default is f.default_factory is dataclasses.MISSING
            if required and key not in arguments:
                fail(f"{prefix}{key}", ": missing, and it has no default")
        if arguments.get("classes") and not arguments.get("class_names"):
            arguments["class_names"] = tuple(arguments["classes"])  # their order counts
        return cls(**arguments)

    config: Config = build(Config, values, "")
    _require(_rules(config), config, origins, default_origin)
    return config


def _require(
    rules: Sequence[tuple[str, bool, str]],
    config: Config,
    origins: Mapping[str, str],
    default_origin: str,
) -> None:
    """Raise for the first ``(key, whether it holds, what was expected)`` that does not hold."""
    for key, holds, expected in rules:
        if not holds:
            origin, value = origins.get(key, default_origin), config.flat()[key]
            raise ConfigError(f"{origin}: {key} = {value!r}: expected {expected}")


def _contradictions(config: Config) -> list[tuple[str, bool, str]]:
    """Keys of which one would be ignored silently; as :func:`_rules`."""
    dataset, method = config.dataset, config.method
    return [
        (
            "method.teacher_buffers",
            method.teacher_buffers == "copied" or method.teacher_mode == "eval",
            "copied, since with method.teacher_mode = train the teacher gathers running statistics "
            "itself; or method.teacher_mode = eval",
        ),
        (
            "reco.keys_from",
            config.reco.keys_from == "all" or config.reco.loss == "contrast",
            "all, since a cross-entropy (reco.loss) has no keys",
        ),
        (
            "dataset.root",
            dataset.name != "synthetic" or dataset.root is None,
            "null, since synthetic scenes are generated; dataset.name is the data set in root",
        ),
        (
            "dataset.labelled_ids",
            dataset.labelled_ids is None or dataset.partial_labels is None,
            f"null, since dataset.partial_labels = {dataset.partial_labels} samples labels in "
            "every image; or dataset.partial_labels = null",
        ),
        (
            "dataset.labelled_ids",
            dataset.labelled_ids is None or dataset.labelled_images == "all",
            f"null, since dataset.labelled_images = {dataset.labelled_images} asks for a choice of "
            "that many; or dataset.labelled_images = all, for those of the list",
        ),
    ]


def _rules(config: Config) -> list[tuple[str, bool, str]]:
    """Rules between keys: ``(key, whether it holds, what was expected)``."""
    method, unlabelled = config.method, config.train.unlabelled_batch_size
    return [
        *_dataset_rules(config.dataset),
        (
            "method.feature_dropout",
            not method.feature_dropout or method.strong_views == 2,
            "false, since it needs two views, of which each has the channels that the other lacks; "
            "or method.strong_views = 2",
        ),
        (
            "train.unlabelled_batch_size",
            not method.unsupervised or unlabelled >= 1,
            "at least 1, since method.unsupervised is true",
        ),
        (
            "train.unlabelled_batch_size",
            not method.unsupervised or method.mix not in ("classmix", "cutmix") or unlabelled >= 2,
            f"at least 2, since method.mix = {method.mix} mixes an image with the next one",
        ),
    ]


def _dataset_rules(dataset: DatasetConfig) -> list[tuple[str, bool, str]]:
    """As :func:`_rules`, of the keys of the data set."""
    rules = [
        (
            "dataset.root",
            dataset.name == "synthetic" or bool(dataset.root),
            f"the folder that holds the {dataset.name} data, e.g. --set dataset.root=/data/images",
        ),
        (
            "dataset.partial_labels",
            dataset.partial_labels is None or dataset.labelled_images == "all",
            "null unless dataset.labelled_images is all (partial labels are those of every image)",
        ),
        (
            "dataset.class_names",
            dataset.name != "folder" or len(dataset.class_names or ()) >= 2,
            "the names of at least two classes, or dataset.classes with them and their values, "
            "since a `folder` data set brings none",
        ),
        (
            "dataset.class_names",
            dataset.classes is None or dataset.class_names == tuple(dataset.classes),
            "null, or the names in dataset.classes, which stands beside it",
        ),
        (
            "dataset.label_map",
            dataset.name != "folder"
            or dataset.label_map is None
            or set(dataset.label_map.values()) <= set(range(len(dataset.class_names or ()))),
            "file values mapped to class indices 0 .. number of class_names - 1",
        ),
        (
            "dataset.value_range",
            dataset.value_range is None
            or isinstance(dataset.value_range[0], float)
            or len(dataset.value_range) in (1, dataset.channels),
            f"one pair of values, or one for each of {dataset.channels} channels",
        ),
    ]
    if dataset.name != "folder":
        rules += [
            (
                f"dataset.{f.name}",
                getattr(dataset, f.name) == f.default,
                f"{f.default!r}, since {dataset.name} has classes and files of its own".replace(
                    "None", "null"
                ),
            )
            for f in dataclasses.fields(dataset)
            if f.name in FOLDER_KEYS
        ]
    return rules


def _plain(value: Any) -> Any:
    """Tuples become lists, as in YAML and JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value

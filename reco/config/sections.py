"""The sections of a configuration: each key with its type, check, default and meaning."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import yaml

from reco.config.yaml_text import flow
from reco.fields import (
    Check,
    Count,
    NotNegative,
    Positive,
    Probability,
    WholeNumber,
)
from reco.loss import ReCoOptions
from reco.paths import user_path

FOLDER_KEYS = (
    *("class_names", "label_map", "ignore_values", "classes", "ignore", "jpeg_masks"),
    *("images", "masks", "unlabelled", "validation", "test"),
    *("channels", "value_range", "turn_masks"),
)
"""Keys of ``folder`` data sets alone."""

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

PathText = Annotated[str, lambda text: str(user_path(text))]
"""Text that is a path: ``~`` and ``$VARIABLES`` in it are filled in when it is read."""

Seed = Annotated[int, Check(lambda seed: abs(seed) < 2**63, "between -2^63 and 2^63")]
Share = Annotated[float, Check(lambda share: 0 < share <= 1, "a share in (0, 1]")]
Part = Annotated[float, Check(lambda part: 0 < part < 1, "a share in (0, 1)")]
Size = Annotated[tuple[int, int], Check(lambda size: min(size) >= 1, "a positive height and width")]
CropSize = Annotated[
    tuple[int, int], Check(lambda size: min(size) >= 16, "a height and width of at least 16")
]
Scales = Annotated[
    tuple[float, float], Check(lambda scales: 0 < scales[0] <= scales[1], "0 < smallest <= largest")
]
ClassWeights = Annotated[
    tuple[float, ...],
    Check(lambda weights: bool(weights) and min(weights) > 0, "a number > 0 for each class"),
]
ValueRange = Annotated[
    tuple[float, float],
    Check(lambda pair: pair[0] < pair[1], "the lowest value before the highest, such as [0, 4095]"),
]
AreaRange = Annotated[
    tuple[float, float],
    Check(lambda areas: 0 < areas[0] <= areas[1] < 1, "0 < smallest <= largest < 1"),
]
Jitter = Annotated[
    tuple[float, float, float, float],
    Check(
        lambda shares: min(shares) >= 0 and max(shares) <= 1 and shares[3] <= 0.5,
        "four shares in [0, 1], the last (hue) at most 0.5",
    ),
]
Decay = Annotated[float, Check(lambda decay: 0 <= decay < 1, "a number in [0, 1)")]
Momentum = Annotated[float, Check(lambda momentum: 0 < momentum < 1, "a number in (0, 1)")]


@dataclass(frozen=True)
class DatasetConfig:
    """Which images, which of them are labelled, and how large they are."""

    # Synthetic scenes, a public data set, or a folder.
    name: Literal["synthetic", "camvid", "cityscapes", "pascal", "sun", "folder"]
    root: PathText | None = None  # where the images are; synthetic scenes need none
    labelled_images: Count | Literal["all"] = "all"  # training images that keep their labels
    # Classes that each labelled image of a random choice holds at least, where images do.
    min_classes_per_image: Count = 1
    labelled_ids: PathText | None = None  # list of the labelled images; null: a random choice
    unlabelled_ids: PathText | None = None  # list of the unlabelled images, in place of all others
    # All images are labelled, but only in one pixel of each class, or in a share of its pixels.
    partial_labels: Literal["pixel"] | Share | None = None
    split_seed: Seed = 0  # seed of the choice of labelled images or pixels
    image_size: Size | None = None  # (height, width) all images are resized to; null: as they are
    crop_size: CropSize = (321, 321)  # (height, width) that the network is trained on
    scale_range: Scales = (1.0, 1.0)  # smallest and largest random scale before a crop
    eval_split: str = "val"  # split that validation and `reco eval` measure on: train, val or test
    # Use images that come without labels (`unlabelled/` of a folder, Cityscapes' train_extra).
    extra_images: bool = True
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
    jpeg_masks: bool = False  # true: masks went through JPEG, whatever format they have now
    images: PathText | None = None  # images with masks: pattern, folder or list
    masks: PathText | None = None  # their masks: pattern or folder
    unlabelled: PathText | None = None  # images without masks: pattern, folder or list
    # A share of the images, or which of them: pattern, folder, list or one image.
    validation: Part | PathText | None = None
    test: PathText | None = None  # images of the test split: pattern, folder, list or one image
    channels: Count = 3  # colours or bands of an image
    # Values that are black and white in files of more than 8 bits, of all channels or of each.
    value_range: ValueRange | tuple[ValueRange, ...] | None = None
    turn_masks: bool = False  # true: turn the masks too where EXIF turns their photos


@dataclass(frozen=True)
class ModelConfig:
    """The network; see :class:`reco.models.network.SegmentationNetwork`."""

    # The encoder: torchvision's resnet18, resnet50, resnet101, mobilenet_v3_large; or timm/<name>.
    backbone: str = "resnet101"
    # The encoder's: imagenet, none, or a file: a state dict, or a checkpoint of a run.
    weights: PathText = "imagenet"
    decoder: Literal["auto", "deeplabv3plus", "dpt"] = "auto"  # auto: what the encoder needs
    # Height of the image divided by that of the encoder's last feature map.
    output_stride: Literal[8, 16, 32] = 16
    representation_dim: Count = 256  # numbers for each pixel in ReCo's head
    channels: Count = 256  # width of decoder and heads
    # Mean and deviation that images are brought to: those that the backbone's weights were trained
    # with, or ImageNet's, for files of weights that need these.
    normalisation: Literal["backbone", "imagenet"] = "backbone"
    freeze: bool = False  # true: do not train the encoder; it then needs no memory for gradients
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
    # Each of two strong views drops the channels of the encoder's features that the other keeps.
    feature_dropout: bool = False
    # Most change of brightness, contrast, saturation, hue.
    jitter: Jitter = (0.25, 0.25, 0.25, 0.25)
    grey_probability: Probability = 0.0  # probability that a view loses its colours
    blur_sigma: Scales = (0.15, 1.15)  # smallest and largest σ of a view's blur, in pixels
    unsupervised: bool = True  # learn from unlabelled images; false: from labels alone
    # Weigh each image by η (share), or take confident pixels alone (threshold).
    unsupervised_loss: Literal["share", "threshold"] = "share"
    unsupervised_threshold: Probability = 0.97  # confidence from which a pixel is confident
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
    # Where keys come from: all pixels that take part, or labelled ones that the student gets right.
    keys_from: Literal["all", "right_labels"] = "all"


@dataclass(frozen=True)
class TrainConfig:
    """Length, batch, optimiser and housekeeping of one run."""

    iterations: Count = 40_000  # steps of the optimiser
    labelled_batch_size: Count = 2  # labelled images in a step, over all GPUs
    unlabelled_batch_size: WholeNumber = 2  # unlabelled images in a step, over all GPUs
    accumulation_steps: Count = 1  # parts that a batch is cut into, to save memory
    optimizer: Literal["sgd", "adamw"] = "sgd"  # SGD has Nesterov momentum
    learning_rate: Positive = 2.5e-3  # at the start; falls to 1e-6 as (1 - t / iterations) ** 0.9
    # The encoder's learning rate divided by that of decoder and heads.
    encoder_learning_rate_factor: Positive = 1.0
    weight_decay: NotNegative = 5e-4  # weight decay of all parameters
    momentum: Momentum = 0.9  # of SGD
    # Weights of the classes in both cross-entropies; balanced: the rarer, the more.
    class_weights: Literal["balanced"] | ClassWeights | None = None
    # Arithmetic of the network; auto: bf16 on a GPU that has it, else fp32.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"  # `cpu`, `cuda` or `cuda:N`; auto: a GPU where there is one
    compile: bool = False  # run the network through torch.compile
    deterministic: bool = False  # on CUDA the same bits every time, by slower kernels
    sync_batchnorm: bool = False  # batch statistics over all processes; needs CUDA
    seed: Seed = 0  # seed of new weights, order of images and augmentation
    # Processes of each loader that read images; auto: a quarter of the cores, 1 to 8.
    workers: WholeNumber | Literal["auto"] = "auto"
    log_every: Count = 20  # steps between two lines of metrics.jsonl
    validate_every: Count = 1000  # steps between two validations
    # Training batches over which batch norm's running statistics are averaged before a validation;
    # 0: as training leaves them, exponential averages over the last ten or so.
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
        return self.images_per_step

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
            f"{key}={value if isinstance(value, str) else flow(value)}"
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


def _plain(value: Any) -> Any:
    """Tuples become lists, as in YAML and JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value

"""Rules between keys of a configuration."""

from __future__ import annotations

import dataclasses

from reco.config.sections import FOLDER_KEYS, Config, DatasetConfig

Rule = tuple[str, bool, str]
"""Key, whether the rule holds, and what was expected."""


def rules(config: Config) -> list[Rule]:
    """What every configuration has to hold to."""
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


def _dataset_rules(dataset: DatasetConfig) -> list[Rule]:
    """Rules of the data set's keys."""
    found: list[Rule] = [
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
        found += [
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
    return found


def contradictions(config: Config) -> list[Rule]:
    """Keys of which one would be ignored silently.

    Configurations of older runs may have them (:func:`reco.config.config_from_dict`).
    """
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

"""Synthetic scenes: deterministic, with unbalanced classes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from reco.data.datasets.synthetic import SCENES, SPEC, SyntheticReader, paint_scene


def test_a_scene_depends_on_seed_split_and_index_alone():
    first, second = SyntheticReader(), SyntheticReader()
    id = first.ids("train")[7]
    again = [np.asarray(reader.image(id)) for reader in (first, second)]
    paint_scene.cache_clear()
    assert np.array_equal(*again)
    assert np.array_equal(again[0], np.asarray(second.image(id)))
    others = [
        SyntheticReader(seed=1).image(id),
        first.image("train-0008"),
        first.image("val-0007"),
    ]
    assert not any(np.array_equal(again[0], np.asarray(other)) for other in others)


def test_labels_are_those_that_results_were_measured_on():
    """The scenes are part of every published figure: changing them invalidates those figures."""
    reader = SyntheticReader()
    labels = [np.asarray(reader.label(f"{split}-0000")) for split in SCENES]
    digest = hashlib.sha256(b"".join(label.tobytes() for label in labels)).hexdigest()
    assert digest.startswith("8ccc0c8d8e46bf72")


def test_splits():
    reader = SyntheticReader()
    for split, count in SCENES.items():
        assert len(set(reader.ids(split))) == count
    assert reader.unlabelled_ids() == []
    with pytest.raises(ValueError, match="split = 'training'"):
        reader.ids("training")


def test_classes_are_unbalanced_and_all_there():
    reader = SyntheticReader()
    counts = np.zeros(SPEC.num_classes)
    for id in reader.ids("train")[:100]:
        label = np.asarray(reader.label(id))
        assert label.max() < SPEC.num_classes
        assert label.shape == np.asarray(reader.image(id)).shape[:2] == (96, 128)
        counts += np.bincount(label.ravel(), minlength=SPEC.num_classes)
    share = counts / counts.sum()
    assert 0.001 < share.min() < 0.01
    assert share.max() > 0.2


def test_palette_has_a_colour_for_each_class():
    assert len(set(SPEC.palette)) == SPEC.num_classes == len(SPEC.class_names)

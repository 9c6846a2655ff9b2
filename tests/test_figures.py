"""The figures show the values of the network and the loss."""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np
import pytest
import torch
from make_checkpoint import write_checkpoint
from PIL import Image

from reco import IGNORE, cli
from reco.data.datasets import synthetic
from reco.method.augmentation import to_unit
from reco.pictures import plots
from reco.pictures.analysis import RunAnalysis
from reco.pictures.figure import _short_names, write_figure
from reco.runs.checkpoint import CheckpointError
from reco.runs.results import read_metrics, read_relation_graphs

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """With a strong threshold between the confidences of hard and easy pixels."""
    path = tmp_path_factory.mktemp("run") / "best.pt"
    return write_checkpoint(path, "reco.strong_threshold=0.1")


@pytest.fixture
def analysis(checkpoint, monkeypatch):
    monkeypatch.setattr(synthetic, "SCENES", {"train": 4, "val": 3, "test": 2})
    return RunAnalysis(checkpoint, network="student")


def features(analysis, index):
    """Class probabilities and representations as rows, and the truth, at the size of the maps."""
    image, truth, _ = analysis.data[index]
    analysis.network.training = True
    with torch.no_grad():
        logits, representations = analysis.network(to_unit(image[None]))
    analysis.network.eval()
    height, width = logits.shape[2:]
    rows = (torch.arange(height) + 0.5) * truth.shape[0] / height
    columns = (torch.arange(width) + 0.5) * truth.shape[1] / width
    labels = truth[rows.long()][:, columns.long()]
    return logits[0].softmax(0), representations[0], labels


def test_the_relation_graph_is_the_cosine_of_means(analysis):
    graph, names, num_images = analysis.relation_graph()
    assert num_images == 3
    found = [features(analysis, i) for i in range(3)]
    means, present = [], []
    for label in range(11):
        vectors = torch.cat([r[:, labels == label] for _, r, labels in found], 1)
        if vectors.shape[1]:
            means.append(vectors.double().mean(1))
            present.append(analysis.reader.spec.class_names[label])
    assert names == present
    assert len(means) > 4
    for a, b in itertools.product(range(len(means)), repeat=2):
        expected = torch.cosine_similarity(means[a], means[b], dim=0)
        assert graph[a, b] == pytest.approx(float(expected), abs=1e-4)


def test_samples_are_of_hard_pixels_and_other_classes(analysis):
    probabilities, _, labels = features(analysis, 0)
    pixels = analysis.sample_pixels(0)
    known = labels != IGNORE
    confidence = probabilities.gather(0, labels.long().clamp(max=10)[None])[0]
    assert (pixels.hard == (confidence <= 0.1).numpy())[known].all()
    assert 0 < pixels.hard[known].mean() < 1
    image = analysis.data[0].image
    stride = np.array([image.shape[2] / labels.shape[1], image.shape[1] / labels.shape[0]])
    assert pixels.queries
    for label, points in pixels.queries.items():
        x, y = (points / stride).astype(int).T
        assert (pixels.classes[y, x] == label).all()
        assert pixels.hard[y, x].all()
        x, y = (pixels.negatives[label] / stride).astype(int).T
        assert (pixels.classes[y, x] != label).all()
        assert (pixels.classes[y, x] < 11).all()


def test_an_analysis_leaves_the_network_in_eval_mode(analysis):
    colours = analysis.representation_colours(0)
    assert colours.shape == (*analysis.sample_pixels(0).classes.shape, 3)
    assert colours.std() > 10
    assert not any(module.training for module in analysis.network.modules())


def test_groups_join_by_their_mean_cosine():
    points = torch.nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator()))
    graph = (points @ points.T).numpy()
    groups, joins, cosines = [(i,) for i in range(9)], [], []
    while len(groups) > 1:
        means = {p: graph[np.ix_(*p)].mean() for p in itertools.combinations(groups, 2)}
        first, second = max(means, key=means.get)
        cosines.append(means[first, second])
        joins.append(first + second)
        groups = [group for group in groups if group not in (first, second)] + [joins[-1]]
    found = plots.average_linkage(graph)
    assert sorted(1 - max(d) for d in found["dcoord"]) == pytest.approx(sorted(cosines), abs=1e-5)
    for join in joins:  # joined groups are neighbours
        places = sorted(found["leaves"].index(leaf) for leaf in join)
        assert places == list(range(places[0], places[0] + len(places)))


def test_curves_show_what_was_logged(tmp_path):
    lines = [
        {"iteration": 10, "supervised": 2.0, "reco": 0.0, "eta": None},
        {"iteration": 20, "supervised": 1.0, "reco": 0.0, "eta": 0.5},
        {"iteration": 20, "validation": {"student": {"mean_iou": 0.25}, "teacher": {}}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"iteration": 30, "superv')
    figure = plots.curves({"a": read_metrics(tmp_path)})
    plotted = {axes.get_title(): axes.lines for axes in figure.axes}
    assert set(plotted) == {
        "validation mIoU (%)",
        "supervised loss",
        "η: share of confident pixels",
    }
    (line,) = plotted["supervised loss"]
    assert line.get_xydata().tolist() == [[10, 2], [20, 1]]
    (line,) = plotted["validation mIoU (%)"]
    assert line.get_xydata().tolist() == [[20, 25]]
    assert line.get_label() == "a student"
    with pytest.raises(FileNotFoundError, match="folder of a run"):
        read_metrics(tmp_path / "nothing")


@pytest.mark.parametrize("kind", ["compare", "relation", "queries", "representation"])
def test_every_kind_is_plotted(checkpoint, analysis, tmp_path, monkeypatch, capsys, kind):
    output = tmp_path / "new" / f"{kind}.png"
    paths = [str(checkpoint)] * (2 if kind == "compare" else 1)
    arguments = [kind, *paths, "--output", str(output), "--images", "1"]
    assert cli.main(["plot", *arguments]) == 0
    assert capsys.readouterr().out == f"Look at: {output}\n"
    assert len(np.unique(np.array(Image.open(output)))) > 50


def test_the_course_of_the_relation_graph(tmp_path):
    graphs = {10: [[1.0, None], [None, 1.0]], 20: [[1.0, 0.5], [0.5, 1.0]]}
    lines = [{"iteration": i, "relation_graph": graph} for i, graph in graphs.items()]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "split.json").write_text('{"images_per_class": {"car": 1, "van": 2}}')
    figure = plots.relation_course(*read_relation_graphs(tmp_path))
    first, second, _ = figure.axes
    assert (first.get_title(), second.get_title()) == ("iteration 10", "iteration 20")
    assert second.images[0].get_array().tolist() == graphs[20]
    assert np.isnan(np.array(first.images[0].get_array().filled(np.nan))[0, 1])
    assert write_figure("course", [tmp_path], output=tmp_path / "course.png").is_file()
    with pytest.raises(ValueError, match="course: 2 paths given"):
        write_figure("course", [tmp_path, tmp_path])
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n')
    with pytest.raises(ValueError, match="no relation graph was logged"):
        plots.relation_course(*read_relation_graphs(tmp_path))


def test_mistakes_are_named(checkpoint, analysis, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"--images 3: expected 0 \.\. 2"):
        write_figure("compare", [checkpoint], images=[3])
    with pytest.raises(ValueError, match="queries: 2 paths given"):
        write_figure("queries", [checkpoint, checkpoint])
    with pytest.raises(ValueError, match="kind 'heat': expected one of curves"):
        write_figure("heat", [checkpoint])
    without = write_checkpoint(tmp_path / "classmix.pt", "reco.enabled=false")
    with pytest.raises(CheckpointError, match="trained without ReCo"):
        write_figure("relation", [without])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"matplotlib: pip install matplotlib$"):
        plots.curves({"": []})


def test_short_names(tmp_path):
    names = _short_names([tmp_path / "a/x/best.pt", tmp_path / "b/x/best.pt"])
    assert names == ["a", "b"]
    assert len(_short_names([tmp_path / "best.pt"])) == 1

"""The report shows the files of a run, and is self-contained."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from make_checkpoint import write_checkpoint

from reco import cli
from reco.data.datasets import synthetic
from reco.pictures.report import write_report

pytest.importorskip("matplotlib")


class Page(HTMLParser):
    """Tags that load something, the text, and tags that were never closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [value for key, value in attributes if key in ("src", "href", "srcset")]
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run's folder with one validation, in which one class is absent."""
    monkeypatch.setattr(synthetic, "SCENES", {"train": 4, "val": 2, "test": 2})
    folder = tmp_path / "demo" / "<b>-s0"
    folder.mkdir(parents=True)
    figures = {"mean_iou": 0.4321, "pixel_accuracy": 0.8, "iou": [0.1234] * 10 + [None]}
    lines = [
        {"iteration": 1, "supervised": 2.0},
        {"iteration": 2, "supervised": 1.0},
        {"iteration": 2, "split": "val", "validation": {"student": figures, "teacher": figures}},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text("output_dir: <script>alert(1)</script>\n")
    split = {"labelled": ["train-0001"], "unlabelled": ["a", "b"], "hash": "abc"}
    (folder / "split.json").write_text(json.dumps(split))
    return folder


def test_the_page_is_whole(run, monkeypatch, capsys):
    write_checkpoint(run / "last.pt")
    assert cli.main(["report", str(run), "--images", "1", "9"]) == 1
    assert "--images 9: expected 0 .. 1" in capsys.readouterr().err
    assert cli.main(["report", str(run), "--images", "1"]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.tags.count("img") == 5
    assert "script" not in page.tags
    assert all(address.startswith("data:") for address in page.loaded)
    for words in ("demo/<b>-s0", "43.21", "12.34", "pole", "–", "1 labelled and 2 unlabelled"):
        assert words in page.text
    assert "url(" not in page.text
    assert "<script>alert(1)</script>" in page.text


def test_what_is_missing_is_said(run):
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "last.pt: no such file" in page.text
    assert page.tags.count("img") == 1
    assert "class 3" in page.text
    write_checkpoint(run / "last.pt", "reco.enabled=false")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "Trained without ReCo" in page.text
    assert page.tags.count("img") == 2
    (run / "metrics.jsonl").write_text("")
    assert "not been validated" in write_report(run).read_text(encoding="utf-8")


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the folder of a run"):
        write_report(tmp_path)

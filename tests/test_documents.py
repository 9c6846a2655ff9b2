"""Every number in the documents comes from a committed CSV file, and that from runs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import configuration
import pytest
import tables
from tables import refresh, render, trace

from reco.fields import Check
from reco.runs.results import (
    ClassIoU,
    Point,
    Result,
    read_classes,
    read_points,
    read_results,
)
from reco.studies.tables import results_table
from reco.writing import write_table

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_those_of_the_committed_files(document):
    text = document.read_text(encoding="utf-8")
    if "<!-- table " in text:
        assert refresh(text, ROOT) == text


def test_no_figure_of_a_run_is_written_by_hand():
    """A mean with its deviation stands in a marked table and nowhere else."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        by_hand = re.sub(r"<!-- table .*?<!-- end of table -->", "", text, flags=re.DOTALL)
        assert not re.search(r"\d ± \d", by_hand), document
        assert text.count("<!-- table ") == text.count("<!-- end of table -->")


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of the studies, with one run in it, and rows.csv of that run."""
    folder = tmp_path / "runs" / "demo" / "abc-s0"
    folder.mkdir(parents=True)
    figures = {"mean_iou": 0.5, "boundary_mean_iou": 0.4, "iou": [0.5], "matrix": [[9]]}
    record = {"iteration": 9, "split": "val", "validation": {"student": figures}}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "environment.json").write_text('{"commit": "abc", "device": "CPU", "threads": 2}')
    identity = {"method": "plain", "budget": "", "seed": 0, "run": "runs/demo/abc-s0"}
    (folder / "split.json").write_text('{"images_per_class": {"road": 1}}')
    write_table(tmp_path / "rows.csv", Result._fields, read_results(folder, 9, None, **identity))
    write_table(
        tmp_path / "classes.csv", ClassIoU._fields, read_classes(folder, 9, None, **identity)
    )
    write_table(tmp_path / "curves.csv", Point._fields, read_points(folder, **identity))
    return tmp_path


def test_a_document_is_brought_up_to_date(run, capsys):
    (run / "other.csv").write_text("a,b\n1,2\n")
    page = run / "page.md"
    page.write_text(
        f"before\n<!-- table {run}/rows.csv baseline=plain -->\nstale 1\n<!-- end of table -->\n"
        f"between\n<!-- table {run}/other.csv -->\n<!-- end of table -->\nafter\n"
    )

    def script(*words: str) -> int:
        return tables.main(words)

    assert script(str(page)) == 1
    assert "use --write" in capsys.readouterr().out
    assert script(str(page), "--write") == script(str(page)) == 0
    text = page.read_text()
    assert "stale" not in text
    assert re.search(r"before\n.*50\.0.*between\n.*\| 1 \| 2 \|.*after\n", text, re.DOTALL)
    assert script("--runs", str(run), str(run / "rows.csv")) == 0
    (run / "rows.csv").write_text((run / "rows.csv").read_text().replace("50.0", "60.0"))
    assert script(str(page)) == 1
    assert script("--runs", str(run), str(run / "classes.csv"), str(run / "rows.csv")) == 1
    assert script(str(run / "nothing.md")) == 1
    capsys.readouterr()
    assert script(str(run / "rows.csv")) == 1
    assert "rows.csv: no table to make" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rows.csv", "classes.csv", "curves.csv"])
def test_rows_are_followed_to_their_runs(run, name):
    assert trace(run / name, run) == []
    text = (run / name).read_text()
    (run / name).write_text(text.replace("50.0", "60.0"))
    (difference,) = trace(run / name, run)
    assert "plain seed 0" in difference
    (run / name).write_text(text.replace("abc-s0", "other"))
    assert len(trace(run / name, run)) == 1
    (run / name).write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"expected results.csv, classes.csv or curves.csv"):
        trace(run / name, run)


def test_a_file_of_runs_becomes_a_table_of_means(run):
    assert results_table([], None) != render(run / "rows.csv", None)
    assert render(run / "rows.csv", None).startswith("mIoU in % on val, 9 iterations:")
    assert "| road | 50.0 |" in render(run / "classes.csv", None)


def test_pairs_of_runs_as_a_table():
    table = "<!-- table docs/camvid_claim_twelve.csv baseline=ClassMix pairs=0-5,6-11 -->\n"
    found = refresh(table + "<!-- end of table -->", ROOT)
    assert "| 6, 7, 8, 9, 10, 11 | +3.5, -1.3, -1.5, -4.8, -4.7, -2.4 | -1.8 [" in found
    assert "| all 12 |" in found
    with pytest.raises(ValueError, match="no pairs of runs with baseline=Classmix"):
        refresh(table.replace("ClassMix", "Classmix") + "<!-- end of table -->", ROOT)


def test_means_are_over_rows_that_agree(tmp_path):
    lines = ["way,seed,class,miou_of_it", "b,0,all,1", "a,0,all,4", "b,1,all,3", "b,1,road,9"]
    lines.append("b,2,all,nan")
    (tmp_path / "x.csv").write_text("\n".join(lines))
    table = "<!-- table x.csv by=way mean=miou_of_it where=class:all -->\n<!-- end of table -->"
    found = refresh(table, tmp_path).splitlines()
    assert found[2] == "| way | rows | miou of it |"
    assert found[4:6] == ["| b | 3 | 2.0 ± 1.4 |", "| a | 1 | 4.0 |"]
    whole = refresh(table.replace(" where=class:all", ""), tmp_path)
    assert "| b | 4 | 4.3 ± 4.2 |" in whole
    for wrong, message in (
        (table + table.replace("by=way mean=miou_of_it", "mean=miou_of_it by=way"), "cannot be"),
        (table.replace("by=way", "by=ways"), "no column 'ways', expected one of way, seed"),
        (table.replace("class:all", "class:al"), "where=class:al: no such row"),
    ):
        with pytest.raises(ValueError, match=message):
            refresh(wrong, tmp_path)


def test_a_table_may_show_one_split_alone():
    both = render(ROOT / "docs" / "camvid_5shot.csv", "ClassMix")
    one = render(ROOT / "docs" / "camvid_5shot.csv", "ClassMix", "test")
    assert "on val" in both
    assert "on val" not in one
    assert one in both.replace(
        both[both.index("mIoU in % on val") : both.index("mIoU in % on test")], ""
    )


def test_the_page_of_the_configuration_is_that_of_its_classes():
    assert configuration.main([]) == 0, "python benchmarks/configuration.py --write"


def test_every_key_tells_what_it_takes_and_means(monkeypatch, tmp_path):
    page = configuration.page()
    assert "| `train.seed` | whole number, between -2^63 and 2^63 | `0` | Seed of new" in page
    assert "| `train.workers` † |" in page
    assert "| `reco.temperature` | number > 0 | `0.5` | τ of Eq. 1" in page
    assert configuration.describe(Annotated[int, Check(bool, "other than 0")] | None) == (
        "whole number, other than 0 or `null`"
    )
    monkeypatch.setattr(configuration, "PAGE", tmp_path / "page.md")
    assert configuration.main([]) == 1
    assert configuration.main(["--write"]) == configuration.main([]) == 0
    (tmp_path / "page.md").write_text(page.replace("`0.5`", "`0.6`"))
    assert configuration.main([]) == 1


@dataclass(frozen=True)
class Section:
    """A section."""

    said: int = 0  # this one
    # That one,
    # of two lines.
    told: tuple[int, ...] = ()

    # Of nothing.

    silent: bool = False


def test_a_key_without_a_meaning_is_refused():
    table = configuration.keys_table(Section, ["said", "told"], "a.")
    assert "| `a.said` | whole number | `0` | This one |" in table
    assert "| `a.told` | list of whole number | `[]` | That one, of two lines |" in table
    with pytest.raises(ValueError, match=r"a.silent: expected a comment"):
        configuration.keys_table(Section, ["silent"], "a.")

"""A self-contained page about a run: ``report.html``."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reco.config import ConfigError
from reco.pictures import plots
from reco.pictures.analysis import RunAnalysis
from reco.pictures.images import plot_comparison, plot_queries, plot_representation
from reco.runs.build_networks import main_network
from reco.runs.checkpoint import CheckpointError
from reco.runs.results import Records, read_metrics, read_relation_graphs
from reco.writing import write_text_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff;
       max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #d0d7de; }
img { width: 100%; height: auto; }
.scroll { overflow-x: auto; }
.scroll img { min-width: 34rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #d0d7de; }
th:first-child, td:first-child { text-align: left; }
td.class { white-space: nowrap; }
.swatch { display: inline-block; width: .8em; height: .8em; border: 1px solid #57606a; }
.bar { display: inline-block; height: .7em; background: #0072B2; }
pre { overflow-x: auto; background: #f6f8fa; padding: .6rem; font-size: .85rem; }
p.note { color: #57606a; }
"""


_FIRST = (0, 1, 2)  # images that are shown where nobody asks for others


def write_report(
    run: Path,
    *,
    output: Path | None = None,
    checkpoint: str = "last.pt",
    overrides: Sequence[str] = (),
    images: Sequence[int] = _FIRST,
    device: str = "auto",
) -> Path:
    """Write the report of a run: results, curves, pictures, configuration, split.

    Where a part cannot be made (no validation yet, no checkpoint, data that have moved), the page
    says so instead.

    Args:
        run: the run's folder.
        output: the file; ``report.html`` in the run's folder by default.
        checkpoint: file of the folder that pictures are made with.
        overrides: ``key=value`` over the configuration, such as ``dataset.root=…``.
        images: numbers of images in the evaluation split to show.
        device: of the network; ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The file.

    Raises:
        FileNotFoundError: ``run`` is no run.
        ImportError: matplotlib or scipy is missing.
    """
    records = read_metrics(run)
    name = f"{run.resolve().parent.name}/{run.resolve().name}"
    parts = [f"<h1>{html.escape(name)}</h1>"]
    try:
        analysis: RunAnalysis | None = RunAnalysis(
            run / checkpoint, overrides=overrides, device=device
        )
        missing = ""
    except (CheckpointError, ConfigError, OSError, ValueError) as error:
        analysis, missing = None, str(error)
    parts += _results(records, analysis)
    parts += ["<h2>Training</h2>", _picture(plots.curves({"": records}), "training curves")]
    if any("relation_graph" in record for record in records):
        parts.append("<h2>Which classes came apart</h2>")
        course = plots.relation_course(*read_relation_graphs(run))
        parts.append(_picture(course, "relation graph at each validation"))
    if analysis is None:
        parts.append(_note(f"No pictures of predictions: {missing}"))
    else:
        parts += _pictures(analysis, checkpoint, images)
    parts += _files(run)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(name)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    output = output or run / "report.html"
    write_text_whole(output, page)
    return output


def _results(records: Records, analysis: RunAnalysis | None) -> list[str]:
    """Means and IoU per class of the last validation."""
    validations = [record for record in records if record.get("validation")]
    if not validations:
        return ["<h2>Results</h2>", _note("This run has not been validated yet.")]
    last = validations[-1]
    networks: dict[str, Any] = last["validation"]
    classes = len(next(iter(networks.values()))["iou"])
    if analysis is None:
        labels = [f"class {i}" for i in range(classes)]
    else:
        spec = analysis.reader.spec
        labels = [
            f'<span class="swatch" style="background:rgb{colour}"></span> {html.escape(name)}'
            for name, colour in zip(spec.class_names, spec.palette, strict=True)
        ]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in networks)
    rows = [
        f"<tr><td>{title}</td>"
        + "".join(f"<td>{_percent(figure.get(key))}</td>" for figure in networks.values())
        + "<td></td></tr>"
        for key, title in (
            ("mean_iou", "<b>mean IoU</b>"),
            ("frequency_weighted_iou", "frequency-weighted IoU"),
            ("pixel_accuracy", "pixel accuracy"),
            ("mean_class_accuracy", "mean class accuracy"),
            ("boundary_mean_iou", "mean IoU near boundaries"),
        )
    ]
    shown = networks[main_network(networks)]
    for index, label in enumerate(labels):
        values = "".join(
            f"<td>{_percent(figure['iou'][index])}</td>" for figure in networks.values()
        )
        bar = f'<span class="bar" style="width:{4 * (shown["iou"][index] or 0):.2f}rem"></span>'
        rows.append(
            f'<tr><td class="class">{label}</td>{values}<td style="text-align:left">{bar}</td></tr>'
        )
    return [
        "<h2>Results</h2>",
        f"<p>On <b>{html.escape(str(last.get('split', '?')))}</b> at iteration "
        f"{last['iteration']}, in %. The last rows are IoU per class.</p>",
        f'<div class="scroll"><table><tr><th></th>{head}<th></th></tr>',
        *rows,
        "</table></div>",
    ]


def _pictures(analysis: RunAnalysis, checkpoint: str, images: Sequence[int]) -> list[str]:
    """Predictions and, for a run with ReCo, the relation graph and what ReCo samples."""
    spec = analysis.reader.spec
    if tuple(images) == _FIRST:  # the default; a split may have fewer
        images = images[: len(analysis.ids)]
    analysis.check_images(images)
    predictions = [analysis.predict(image) for image in images]
    parts = [
        f"<h2>Predictions of {html.escape(checkpoint)}</h2>",
        _picture(plot_comparison({"prediction": predictions}, spec), "predictions and errors"),
    ]
    if analysis.network.representation is None:
        return [*parts, _note("Trained without ReCo: there are no representations to show.")]
    relation = plots.relation(*analysis.relation_graph())
    queries = plot_queries(predictions[0], analysis.sample_pixels(images[0]), spec)
    colours = analysis.representation_colours(images[0])
    return [
        *parts,
        "<h2>Which classes are close</h2>",
        _picture(relation, "relation graph as heat map and dendrogram"),
        "<h2>What ReCo samples</h2>",
        _picture(queries, "queries and keys"),
        "<h2>Representations</h2>",
        _picture(plot_representation(predictions[0], colours, spec), "representations as colours"),
    ]


def _files(run: Path) -> list[str]:
    """Configuration, split and environment as they are on disk."""
    parts = ["<h2>Split</h2>"]
    split_path = run / "split.json"
    if split_path.is_file():
        split = json.loads(split_path.read_text(encoding="utf-8"))
        labelled, unlabelled = split.get("labelled", []), split.get("unlabelled", [])
        parts.append(
            f"<p>{len(labelled)} labelled and {len(unlabelled)} unlabelled images, hash "
            f"<code>{html.escape(str(split.get('hash')))}</code>.</p>"
        )
        ids = html.escape("\n".join(labelled))
        parts.append(f"<details><summary>labelled images</summary><pre>{ids}</pre></details>")
    for title, file in (("Configuration", "config.yaml"), ("Environment", "environment.json")):
        path = run / file
        if path.is_file():
            text = html.escape(path.read_text(encoding="utf-8"))
            parts.append(f"<h2>{title}</h2><details><summary>{file}</summary>")
            parts.append(f"<pre>{text}</pre></details>")
    return parts


def _picture(figure: Figure, description: str) -> str:
    """The figure, embedded in the page; it scrolls on narrow screens."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<div class="scroll"><img alt="{html.escape(description)}" '
        f'src="data:image/png;base64,{data}"></div>'
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'

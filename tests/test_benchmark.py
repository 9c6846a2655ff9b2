"""The benchmarks and the profiler run, and report what they should."""

from __future__ import annotations

import csv
import json
import re
import signal
import sys
from pathlib import Path

import batch_norm as benchmark_batch_norm
import busy as benchmark_busy
import encoders as benchmark_encoders
import gpu as benchmark_gpu
import loading as benchmark_loading
import loss as benchmark_loss
import predict as benchmark_predict
import pytest
import step as benchmark_step
import teacher as benchmark_teacher
import torch
import torch.nn.functional as F
from conftest import TINY
from loss import Size
from timing import alternate, duration, peak_bytes

from reco import IGNORE, cli
from reco.config import load_config
from reco.runs.folder import run_path
from reco.seeding import stable_seed
from reco.training import profiling
from reco.training.build import build_run
from reco.training.profiling import PHASES
from reco.training.trainer import Trainer, train

CPU = torch.device("cpu")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_steps_are_taken_in_turn():
    calls = []
    seconds = alternate({name: lambda name=name: calls.append(name) for name in "ab"}, 2)
    assert "".join(calls) == "ababab"
    assert [len(seconds[name]) for name in "ab"] == [2, 2]  # the first round does not count


def test_durations_are_given_in_the_unit_that_suits():
    assert [duration(seconds) for seconds in (2e-5, 0.05, 3)] == ["20.0 us", "50.0 ms", "3.0 s"]


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_peak_is_that_of_the_step():
    def step() -> None:
        torch.ones(64 * 2**20)  # 256 MiB, freed at once

    assert 250 < peak_bytes(step, CPU) / 2**20 < 300


def test_loss_is_timed_beside_floor_and_loop(tmp_path, monkeypatch, capsys):
    small = {"cityscapes": Size(1, 3, 4, 8, num_queries=4, num_negatives=4)}
    monkeypatch.setattr(benchmark_loss, "SIZES", small)
    sweep = [Size(1, 3, 4, side, num_queries=4, num_negatives=4) for side in (8, 16)]
    monkeypatch.setattr(benchmark_loss, "SWEEPS", {"pixels": sweep})
    words = ["--sizes", "cityscapes", "pixels", "--repeats", "2", "--no-memory"]
    assert benchmark_loss.main([*words, "--output", str(tmp_path)]) == 0
    what = [row["what"] for row in rows(tmp_path / "loss.csv")]
    assert what == [
        *("floor", "channels_last", "contiguous", "per_query"),
        *("reference loop", "channels_last, in turn with it"),
        *("floor", "channels_last") * 2,
    ]
    assert (tmp_path / "loss.png").stat().st_size > 10_000
    assert "1×3×4×16×16" in capsys.readouterr().out


def test_predict_is_timed_beside_the_network(tmp_path, capsys):
    words = ["--number", "5", "--repeats", "1", "--device", "cpu", "--output", str(tmp_path)]
    assert benchmark_predict.main(words) == 0
    found = {row["what"]: float(row["images_per_second"]) for row in rows(tmp_path / "predict.csv")}
    assert found.keys() == {"predict", "network"}
    printed = re.search(r"predict is at (\d+)% of the network", capsys.readouterr().out)
    # Of speeds before they are rounded for the file.
    assert int(printed[1]) == pytest.approx(100 * found["predict"] / found["network"], abs=1)


@pytest.mark.slow
def test_a_device_is_measured_in_one_command(tiny, tmp_path, monkeypatch):
    tiny()  # for its small data set
    monkeypatch.setattr(benchmark_step, "_PHASE_STEPS", 1)
    words = ["--device", "cpu", "--quick", "--output", str(tmp_path)]
    assert benchmark_gpu.main(words) == 0
    content = json.loads((tmp_path / "gpu.json").read_text())
    found = {(row["part"], row["what"]): row["value"] for row in content["rows"]}
    assert content["device"].startswith("CPU")
    assert found["loss 1×3×4×8×8", "channels_last"] > 0
    for variant in ("ReCo, fp32", "ClassMix alone, fp32"):
        assert found[f"step: {variant}", "step"] > 0
    resumed = "largest difference of a weight when resumed"
    assert found["training of 4 iterations", resumed] == 0
    assert found["bf16 and float32", "pixels with the same label"] > 50
    table = (tmp_path / "gpu.md").read_text().splitlines()
    assert table[0] == f"# {content['device']}"
    assert len(table) == len(content["rows"]) + 4


def test_what_fails_on_a_device_or_takes_too_long_is_a_row(tmp_path, monkeypatch):
    def fail(_: benchmark_gpu.Plan) -> list[benchmark_gpu.Row]:
        raise RuntimeError("CUDA error: no kernel image\nmore")

    row = benchmark_gpu.Row("loss", "floor", 1.0, "ms")
    monkeypatch.setattr(benchmark_gpu, "PARTS", {"step": fail, "loss": lambda _: [row]})
    words = ["--device", "cpu", "--quick", "--output", str(tmp_path)]
    assert benchmark_gpu.main(words) == 1
    table = (tmp_path / "gpu.md").read_text()
    assert "| step | failed | RuntimeError: CUDA error: no kernel image |  |" in table
    assert "| loss | floor | 1 | ms |" in table
    benchmark_gpu.main([*words, "--minutes", "-1"])
    assert "| loss | not measured | -1 minutes were over |  |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_step_is_timed_with_and_without_reco(tiny, tmp_path, monkeypatch, capsys):
    tiny()  # for its small data set
    monkeypatch.setattr(benchmark_step, "_PHASE_STEPS", 1)
    words = ["--config", "demo.yaml", "--device", "cpu", "--repeats", "1", "--set", *TINY]
    assert benchmark_step.main([*words, "--output", str(tmp_path)]) == 0
    found = {(row["variant"], row["what"]) for row in rows(tmp_path / "step.csv")}
    networks = {"step", "step with data loading", "network passes"}
    assert found == {
        *(("ReCo, fp32", what) for what in {*networks, "ReCo loss"}),
        *(("ClassMix alone, fp32", what) for what in networks),
    }
    assert all(float(row["median_ms"]) > 0 for row in rows(tmp_path / "step.csv"))
    printed = capsys.readouterr().out
    assert printed.count("backward") == 2
    assert printed.count("ReCo  ") == 1
    with pytest.raises(SystemExit):
        benchmark_step.main([*words, "method.unsupervised=false"])
    assert "supervised run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_profiled_run_says_where_its_time_goes(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(profiling, "_STEPS", 2)
    config = tiny("train.iterations=8", "train.validate_every=8", "train.checkpoint_every=8")
    (tmp_path / "my.yaml").write_text(config.to_yaml())
    assert cli.main(["train", "--config", str(tmp_path / "my.yaml"), "--profile"]) == 0
    run = run_path(config, "my")
    seconds = json.loads((run / "profile.json").read_text())
    assert list(seconds) == list(PHASES)
    assert all(value > 0 for value in seconds.values())
    assert "backward" in capsys.readouterr().out
    assert (run / "trace.json").is_file()


def test_loading_is_timed_by_decoder_and_cache_and_with_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_loading, "_NUM_IMAGES", 2)
    assert benchmark_loading.main(["--repeats", "1", "--output", str(tmp_path)]) == 0
    assert [(row["what"], row["how"]) for row in rows(tmp_path / "loading.csv")] == [
        (".jpg, 2 images", "Pillow"),
        (".jpg, 2 images", "torchvision"),
        (".png, 2 images", "Pillow"),
        (".png, 2 images", "torchvision"),
        ("labelled sample of 160x160", "as they come"),
        ("labelled sample of 160x160", "dataset.cache"),
    ]
    words = [word for word in TINY if not word.startswith(("dataset", "train.iter"))]
    options = ["--files", "120", "--output", str(tmp_path), "--set", *words]
    assert benchmark_loading.main(options) == 0
    first, memory, size = rows(tmp_path / "loading.csv")
    assert first["what"] == "120 unlabelled files"
    assert float(first["value"]) > 0
    # Negative where memory that other tests left is freed meanwhile.
    assert abs(float(memory["value"])) < 10_000
    assert 0.1 < float(size["value"]) < 100


def test_batch_norm_is_estimated_in_each_way(tiny, tmp_path):
    folder = tmp_path / "run"
    train(tiny("train.iterations=2"), folder)
    words = [str(folder), "--batches", "2", "--estimates", "2", "--output", str(tmp_path)]
    assert benchmark_batch_norm.main(words) == 0
    found = rows(tmp_path / "batch_norm.csv")
    keys = [(row["network"], row["statistics"], row["estimate"]) for row in found]
    assert len(keys) == len(set(keys)) == 2 * len(benchmark_batch_norm.WAYS) * 2
    assert all(0 <= float(row["miou"]) <= 100 for row in found)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 3}\n')  # as of a run that goes on, after its last checkpoint
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    words += ["--ways", "plain crops"]
    assert benchmark_batch_norm.main(words) == 0
    alone = rows(tmp_path / "batch_norm.csv")
    assert alone == [row for row in found if row["statistics"] == "plain crops"]
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    (folder / "last.pt").unlink()
    (folder / "previous.pt").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="no checkpoint"):
        benchmark_batch_norm.main(words)


def test_pseudo_labels_are_judged_in_each_way(tiny, tmp_path):
    folder = tmp_path / "run"
    train(tiny("train.iterations=2"), folder)
    assert benchmark_teacher.main([str(folder), "--batches", "4", "--output", str(tmp_path)]) == 0
    found = rows(tmp_path / "teacher.csv")
    assert len({row["statistics"] for row in found}) == 5
    overall = {row["statistics"]: float(row["accuracy"]) for row in found if row["class"] == "all"}
    # The same batches through the views of the training, which judge pseudo-labels too.
    run = Trainer(build_run(load_config(folder / "config.yaml")), folder, resume=True)
    seed = stable_seed("benchmark of the teacher", run.config.train.seed)
    shares = [
        run.parts.views.unlabelled(run.teacher, *unlabelled).pseudo_accuracy
        for _, unlabelled in run.batches_of(seed, 0, 4)
    ]
    assert overall["its batch"] == pytest.approx(100 * float(torch.stack(shares).mean()), abs=0.01)


@torch.no_grad()
def test_pseudo_labels_by_running_statistics_are_counted_as_they_are(tiny, tmp_path):
    """Networks in eval mode label the same crops; above δ_w is what is more confident than it."""
    run = Trainer(build_run(tiny("reco.weak_threshold=0.14")), tmp_path / "run")
    run.parts.reader.label_comes_with_image = True
    for network in run.parts.networks.values():
        network.train()(torch.rand(4, 3, 32, 32))  # student and teacher gather other statistics
    labellers = benchmark_teacher.Labellers(run)
    wholes = {"own running": run.teacher.network, "student's running": run.student}
    threshold, pixels = run.config.reco.weak_threshold, {way: [] for way in wholes}
    for labelled, unlabelled in run.batches_of(0, 0, 2):
        labellers.add(labelled, unlabelled)
        for way, network in wholes.items():
            logits = network.eval()(unlabelled.image / 255).logits
            resized = F.interpolate(logits, unlabelled.truth.shape[1:], mode="bilinear")
            confidence, labels = resized.softmax(1).max(1)
            known = unlabelled.inside & (unlabelled.truth != IGNORE)
            right = labels == unlabelled.truth
            pixels[way] += zip(right[known], (confidence > threshold)[known], strict=True)
    names = run.parts.reader.spec.class_names
    rows = {row[0]: row[2:] for row in labellers.rows(names) if row[1] == "all"}
    for way, judged in pixels.items():
        right, above = torch.tensor(judged).T
        accuracy, _, share, right_above = map(float, rows[way])
        assert 0 < share < 100
        assert accuracy == pytest.approx(100 * float(right.float().mean()), abs=0.01)
        assert share == pytest.approx(100 * float(above.float().mean()), abs=0.01)
        assert right_above == pytest.approx(100 * float(right[above].float().mean()), abs=0.01)
    assert rows["own running"] != rows["student's running"]


def test_steps_of_trainings_at_once_are_counted():
    words = [*TINY, "train.iterations=100000", "train.validate_every=100000"]
    (seconds,) = benchmark_busy.step_seconds(["default"], 3, words)
    assert 0 < seconds < 3


def test_waiting_policies_are_compared(tmp_path, monkeypatch, capsys):
    """A step takes 0.2 s alone and 0.5 s beside another; sleeping threads cost 0.01 s alone."""

    def step_seconds(settings, seconds, words):
        spinning = settings[0] == "default"
        alone = 0.2 if spinning else 0.21
        return [alone] if len(settings) == 1 else [0.3, 0.5 if spinning else 0.4]

    monkeypatch.setattr(benchmark_busy, "step_seconds", step_seconds)
    words = ["--settings", "default", "OMP_WAIT_POLICY=PASSIVE", "--rounds", "1"]
    assert benchmark_busy.main([*words, "--output", str(tmp_path)]) == 0
    assert [row["ratio_to_fastest_alone"] for row in rows(tmp_path / "busy.csv")] == ["2.5", "2.0"]
    assert "0.210 s a step alone (5% over the fastest)" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="processor time is limited by it")
def test_a_family_of_encoders_is_tried(tmp_path, capsys):
    words = ["--families", "byobnet", "--output", str(tmp_path / "encoders.csv")]
    assert benchmark_encoders.main(words) == 0
    (row,) = rows(tmp_path / "encoders.csv")
    assert (row["member"], row["trains"], row["exports"]) == ("test_byobnet", "yes", "yes")
    (line,) = capsys.readouterr().out.splitlines()  # none says that the list is wrong
    assert line.startswith("byobnet | test_byobnet | dilating | ")

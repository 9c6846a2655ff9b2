"""Configuration: files, bases, overrides, and errors that say what to do."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from reco import cli
from reco.config import (
    CONFIG_FOLDER,
    ConfigError,
    check_option,
    config_from_dict,
    config_name,
    explain_config,
    load_config,
)
from reco.loss import ReCoOptions
from reco.training.build import build_objective

# Budgets whose labelled images are those of a list.
BUDGETS = {"pascal": (92, 183, 366, 732, 1464), "cityscapes": (186, 372, 744, 1488)}
WITH_A_LIST = [f"{name}_{count}.yaml" for name, counts in BUDGETS.items() for count in counts]
ALL_CONFIGS = sorted({path.name for path in CONFIG_FOLDER.glob("*.yaml")} - {*WITH_A_LIST})


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str, name: str = "experiment.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_every_config_loads_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(name)
    assert config_from_dict(config.to_dict(), "test") == config


@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_every_config_has_the_relation_temperature_of_the_figures(name):
    assert load_config(name).reco.relation_temperature == 0.5


@pytest.mark.parametrize("name", WITH_A_LIST)
def test_the_fields_budgets_ask_for_a_list(name):
    count = name.split("_")[1].removesuffix(".yaml")
    asked = rf"{name}: dataset.labelled_ids has to be set .* a list of the {count} labelled"
    with pytest.raises(ConfigError, match=asked):
        load_config(name)
    config = load_config(name, ["dataset.labelled_ids=list.txt"])
    assert config.dataset.labelled_ids == "list.txt"
    assert all(extent % 14 == 0 for extent in config.dataset.crop_size)  # patches of DINOv2
    assert config.reco.relation_temperature == 0.5


@pytest.mark.parametrize("scheme", ["reco", "cutmix", "two_views", "two_views_reco"])
def test_schemes_go_behind_a_data_set(scheme):
    config = load_config(["camvid_5shot.yaml", f"schemes/{scheme}.yaml"], ["dataset.root=data"])
    two = scheme.startswith("two_views")
    assert config.method.strong_views == 1 + two
    assert config.method.unsupervised_loss == ("threshold" if two else "share")
    assert config.reco.enabled == ("reco" in scheme)
    if scheme == "reco":  # the paper's is the default
        assert config == load_config("camvid_5shot.yaml", ["dataset.root=data"])


def test_base_is_extended_and_overrides_win(write):
    write("dataset: {name: synthetic, labelled_images: 5}\ntrain: {seed: 3, workers: 0}", "a.yaml")
    path = write("base: a.yaml\ntrain: {seed: 4}")
    config = load_config(path, ["train.workers=7", "reco.temperature=1e-1"])
    assert config.dataset.labelled_images == 5
    assert (config.train.seed, config.train.workers) == (4, 7)
    assert config.reco.temperature == 0.1


def test_resolved_yaml_loads_to_the_same_config(write):
    config = load_config(
        write(
            "dataset: {name: folder, root: x, class_names: [background, crack], "
            "label_map: {0: 0, 255: 1}, crop_size: [64, 64], partial_labels: 0.01}"
        )
    )
    assert config.dataset.label_map == {0: 0, 255: 1}
    assert load_config(write(config.to_yaml(), "resolved.yaml")) == config


NO_EXPERIMENT = {
    "dataset.cache",
    "dataset.root",
    "dataset.skip_unreadable",
    "output_dir",
    "train.checkpoint_every",
    "train.deterministic",
    "train.device",
    "train.log_every",
    "train.panel_images",
    "train.validate_every",
    "train.workers",
}


def test_hash_and_differences_leave_out_what_changes_no_number():
    config = load_config("demo.yaml")
    fields = {("", "output_dir")} | {
        (section, key)
        for section, values in config.to_dict().items()
        if isinstance(values, dict)
        for key in values
    }
    assert len(fields) > 40
    for section, key in fields:
        name = f"{section}.{key}".lstrip(".")
        if section:
            part = copy.copy(getattr(config, section))
            object.__setattr__(part, key, "another")  # past the checks of the loss's options
            other = dataclasses.replace(config, **{section: part})
        else:
            other = dataclasses.replace(config, **{key: "another"})
        differ = config.differences(other)
        assert list(differ) == ([] if name in NO_EXPERIMENT else [name])
        assert (config.hash() == other.hash()) == (name in {*NO_EXPERIMENT, "train.seed"}), name
    assert config.differences(load_config("demo.yaml", ["train.seed=3"])) == {"train.seed": (0, 3)}


def test_a_key_that_is_gone_is_passed_over_where_it_changed_nothing(write):
    path = write("dataset: {name: synthetic}\nreco: {true_labels: false}")
    assert load_config(path) == load_config(write("dataset: {name: synthetic}", "without.yaml"))
    with pytest.raises(ConfigError, match=r"--set: reco\.true_labels = True: this key was removed"):
        load_config(path, ["reco.true_labels=true"])


def test_contradicting_keys_are_refused_by_name():
    base = ["dataset.name=folder", "dataset.root=x", "dataset.class_names=[a, b]"]
    for keys, words in {
        ("dataset.labelled_images=3", "dataset.labelled_ids=l.txt"): ("labelled_images = 3", "all"),
        ("dataset.labelled_ids=l.txt", "dataset.partial_labels=pixel"): ("partial_labels = pixel",),
        ("dataset.partial_labels=0.5", "dataset.labelled_ids=l.txt"): ("partial_labels = 0.5",),
    }.items():
        overrides = ["dataset.labelled_images=all", *base, *keys]
        with pytest.raises(ConfigError, match=r"dataset\.labelled_ids = 'l\.txt'") as error:
            load_config("demo.yaml", overrides)
        assert not [word for word in words if word not in str(error.value)], str(error.value)
    listed = load_config("demo.yaml", [*base, "dataset.labelled_images=all", keys[1]])
    # Configurations of earlier runs, which may contradict, are still read.
    content = listed.to_dict()
    content["dataset"]["labelled_images"] = 3
    assert config_from_dict(content, "last.pt").dataset.labelled_ids == "l.txt"
    with pytest.raises(
        ConfigError, match=r"--set: dataset\.root = 'elsewhere': expected null, since"
    ):
        load_config("demo.yaml", ["dataset.root=elsewhere"])


@pytest.mark.parametrize(
    ("command", "option", "override"),
    [
        ("train --config demo.yaml", "--extend-to 6", "train.iterations=9"),
        ("eval --checkpoint last.pt", "--split test", "dataset.eval_split=val"),
        ("plot relation last.pt", "--split test", "dataset.eval_split=val"),
        ("prepare camvid", "--root here", "dataset.root=there"),
        ("study studies/demo.yaml --collect", "--devices cuda:1", "train.device=cuda:0"),
    ],
)
def test_an_option_and_set_that_contradict_each_other_are_refused(
    command, option, override, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command.split(), *option.split(), "--set", override]) == 1
    error = capsys.readouterr().err
    assert error.endswith(f"error: {option} and --set {override}: expected one of them\n")


def test_an_option_may_say_what_set_says():
    check_option("--split", "val", "dataset.eval_split", ["dataset={eval_split: val}"])
    check_option("--split", "val", "dataset.eval_split", ["train.seed=1"])
    check_option("--split", None, "dataset.eval_split", ["dataset.eval_split=test"])
    with pytest.raises(ConfigError, match=r"--split val and --set dataset\.eval_split=test"):
        check_option("--split", "val", "dataset.eval_split", ["dataset={eval_split: test}"])


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_config("demo.yaml").train.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.iterations=010", ["train.iterations", "YAML takes 010 for the number 8"]),
        ("train.sede=1", ["--set", "train.sede", "unknown", "'seed'"]),
        ("trian.seed=1", ["trian", "'train'"]),
        ("train.seed=1.5", ["train.seed", "1.5", "whole number"]),
        ("train.seed=true", ["train.seed", "True", "whole number"]),
        ("train=3", ["train", "3", "section"]),
        ("method.mix=clasmix", ["method.mix", "clasmix", "cutmix", "'classmix'"]),
        ("method.unsupervised=maybe", ["method.unsupervised", "maybe", "true or false"]),
        ("dataset.crop_size=96", ["dataset.crop_size", "96", "list"]),
        ("dataset.crop_size=[96]", ["dataset.crop_size", "2 values"]),
        ("dataset.crop_size=[1, 1]", ["dataset.crop_size", "16"]),
        ("dataset.scale_range=[2.0, 1.0]", ["dataset.scale_range", "smallest"]),
        ("dataset.labelled_images=0", ["dataset.labelled_images", "0", "at least 1"]),
        ("dataset.labelled_images=some", ["dataset.labelled_images", "some", "all"]),
        ("dataset.partial_labels=pixel", ["dataset.partial_labels", "labelled_images"]),
        ("dataset.validation=1", ["dataset.validation = 1", "a share in (0, 1) or"]),
        ("dataset.partial_labels=2", ["dataset.partial_labels", "share"]),
        ("dataset.name=camvid", ["dataset.root", "camvid"]),
        ("dataset.class_names=[a, b]", ["dataset.class_names", "synthetic"]),
        ("model.output_stride=4", ["model.output_stride", "4", "8, 16, 32"]),
        ("reco.strong_threshold=97", ["reco.strong_threshold", "97", "probability"]),
        ("reco.temperature=0", ["reco.temperature", "> 0"]),
        (
            "train.unlabelled_batch_size=1",
            ["train.unlabelled_batch_size", "at least 2", "classmix"],
        ),
        ("train.iterations", ["train.iterations", "key=value"]),
        ("train.iterations=[", ["train.iterations", "YAML"]),
        ("dataset.eval_split='val", ["dataset.eval_split", "YAML"]),
        ("output_dir=", ["output_dir", "text"]),
        ("output_dir=$NOT_SET_HERE/runs", ["output_dir", "$NOT_SET_HERE/runs", "variable"]),
        ("output_dir=~nobody-of-this-name/x", ["output_dir", "~nobody-of-this-name", "home"]),
    ],
)
def test_wrong_overrides_are_named(override, words):
    with pytest.raises(ConfigError) as error:
        load_config("demo.yaml", [override])
    assert not [word for word in words if word not in str(error.value)], str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("dataset.min_classes_per_image", "0", "at least 1"),
        ("dataset.image_size", "[0, 512]", "a positive height and width or null"),
        ("dataset.scale_range", "[0, 1]", "0 < smallest <= largest"),
        ("model.representation_dim", "0", "at least 1"),
        ("model.channels", "0", "at least 1"),
        ("method.cutmix_area", "[0.5, 1]", "0 < smallest <= largest < 1"),
        ("method.cutmix_aspect", "[0, 1]", "0 < smallest <= largest or null"),
        ("method.teacher_decay", "1", r"a number in \[0, 1\)"),
        ("method.unsupervised_threshold", ".nan", r"a probability in \[0, 1\]"),
        ("reco.weight", "-1", "a number >= 0"),
        ("reco.weak_threshold", "1.1", r"a probability in \[0, 1\]"),
        ("reco.num_negatives", "0", "at least 1"),
        ("reco.relation_temperature", ".inf", "a number > 0"),
        ("train.iterations", "0", "at least 1"),
        ("train.labelled_batch_size", "0", "at least 1"),
        ("train.unlabelled_batch_size", "-1", "at least 0"),
        ("train.learning_rate", "0", "a number > 0"),
        ("train.weight_decay", "-1e-4", "a number >= 0"),
        ("train.momentum", "1", r"a number in \(0, 1\)"),
        ("train.class_weights", "[1, 0]", "balanced or a number > 0 for each class or null"),
        ("train.workers", "-1", "at least 0 or one of auto"),
        ("train.log_every", "0", "at least 1"),
        ("train.panel_images", "-1", "at least 0"),
    ],
)
def test_values_out_of_range_are_named(key, value, expected):
    with pytest.raises(ConfigError, match=f"^--set: {key} = .*: expected .*{expected}$"):
        load_config("demo.yaml", [f"{key}={value}"])


@pytest.mark.parametrize(
    "text", ["data #2", "2024", "2024_01", "1e3", "yes", "a: b", "[x", "*", "@x", "'data #2'"]
)
def test_what_is_text_stays_as_it_is_behind_set(text):
    config = load_config("camvid.yaml", [f"dataset.root={text}", f"dataset.eval_split={text}"])
    assert config.dataset.root == config.dataset.eval_split == text.strip("'")
    null = load_config("folder.yaml", [f"dataset.labelled_ids={text}", "dataset.labelled_ids=null"])
    assert null.dataset.labelled_ids is None


def test_text_in_a_file_that_yaml_takes_for_a_number_wants_quotes(write):
    path = write("dataset: {name: camvid, root: 2024_01}")
    with pytest.raises(
        ConfigError, match=r"dataset\.root = 202401: expected text or null \(in quotes"
    ):
        load_config(path)
    path = write("dataset: {name: camvid, root: '2024_01'}")
    assert load_config(path).dataset.root == "2024_01"


def test_homes_and_variables_are_filled_in(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "~/data")
    write("dataset: {name: camvid, labelled_ids: $DATA/ids.txt}", "base.yaml")
    write("base: $HOME/base.yaml\noutput_dir: ~/runs\nmodel: {weights: '${DATA}/w.pth'}")
    config = load_config("~/experiment.yaml", ["dataset.root=~"])
    assert config.output_dir == str(tmp_path / "runs")
    assert config.model.weights == str(tmp_path / "data" / "w.pth")
    assert config.dataset.labelled_ids == str(tmp_path / "data" / "ids.txt")
    assert config.dataset.root == str(tmp_path)
    assert load_config("demo.yaml").model.weights == "none"


def test_every_key_that_names_a_path_is_filled_in(monkeypatch):
    monkeypatch.setenv("DATA", "/data")
    keys = ("images", "masks", "unlabelled", "validation", "test", "root")
    paths = [f"dataset.{key}=$DATA/{key}" for key in keys]
    paths += ["output_dir=$DATA/runs", "model.weights=$DATA/w.pth"]
    config = load_config("folder.yaml", paths)
    for key in keys:
        assert getattr(config.dataset, key) == f"/data/{key}"
    assert (config.output_dir, config.model.weights) == ("/data/runs", "/data/w.pth")
    for key in ("labelled_ids", "unlabelled_ids"):
        config = load_config("folder.yaml", [f"dataset.{key}=$DATA/{key}"])
        assert getattr(config.dataset, key) == f"/data/{key}"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_of_a_windows_editor_is_read(write, encoding):
    path = write("")
    path.write_bytes("dataset: {name: camvid, root: straße}".encode(encoding))
    assert load_config(path).dataset.root == "straße"
    path.write_bytes("dataset: {name: camvid, root: straße}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"experiment\.yaml: not text in UTF-8"):
        load_config(path)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("ignore", "#804080", "#804080"),
        ("ignore", "7", 7),
        ("ignore", "[7, '#804080']", (7, "#804080")),
        ("validation", "0.2", 0.2),
        ("validation", "data #2", "data #2"),
        ("validation", "@x", "@x"),
        ("validation", "'0.2'", 0.2),
        ("validation", "null", None),
        ("labelled_images", "all", "all"),
    ],
)
def test_what_may_be_text_or_something_else_behind_set(key, text, value):
    config = load_config(
        "folder.yaml", ["dataset.root=x", "dataset.validation=v", f"dataset.{key}={text}"]
    )
    assert getattr(config.dataset, key) == value


def test_every_option_of_the_loss_reaches_it():
    changed = {
        "num_queries": 3,
        "num_negatives": 4,
        "temperature": 0.25,
        "strong_threshold": 0.5,
        "relation_temperature": 2.0,
        "query_sampling": "easy",
        "key_sampling": "random",
        "negatives": "per_query",
        "gradient_through_means": True,
    }
    assert set(changed) == {field.name for field in dataclasses.fields(ReCoOptions)}
    overrides = [f"reco.{name}={value}" for name, value in changed.items()]
    reco = build_objective(load_config("demo.yaml", overrides)).reco
    assert {name: getattr(reco.options, name) for name in changed} == changed
    assert build_objective(load_config("demo.yaml", ["reco.enabled=false"])).reco is None


def test_errors_name_the_file_that_holds_the_key(write):
    write("dataset: {name: synthetic}\nreco: {weight: -1}", "base.yaml")
    path = write("base: base.yaml\ntrain: {seed: 1}")
    with pytest.raises(ConfigError, match=r"base\.yaml: reco\.weight = -1: expected a number >= 0"):
        load_config(path)


def test_files_that_are_not_configurations(write):
    with pytest.raises(ConfigError, match=r"did you mean 'demo\.yaml'"):
        load_config("dmo.yaml")
    with pytest.raises(ConfigError, match="not a YAML file"):
        load_config(write("dataset: [", "a.yaml"))
    with pytest.raises(ConfigError, match="key: value"):
        load_config(write("- 1", "b.yaml"))
    with pytest.raises(ConfigError, match=r"c\.yaml: base = 'none\.yaml'"):
        load_config(write("base: none.yaml", "c.yaml"))
    with pytest.raises(ConfigError, match="comes back"):
        load_config(write("base: d.yaml", "d.yaml"))
    with pytest.raises(ConfigError, match="dataset: missing"):
        load_config(write("train: {seed: 1}", "e.yaml"))
    with pytest.raises(ConfigError, match=r"dataset\.class_names"):
        load_config(write("dataset: {name: folder, root: x}", "f.yaml"))


def test_a_mistyped_name_is_compared_with_own_files_and_told_in_short(write, monkeypatch, tmp_path):
    write("base: demo.yaml", "crack.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean 'crack\.yaml'") as found:
        load_config("crak.yaml")
    message = str(found.value)
    assert f"'crak.yaml': no such file in {tmp_path} or {CONFIG_FOLDER}" in message
    assert "The latter holds camvid.yaml, cityscapes.yaml, demo.yaml" in message
    assert "camvid_20.yaml" not in message
    with pytest.raises(ConfigError) as found:
        load_config("nosuch.yaml")
    assert "did you mean" not in str(found.value)  # not sun.yaml
    with pytest.raises(
        ConfigError, match=r"crak\.yaml': no such file \(did you mean .*crack\.yaml"
    ):
        load_config(tmp_path / "crak.yaml")


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("iterations=3", "train.iterations"),
        ("dataset.iteratons=3", "train.iterations"),
        ("channels=4", "dataset.channels"),
        ("train.iteratons=3", "iterations"),
        ("trian.seed=1", "train"),
    ],
)
def test_an_unknown_key_is_compared_with_those_of_all_sections(write, override, meant):
    key = override.partition("=")[0].rpartition(".")[0] or override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{key}.*: unknown key \(did you mean '{meant}'\?\)"):
        load_config("demo.yaml", [override])
    with pytest.raises(ConfigError, match=r"train\.crop_size: .* mean 'dataset\.crop_size'"):
        load_config(write("base: demo.yaml\ntrain: {crop_size: [8, 8]}"))


def test_supervised_baseline_doubles_the_labelled_batch():
    config = load_config("demo.yaml")
    supervised = load_config("demo.yaml", ["method.unsupervised=false"])
    sizes = config.train.labelled_batch_size + config.train.unlabelled_batch_size
    assert config.labelled_batch_size == config.train.labelled_batch_size
    assert supervised.labelled_batch_size == sizes


def test_later_files_lie_over_earlier_ones_and_bases_below_their_file(write):
    first = write("train: {iterations: 5, seed: 5}\nreco: {weight: 5}\n", "a.yaml")
    write("train: {iterations: 6}\n", "b.yaml")
    both = write("base: [demo.yaml, a.yaml, b.yaml]\ntrain: {seed: 7}\n", "both.yaml")
    config = load_config([both, first], ["reco.weight=8"])
    assert (config.train.iterations, config.train.seed, config.reco.weight) == (5, 5, 8)
    assert load_config(both).train.iterations == 6
    assert load_config(both).train.seed == 7
    assert config_name([both, first]) == "both+a"


def test_each_value_says_where_it_came_from(write, capsys):
    file = write("base: demo.yaml\ntrain: {iterations: 5}\n", "short.yaml")
    shown = explain_config([file], ["train.seed=3"])
    origins = {line.split(":")[0].strip(): line.split("# ")[-1] for line in shown.splitlines()}
    assert origins["iterations"] == str(file)
    assert origins["seed"] == "--set"
    assert origins["crop_size"].endswith("demo.yaml")
    assert origins["momentum"] == "default"
    assert config_from_dict(yaml.safe_load(shown), "shown") == load_config(file, ["train.seed=3"])
    command = ["train", "--config", str(file), "--show", "--set", "train.seed=3"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == shown + "\n"


def test_classes_in_place_of_the_names_of_a_base(write, capsys):
    """Where they come from is said of both keys, and their order is kept."""
    table = "dataset.classes={road: 0, car: 255}"
    assert cli.main(["train", "--config", "folder.yaml", "--show", "--set", table]) == 0
    shown = capsys.readouterr().out
    lines = {line.split(":")[0].strip(): " ".join(line.split()) for line in shown.splitlines()}
    assert lines["class_names"] == (
        "class_names: [road, car] # --set: the names in dataset.classes"
    )
    assert lines["classes"] == "classes: {road: 0, car: 255} # --set"
    config = load_config("folder.yaml", [table])
    assert config_from_dict(yaml.safe_load(shown), "shown") == config
    base = load_config("folder.yaml")
    for one, other in ((config, base), (base, config)):  # as the commands of a study
        assert config_from_dict(other.to_dict(), "other", one.overrides_over(other)) == one

    file = write("base: folder.yaml\ndataset: {classes: {road: 0, car: 255}}\n")
    names = explain_config([file], ["dataset.class_names=[a, b]"])
    assert re.search(r"class_names: \[a, b\] +# --set$", names, re.MULTILINE)
    assert re.search(r" classes: null +# default$", names, re.MULTILINE)
    with pytest.raises(ConfigError, match=r"^--set: dataset.class_names = \['road'\]: expected"):
        load_config(file, ["dataset.classes={road: 0}"])


def test_a_base_that_is_no_name_or_comes_back(write):
    number = write("base: [demo.yaml, 3]\n", "number.yaml")
    with pytest.raises(ConfigError, match=r"base = \['demo.yaml', 3\]"):
        load_config(number)
    first = write("base: second.yaml\n", "first.yaml")
    write("base: [demo.yaml, first.yaml]\n", "second.yaml")
    with pytest.raises(ConfigError, match="comes back"):
        load_config(first)


def test_a_change_may_bring_whole_files(write):
    file = write("train: {iterations: 5, seed: 5}\n", "part.yaml")
    change = ("study", {"base": str(file), "train.seed": 6})
    config = load_config("demo.yaml", changes=[change])
    assert (config.train.iterations, config.train.seed) == (5, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  seed: 1\n  iterations: 2\n  seed: 3\n", r"'seed' is there twice(?s:.*)line 4"),
        ("dataset: {classes: {a: 0, a: 1}}", r"'a' is there twice(?!.*quotes)"),
        (
            "train:\n  seed: 010\n",
            r"experiment.yaml: YAML takes 010 for the number 8: (?s:.*)line 2.*\n.*seed:",
        ),
        ("train: {learning_rate: 010}", r"YAML takes 010 for the number 8: expected digits"),
        ("train: {iterations: 1:30}", r"YAML takes 1:30 for the number 90: expected digits"),
        ("dataset: {class_names: [001, 002]}", r'YAML takes 001 for the .*, "001" in quotes'),
        ("train: {seed: 99999999999999999999}", r"train.seed = 9{20}.* between -2\^63 and 2\^63"),
    ],
)
def test_the_message_names_the_place(write, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(text))

"""Studies: methods x budgets x seeds of one experiment, read from a file and checked.

A study file names a configuration, which may lie beside it, and what its runs change::

    config: demo.yaml
    seeds: [0, 1, 2]
    set: {train.iterations: 2000}
    baseline: ClassMix
    test_split: test
    methods:
      ClassMix: {reco.enabled: false}
      ClassMix + ReCo:
    budgets:
      10 images: {dataset.labelled_images: 10}

A seed is both that of the run and that of the split, so that methods are compared pair by pair.
Runs are kept in ``runs/studies/runs`` (or below another ``output_dir``) by their configuration, so
that studies share equal runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from reco.config import (
    CONFIG_FOLDER,
    Config,
    ConfigError,
    bases,
    config_name,
    find_beside,
    find_config,
    load_config,
    read_yaml,
)
from reco.data import open_dataset
from reco.data.splits import check_labelled
from reco.paths import user_path
from reco.runs.folder import run_path

_KEYS = {"config", "output_dir", "seeds", "set", "baseline", "methods", "budgets", "test_split"}


@dataclass(frozen=True)
class Study:
    """The content of a study file."""

    path: Path  # of the file
    name: str
    config: str
    output_dir: Path
    seeds: tuple[int, ...]
    methods: Mapping[str, Mapping[str, Any]]
    budgets: Mapping[str, Mapping[str, Any]]
    baseline: str | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)  # keys that all runs change
    test_split: str | None = None  # evaluate the last checkpoint of each run on it too

    @property
    def results_dir(self) -> Path:
        """Where tables and pictures go; the runs are in ``output_dir/runs``."""
        return self.output_dir / self.name


class StudyRun(NamedTuple):
    """One run of a study."""

    method: str
    budget: str
    seed: int
    config: Config
    folder: Path

    @property
    def title(self) -> str:
        """``ClassMix, 10 images, seed 0``."""
        return ", ".join(part for part in (self.method, self.budget, f"seed {self.seed}") if part)


def load_study(path: str | Path, config: str | None = None) -> Study:
    """Read a study file: a path, or a name in ``configs/`` such as ``studies/demo.yaml``.

    Args:
        path: of the study file.
        config: configuration of the runs, instead of the study's.

    Raises:
        ConfigError: a key that is missing, unknown or of another kind than expected.
    """
    found = find_config(path)
    content = read_yaml(found)
    if not {"config", "methods"} <= set(content):
        raise ConfigError(f"{found}: expected at least the keys config and methods")
    unknown = sorted(map(str, set(content) - _KEYS))
    if unknown:
        raise ConfigError(
            f"{found}: {unknown[0]}: unknown key; there are {', '.join(sorted(_KEYS))}"
        )

    def require(key: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{found}: {key} = {content.get(key)!r}: expected {expected}")

    def named(key: str, default: Any = None) -> dict[str, Mapping[str, Any]]:
        """Name -> changed keys; nothing behind a name changes nothing."""
        value = content.get(key, default)
        holds = isinstance(value, dict) and bool(value)
        holds = holds and all(isinstance(keys, dict | None) for keys in value.values())
        require(key, holds, "a name for each, and behind it the keys it changes")
        return {
            str(name): _with_found_bases(found, f"{key}: {name}", keys or {})
            for name, keys in value.items()
        }

    methods = named("methods")
    seeds = content.get("seeds", [0, 1, 2])
    baseline, test_split = content.get("baseline"), content.get("test_split")
    baseline = None if baseline is None else str(baseline)
    whole = isinstance(seeds, list) and all(type(seed) is int for seed in seeds)
    require("seeds", whole and 0 < len(seeds) == len(set(seeds)), "a list such as [0, 1, 2]")
    require("set", isinstance(content.get("set", {}), dict), "the keys that all runs change")
    require("baseline", baseline is None or baseline in methods, "one of the methods")
    require("test_split", test_split in (None, "train", "val", "test"), "train, val or test")
    for key in ("config", "output_dir"):
        require(key, isinstance(content.get(key, ""), str), "text")
    output_dir = content.get("output_dir", "runs/studies")
    try:
        output_dir = user_path(output_dir)
    except ValueError as error:
        raise ConfigError(f"{found}: output_dir = {output_dir!r}: expected {error}") from error
    return Study(
        path=found,
        name=found.stem if config is None else f"{found.stem}-{config_name([config])}",
        config=config or _find(found, "config", content["config"]),
        output_dir=output_dir,
        seeds=tuple(seeds),
        methods=methods,
        budgets=named("budgets", {"": {}}),
        baseline=baseline,
        shared=_with_found_bases(found, "set", content.get("set", {})),
        test_split=test_split,
    )


def _with_found_bases(study: Path, key: str, changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys that runs change, where ``base`` names files as :func:`_find` does."""
    if "base" not in changes:
        return changes
    named = bases(changes["base"], f"{study}: {key}")
    return {**changes, "base": [_find(study, f"{key}: base", name) for name in named]}


def _find(study: Path, key: str, name: str) -> str:
    """The configuration that a study names, as a command of the current folder names it."""
    found = find_beside(study, key, name)
    shipped = CONFIG_FOLDER / name
    if "methods" in read_yaml(found) and shipped.is_file():  # a study, called as its configuration
        found = shipped
    # By its name where that is enough: the commands of runs show it.
    return name if found == shipped and not Path(name).is_file() else str(found)


def study_runs(study: Study, overrides: Sequence[str] = ()) -> list[StudyRun]:
    """The runs of a study, seed by seed, so that an early table already compares methods.

    Args:
        study: which runs.
        overrides: ``key=value`` for all of them, such as ``dataset.root=…``.

    Raises:
        ConfigError: an impossible run, or two equal ones; they are named.
    """
    output_dir = str(study.output_dir / "runs")
    by_folder: dict[Path, StudyRun] = {}
    for seed in study.seeds:
        keys = {"train.seed": seed, "dataset.split_seed": seed, "output_dir": output_dir}
        for budget, budget_keys in study.budgets.items():
            for method, method_keys in study.methods.items():
                changes = [
                    (f"{study.path}: seeds", keys),
                    (f"{study.path}: set", study.shared),
                    (f"{study.path}: budgets: {budget}", budget_keys),
                    (f"{study.path}: methods: {method}", method_keys),
                ]
                config = load_config(study.config, overrides, changes=changes)
                if config.output_dir != output_dir:
                    raise ConfigError(
                        f"output_dir = {config.output_dir!r}: the runs of a study are kept below "
                        "that of the study: set the study's key output_dir, or --output-dir"
                    )
                if config.train.seed != seed:
                    raise ConfigError(
                        f"train.seed = {config.train.seed}: the seeds of a study are its key "
                        f"seeds, here {list(study.seeds)}"
                    )
                # By the configuration alone: studies share equal runs.
                folder = run_path(config, config_name([study.config]))
                run = StudyRun(method, budget, seed, config, folder)
                twin = by_folder.setdefault(folder, run)
                if twin is not run:
                    raise ConfigError(
                        f"{study.path}: «{twin.title}» and «{run.title}» are the same run;"
                        " does --set, or the study's set, change the key that tells them apart?"
                    )
    return list(by_folder.values())


def check_data(runs: Sequence[StudyRun], test_split: str | None) -> None:
    """Find errors in data, splits and budgets of any run before the first one starts.

    Args:
        runs: their data are listed, without reading images.
        test_split: evaluated at the end of each run.

    Raises:
        ValueError, FileNotFoundError: what :func:`open_dataset` and readers raise, and a number of
            labelled images that the data set does not have.
    """
    seen = set()
    for run in runs:
        data = replace(run.config.dataset, split_seed=0)
        key = repr((data, run.config.method.unsupervised))
        if key in seen:
            continue
        seen.add(key)
        reader = open_dataset(data)
        try:
            check_labelled(reader, run.config)
        except ValueError as error:
            raise ConfigError(f"{run.title}: {error}") from error
        for split in {data.eval_split, test_split or data.eval_split}:
            reader.ids(split)

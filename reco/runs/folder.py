"""The folder of one run: its configuration, split, metrics and pictures."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reco.config import Config, ConfigError, config_from_dict, read_yaml
from reco.runs.environment import environment
from reco.writing import write_text_whole, writing

ELSEWHERE = "choose another output_dir"
ANOTHER_RUN = "another --set output_dir=… or train.seed=…"


def run_path(config: Config, name: str) -> Path:
    """``<output_dir>/<name>/<hash>-s<seed>``, where a run of ``config`` is kept.

    The hash is that of the experiment without its seed (:meth:`Config.hash`): runs that differ in
    their seed lie side by side, and a run that is made longer stays where it is.

    Args:
        config: of the run.
        name: of the experiment, usually the configuration file's name.
    """
    return Path(config.output_dir) / name / f"{config.hash()}-s{config.train.seed}"


def resumed_folder(path: Path) -> Path:
    """The run that ``--resume PATH`` means: its folder, or ``last.pt`` in it.

    Raises:
        ConfigError: neither of them.
    """
    if path.is_dir():
        return path
    if path.is_file() and path.name == "last.pt":
        return path.parent
    raise ConfigError(
        f"--resume {path}: expected the folder of a run, or the last.pt in it"
        + (": that is what a run goes on from" if path.is_file() else "; there is no such path")
        + ". Without a path, --resume goes on with the run of --config, or starts it"
    )


def read_run_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of the run in ``folder``, with ``key=value`` overrides on top.

    Raises:
        ConfigError: no ``config.yaml`` there, or one that cannot be used.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; --config says what the run is")
    return config_from_dict(read_yaml(path), str(path), overrides)


def related_runs(config: Config, folder: Path) -> list[str]:
    """Runs beside ``folder`` that the user may want to resume instead of starting a new one.

    These are the same run under the name of an earlier version, and a shorter one.
    """
    found = []
    for path in sorted(folder.parent.glob("*/config.yaml")):
        try:
            other = read_run_config(path.parent)
        except (ConfigError, OSError):
            continue  # of another version, or half-written
        changed = other.differences(config)
        if not changed:
            found.append(f"note: {path.parent} is the same run; `--resume {path.parent}` goes on")
        elif changed.keys() == {"train.iterations"} and other.train.iterations < (
            iterations := config.train.iterations
        ):
            found.append(
                f"note: {path.parent} is the same at {other.train.iterations} iterations; "
                f"`--resume {path.parent} --extend-to {iterations}` goes on with it"
            )
    return found


def with_absolute_root(config: Config) -> Config:
    """``config`` with ``dataset.root`` from the root of the file system.

    So it is kept in a run: commands in other folders find the data by it.
    """
    root = config.dataset.root
    absolute = None if root is None else os.path.abspath(root)
    return replace(config, dataset=replace(config.dataset, root=absolute))


class RunFolder:
    """The files of one run, in ``path``."""

    def __init__(self, path: Path, *, tensorboard: bool = False) -> None:
        self.path = path
        self.metrics_path = path / "metrics.jsonl"
        self._new_writer = _tensorboard_writer() if tensorboard else None
        self._writer: Any = None

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.path.is_dir() and any(self.path.iterdir())

    def create(self, config: Config, split: Mapping[str, Any], *, again: bool = False) -> None:
        """Start a run here.

        Args:
            config: of the run.
            split: content of ``split.json``.
            again: a run that was stopped before its first checkpoint lies here; start it anew.

        Raises:
            FileExistsError: the folder already holds a run.
        """
        if self.exists and not again:
            other = self._other_data(config, split)
            raise FileExistsError(
                f"{self.path} already holds a run of this configuration"
                + (
                    f", on {other}: choose another --set output_dir=…, or another name for the "
                    "configuration file; where the data have only moved, --resume goes on with it"
                    if other
                    else f": go on with it by --resume, delete it, or choose {ANOTHER_RUN}"
                )
            )
        with writing(self.path, ELSEWHERE):
            (self.path / "panels").mkdir(parents=True, exist_ok=True)
        self.drop_after(0)
        write_text_whole(self.path / "config.yaml", config.to_yaml())
        for name, content in (("split", split), ("environment", environment())):
            write_text_whole(self.path / f"{name}.json", json.dumps(content, indent=1) + "\n")

    def _other_data(self, config: Config, split: Mapping[str, Any]) -> str:
        """The data of the run that lies here, if they are not those of ``config``; else empty."""
        try:
            root = read_run_config(self.path).dataset.root
            same = json.loads((self.path / "split.json").read_text(encoding="utf-8"))["hash"]
        except (OSError, ValueError, KeyError):
            return ""  # killed while it was made
        if root != config.dataset.root:
            return f"the data in {root}"
        return "" if same == split["hash"] else f"other training images in {root}"

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``; a number that is not finite becomes ``null``."""
        line = json.dumps(_finite(record)) + "\n"
        with writing(self.metrics_path), self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(line)
        if self._new_writer is not None:
            # Made late, since it makes a folder, and the run's must not exist before it is created.
            folder = self.path / "tensorboard"
            with writing(folder):
                self._writer = self._writer or self._new_writer(str(folder))
                for name, number in _scalars(record).items():
                    self._writer.add_scalar(name, number, record["iteration"])
                self._writer.flush()

    def extend(self, config: Config, iteration: int, before: int) -> None:
        """Note a new length of the run: in ``metrics.jsonl``, and in ``config.yaml``.

        Args:
            config: with the new length.
            iteration: reached so far.
            before: the length so far.
        """
        after = config.train.iterations
        note = json.dumps({"iteration": iteration, "extended": {"from": before, "to": after}})
        lines = self.metrics_path.read_text(encoding="utf-8").splitlines()
        if note not in lines:  # else the run was killed before its next checkpoint
            write_text_whole(self.metrics_path, "".join(f"{line}\n" for line in [*lines, note]))
        comment = (
            f"# At iteration {iteration} made longer, from {before} to {after} iterations. Trained "
            "with this\n# file from the start, the learning rate would have fallen more slowly.\n"
        )
        write_text_whole(self.path / "config.yaml", comment + config.to_yaml())

    def drop_after(self, iteration: int) -> None:
        """Drop metrics past ``iteration``: a resumed run will write them again."""
        if not self.metrics_path.exists():
            return
        kept = [
            line
            for line in self.metrics_path.read_text(encoding="utf-8").splitlines()
            if _iteration(line) <= iteration
        ]
        write_text_whole(self.metrics_path, "".join(f"{line}\n" for line in kept))

    def panel_path(self, iteration: int) -> Path:
        """Where the panel of this iteration goes."""
        return self.path / "panels" / f"{iteration:06d}.png"


def _tensorboard_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("TensorBoard is missing: pip install tensorboard") from error
    return SummaryWriter


def _scalars(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of a record by name; ``/`` between the levels. Lists are left out."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key != "iteration":
            found[f"{prefix}{key}"] = value
    return found


def _iteration(line: str) -> float:
    """The iteration of a line; infinite for one that a killed run left half-written."""
    try:
        return float(json.loads(line)["iteration"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

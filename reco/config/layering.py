"""Values of keys, laid one over another: files over their bases, and ``--set`` over all."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from reco.config.errors import ConfigError
from reco.config.sections import Config
from reco.config.yaml_text import (
    COLOUR_KEYS,
    commented_colour,
    read_yaml,
    read_yaml_value,
    refuse_unquoted_colours,
)
from reco.fields import field_types, is_text, nearest, takes_text
from reco.paths import user_path

_PACKAGE = Path(__file__).resolve().parent.parent
# In a wheel the configurations lie inside the package, in a checkout beside it.
CONFIG_FOLDER = next(
    (folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()),
    Path("configs"),
)

# Files that exist before a run: relative paths are relative to the YAML file that names them.
_LISTS = ("labelled_ids", "unlabelled_ids", "images", "unlabelled", "validation", "test")
_PATHS = {"dataset": ("root", *_LISTS), "model": ("weights",)}


def find_config(path: str | Path, beside: Path | None = None) -> Path:
    """Path of a configuration: as given, or looked up by name in the project's ``configs/``.

    Args:
        path: relative to ``beside``, the current folder, or ``configs/``, whichever has it first.
        beside: folder of a file that names it.
    """
    try:
        path = user_path(path)
    except ValueError as error:
        raise ConfigError(f"{str(path)!r}: expected {error}") from error
    folders = [Path(), CONFIG_FOLDER] if beside is None else [beside, Path(), CONFIG_FOLDER]
    near = []
    for folder in folders:
        if (folder / path).is_file():
            return folder / path
        near += [str(path.parent / file.name) for file in (folder / path).parent.glob("*.yaml")]
    names = sorted(p.relative_to(CONFIG_FOLDER).as_posix() for p in CONFIG_FOLDER.rglob("*.yaml"))
    meant = nearest(_without_ending(path), {_without_ending(name): name for name in names + near})
    if path.is_absolute():
        raise ConfigError(f"{str(path)!r}: no such file{meant}")
    places = " or ".join(dict.fromkeys(str(folder.absolute()) for folder in folders))
    raise ConfigError(
        f"{str(path)!r}: no such file in {places}{meant}. The latter holds {_shorten(names)}"
    )


def find_beside(file: Path, key: str, name: str) -> Path:
    """Path of a configuration that a key of a file names: beside it first, see `find_config`."""
    try:
        return find_config(name, file.parent)
    except ConfigError as error:
        raise ConfigError(f"{file}: {key} = {error}") from error


def _without_ending(name: str | Path) -> str:
    return str(name).removesuffix(".yaml")


def _shorten(names: Sequence[str]) -> str:
    """The configurations of whole data sets, which the others of these names vary."""
    whole = [name for name in names if not {"_", "/"} & set(name)]
    return f"{', '.join(whole) or 'no configurations'} and {len(names) - len(whole)} more"


class Layers:
    """Values of keys, laid one source over another.

    Args:
        source: of the keys that no layer has, for errors.
        values: of the lowest layer, which comes from ``source``.

    Attributes:
        values: of the keys so far, section by section.
        origins: where each dotted key that was laid came from.
    """

    def __init__(self, source: str, values: Mapping[str, Any] | None = None) -> None:
        self.source = source
        self.values: dict[str, Any] = copy.deepcopy(dict(values or {}))
        self.origins: dict[str, str] = {}

    def error(self, key: str, message: str) -> ConfigError:
        """An error about a dotted key, which names where its value came from."""
        return ConfigError(f"{self.origins.get(key, self.source)}: {key}{message}")

    def lay(self, content: dict[str, Any], source: str, *, section: str | None = None) -> None:
        """Lay the keys of a source over the values, those of a section over the section's.

        Args:
            content: keys of all sections, or of ``section``.
            source: where they come from, for errors.
            section: name of it.
        """
        prefix = "" if section is None else f"{section}."
        below = self.values if section is None else self.values[section]
        given = {key for key in ("classes", "class_names") if content.get(key) is not None}
        if section == "dataset" and len(given) == 1:
            # Alternative keys: the later one counts.
            for key in ("class_names", "label_map") if "classes" in given else ("classes",):
                below.pop(key, None)
                self.origins.pop(f"{prefix}{key}", None)
            self.origins["dataset.class_names"] = source  # they are the names in `classes`
        for key, value in content.items():
            self.origins[f"{prefix}{key}"] = source
            # Sections are one level deep; a mapping below is a value, such as `label_map`.
            if (
                isinstance(value, dict)
                and section is None
                and isinstance(self.values.setdefault(key, {}), dict)
            ):
                self.lay(value, source, section=key)
            else:
                below[key] = value

    def lay_value(self, key: str, value: Any, source: str) -> None:
        """Lay one value over the others; ``key`` may lead through sections with dots."""
        for part in reversed(key.split(".")):
            value = {part: value}
        self.lay(value, source)

    def lay_file(self, name: str | Path) -> None:
        """Lay a configuration over the values, its bases first; ``name`` as in `find_config`."""
        for source, content in _read_chain(find_config(name)):
            self.lay(content, source)

    def lay_change(self, source: str, keys: Mapping[str, Any]) -> None:
        """Lay keys over the values, with dots or section by section.

        A key ``base`` names files that lie below the others.
        """
        for base in bases(keys.get("base"), source):
            self.lay_file(base)
        for key, value in keys.items():
            if key != "base":
                self.lay_value(str(key), value, source)

    def lay_overrides(self, overrides: Sequence[str]) -> None:
        """Lay ``key=value`` strings over the values."""
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals or not key:
                raise ConfigError(f"--set {override!r}: expected key=value, e.g. train.seed=1")
            try:
                if key in COLOUR_KEYS:  # before it is read, as in a file
                    refuse_unquoted_colours(yaml.compose(text, yaml.SafeLoader), f"--set: {key}")
                value = _read_value(text, _hint(key))
            except yaml.constructor.ConstructorError as error:
                raise ConfigError(f"--set {override!r}: {error.problem}") from error
            except yaml.YAMLError as error:
                if key in COLOUR_KEYS and (commented := commented_colour(override)):
                    raise ConfigError(f"--set {override!r}: {commented}") from error
                raise ConfigError(f"--set {override!r}: the value is not YAML: {error}") from error
            self.lay_value(key, value, "--set")


def _hint(key: str) -> Any:
    """The type of a key such as ``train.seed``; ``None`` of one that is not there."""
    hint: Any = Config
    for part in key.split("."):
        section = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        fields = field_types(hint) if section else {}
        if part not in fields:
            return None
        hint = fields[part]
    return hint


def _read_value(text: str, hint: Any) -> Any:
    """What stands behind ``key=``: YAML, but text as it is where the key takes text.

    There, too, quotes are left out and ``null`` is null. Where the key takes other things as well,
    text is what YAML takes for text or for nothing but a comment, or cannot read.
    """
    text = text.strip()
    if not takes_text(hint) or text[:1] in ("'", '"') or text.lower() in ("", "null"):
        return read_yaml_value(text)
    if is_text(hint):
        return text
    try:
        value = read_yaml_value(text)
    except yaml.YAMLError:
        return text
    return text if value is None or isinstance(value, str) else value


def _read_chain(path: Path, below: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """``(file, content)`` of a configuration and its bases, in the order in which they are laid.

    Args:
        path: of the configuration.
        below: the files that it is a base of.
    """
    if path.resolve() in below:
        raise ConfigError(f"{path}: base: the chain of bases comes back to this file")
    content = read_yaml(path)
    chain: list[tuple[str, dict[str, Any]]] = []
    for base in bases(content.pop("base", None), str(path)):
        chain += _read_chain(find_beside(path, "base", base), (*below, path.resolve()))
    _rebase_paths(content, path.parent)
    return [*chain, (str(path), content)]


def _rebase_paths(content: dict[str, Any], folder: Path) -> None:
    """Make relative paths to something in ``folder`` absolute.

    The others stay relative to the current folder, such as ``root: data/camvid`` in ``configs/``.
    """
    for section, keys in _PATHS.items():
        values = content.get(section)
        if not isinstance(values, dict):
            continue
        for key in keys:
            if not isinstance(values.get(key), str):
                continue
            with contextlib.suppress(ValueError):  # reported when the value is read
                path = folder / user_path(values[key])
                if path.is_dir() if key == "root" else path.is_file():
                    values[key] = str(path)


def bases(value: Any, source: str) -> list[str]:
    """The files that a key ``base`` names."""
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{source}: base = {value!r}: expected the name of a YAML file, or a list of names"
        )
    return names

"""From files and ``key=value`` strings to a checked :class:`Config`."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reco.config.errors import ConfigError
from reco.config.layering import Layers
from reco.config.rules import Rule, contradictions, rules
from reco.config.sections import Config
from reco.config.yaml_text import flow
from reco.fields import advice, field_types, holds_nothing, nearest, needs_quotes, read_value

# Removed keys: the default, which older files may still have, and the remedy for other values.
_REMOVED = {
    "reco.true_labels": (False, "it served one study (docs/earlier_results.md), at commit 99f6276"),
}

# Prefix of a value that the user has to set; the rest says what is expected.
_REQUIRED = "???"


def load_config(
    files: str | Path | Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    changes: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> Config:
    """Read configuration files, their bases, and ``key=value`` overrides on top.

    Args:
        files: One or several, the later ones over the earlier ones: paths, or names of files in the
            project's ``configs/``.
        overrides: Strings such as ``"train.seed=1"``; values are read as YAML.
        changes: Laid over the files before the overrides, one after another: where each comes from,
            for errors, and its keys, with dots or section by section. A key ``base`` names files
            that lie below the other keys of the change.

    Raises:
        ConfigError: unknown key, wrong type, value out of range, or combination that cannot work.
    """
    config, _ = _load(files, overrides, changes)
    return config


def explain_config(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> str:
    """The resolved configuration as YAML; behind each value, where it came from.

    Arguments and errors as for :func:`load_config`.
    """
    config, origins = _load(files, overrides, ())
    lines: list[tuple[str, str]] = []
    for section, content in config.to_dict().items():
        keys = content if isinstance(content, dict) else {"": content}
        if keys is content:
            lines.append((f"{section}:", ""))
        for key, value in keys.items():
            name = f"{section}.{key}" if key else section
            text = f"{'  ' if key else ''}{key or section}: {flow(value)}"
            origin = origins.get(name, "default")
            if name == "dataset.class_names" and config.dataset.classes:
                origin += ": the names in dataset.classes"
            lines.append((text, f"# {origin}"))
    width = max(len(text) for text, _ in lines if len(text) < 60)
    return "\n".join(f"{text:<{width}}  {origin}".rstrip() for text, origin in lines)


def config_name(files: Sequence[str | Path]) -> str:
    """Folder name of the runs of these files: their names without ending, joined by ``+``.

    The ``config.yaml`` of a run has the name of the folder that the run lies in.
    """
    return "+".join(_name(Path(os.path.abspath(file))) for file in files)


def _name(file: Path) -> str:
    is_of_run = file.name == "config.yaml" and (file.parent / "split.json").is_file()
    return file.parent.parent.name if is_of_run else file.stem


def _load(
    files: str | Path | Sequence[str | Path],
    overrides: Sequence[str],
    changes: Sequence[tuple[str, Mapping[str, Any]]],
) -> tuple[Config, dict[str, str]]:
    """A configuration, and where each key that is not a default came from."""
    files = [files] if isinstance(files, str | Path) else list(files)
    layers = Layers(", ".join(map(str, files)))
    for file in files:
        layers.lay_file(file)
    for source, keys in changes:
        layers.lay_change(source, keys)
    layers.lay_overrides(overrides)
    config = _build_config(layers)
    _require(contradictions(config), config, layers)
    return config, layers.origins


def config_from_dict(
    values: Mapping[str, Any], source: str, overrides: Sequence[str] = ()
) -> Config:
    """Configuration from :meth:`Config.to_dict`, with ``key=value`` overrides on top.

    ``source`` names where it came from in errors. That of a run from before contradicting keys were
    refused is read as that run was.
    """
    layers = Layers(source, values)
    layers.lay_overrides(overrides)
    return _build_config(layers)


def check_option(option: str, value: object, key: str, overrides: Sequence[str]) -> None:
    """Refuse an option of a command that contradicts the value of a key in ``--set``.

    Args:
        option: its name, for the error.
        value: of the option; ``None`` where it was not given.
        key: of a section's field, such as ``dataset.root``.
        overrides: the strings of ``--set``.

    Raises:
        ConfigError: both were given and differ.
    """
    layers = Layers(option)
    layers.lay_overrides(overrides)
    section, _, name = key.partition(".")
    given = layers.values.get(section)
    if value is None or not isinstance(given, Mapping) or name not in given:
        return
    if str(given[name]) != str(value):
        raise ConfigError(f"{option} {value} and --set {key}={given[name]}: expected one of them")


def _keys_by_name() -> dict[str, str]:
    """The dotted key of each field of a section, by its last part; of equal ones the first."""
    return {
        field: f"{section}.{field}"
        for section, hint in reversed(field_types(Config).items())
        if dataclasses.is_dataclass(hint)
        for field in field_types(typing.cast(type, hint))
    }


def _build_config(layers: Layers) -> Config:
    """The configuration of these values, each checked, and the rules between them."""

    def fail(key: str, message: str) -> typing.NoReturn:
        raise layers.error(key, message)

    def build(cls: type[Any], values: Any, prefix: str) -> Any:
        if not isinstance(values, Mapping):
            fail(prefix.rstrip("."), f" = {values!r}: expected a section of `key: value` lines")
        hints = field_types(cls)
        fields = {f.name: f for f in dataclasses.fields(cls)}
        arguments = {}
        for key, value in values.items():
            name = f"{prefix}{key}"
            if name in _REMOVED:
                before, remedy = _REMOVED[name]
                if value != before:
                    fail(name, f" = {value!r}: this key was removed; {remedy}")
                continue
            if isinstance(value, str) and value.startswith(_REQUIRED):
                asked = value.removeprefix(_REQUIRED).strip()
                fail(name, f" has to be set (--set {name}=...): {asked}")
            if key not in fields:
                meant = {**_keys_by_name(), **{field: field for field in fields}}
                fail(name, f": unknown key{nearest(str(key), meant)}")
            if dataclasses.is_dataclass(hints[key]):
                arguments[key] = build(typing.cast(type, hints[key]), value, f"{name}.")
                continue
            try:
                arguments[key] = read_value(value, hints[key])
            except ValueError as error:
                comment = name == "dataset.ignore" and holds_nothing(value)
                hint = f" ({needs_quotes()})" if comment else advice(value, hints[key])
                fail(name, f" = {value!r}: expected {error}{hint}")
        for key, f in fields.items():
            required = f.default is f.default_factory is dataclasses.MISSING
            if required and key not in arguments:
                fail(f"{prefix}{key}", ": missing, and it has no default")
        if arguments.get("classes") and not arguments.get("class_names"):
            arguments["class_names"] = tuple(arguments["classes"])  # their order counts
        return cls(**arguments)

    config: Config = build(Config, layers.values, "")
    _require(rules(config), config, layers)
    return config


def _require(found: Sequence[Rule], config: Config, layers: Layers) -> None:
    """Raise for the first rule that does not hold."""
    for key, holds, expected in found:
        if not holds:
            raise layers.error(key, f" = {config.flat()[key]!r}: expected {expected}")

"""YAML files and values, and what to do about text that YAML takes for something else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from reco.config.errors import ConfigError
from reco.fields import needs_quotes
from reco.paths import read_text

# Keys that take colours, which need quotes in YAML.
COLOUR_KEYS = ("dataset.classes", "dataset.ignore")
_HEX_COLOUR = re.compile(r"(?:0x)?([0-9a-f]{6})", re.IGNORECASE)
_OTHER_BASE = re.compile(r"[-+]?(0[0-9_]+|.*:.*)")  # of whole numbers in YAML
# In a line of text: one of these keys, or a colour as a value of it or of a class.
_COLOUR_IN_TEXT = re.compile(
    r"\b(?P<key>classes|ignore)\s*[:=]|(?<=[:=,[{-])\s*(?P<colour>#(?:[0-9a-f]{6}|[0-9a-f]{3})\b)",
    re.IGNORECASE,
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file; none of an empty one.

    Raises:
        ConfigError: not YAML, not ``key: value`` lines, or a key that is there twice.
    """
    try:
        text = read_text(path)
        loader = _Loader(text)
        node = loader.get_single_node()
        for key in COLOUR_KEYS:  # before its values are read: black is 000000, a number to base 8
            refuse_unquoted_colours(_below(node, key.split(".")), f"{path}: {key}")
        content = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        if commented := commented_colour(text):
            raise ConfigError(f"{path}: {commented}") from error
        mark = getattr(error, "problem_mark", None)
        line = text.splitlines()[mark.line :][:1] if mark else []
        unquoted = any(re.search(r":\s+(\*\.|\{\w+\})", text) for text in line)
        hint = '; a pattern needs quotes: "{stem}.jpg", "*.jpg"' if unquoted else ""
        what = "" if isinstance(error, yaml.constructor.ConstructorError) else "not a YAML file: "
        raise ConfigError(f"{path}: {what}{error}{hint}") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, got {content!r}")
    return content


def read_yaml_value(text: str) -> Any:
    """The value that ``text`` is in YAML.

    Raises:
        yaml.YAMLError: none, or what :func:`read_yaml` refuses.
    """
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys, of which YAML takes the last silently.

    It also refuses whole numbers that YAML reads to another base: 010 (8) and 1:30 (90).
    """

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = int(super().construct_yaml_int(node))
        if _OTHER_BASE.fullmatch(node.value):
            raise yaml.constructor.ConstructorError(
                problem=f"YAML takes {node.value} for the number {number}: expected digits that do "
                f'not begin with 0 or, where it is text, "{node.value}" in quotes',
                problem_mark=node.start_mark,
            )
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def commented_colour(text: str) -> str:
    """What to do about a colour that YAML takes for a comment, and where it is; empty if none is.

    Args:
        text: of a file that is not YAML: where the rest of a line is a comment, a bracket is open.
    """
    key, lines = None, text.splitlines()
    for number, line in enumerate(lines, 1):
        for found in _COLOUR_IN_TEXT.finditer(line):
            if found["key"]:
                key = found["key"]
            elif key:
                line_number = f" in line {number}" if len(lines) > 1 else ""
                return f"dataset.{key}{line_number}: {needs_quotes(found['colour'])}"
    return ""


def _below(node: yaml.Node | None, keys: Sequence[str]) -> yaml.Node | None:
    """The node that ``keys`` lead to."""
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for name, value in pairs if name.value == key), None)
    return node


def refuse_unquoted_colours(node: yaml.Node | None, where: str) -> None:
    """Raise for six hex digits without quotes, such as 0x804080: YAML takes most for numbers."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            refuse_unquoted_colours(value, f"{where}: {name.value}")
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            refuse_unquoted_colours(item, where)
    elif (
        isinstance(node, yaml.ScalarNode)
        and node.style is None  # no quotes
        and (found := _HEX_COLOUR.fullmatch(node.value))
    ):
        raise ConfigError(f'{where} = {node.value}: a colour needs quotes and #: "#{found[1]}"')


def flow(value: Any) -> str:
    """A value as one line of YAML, in its own order: that of classes counts."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("...\n").strip()

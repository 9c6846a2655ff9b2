"""Write docs/configuration.md: every key of a configuration, from the dataclasses.

    python benchmarks/configuration.py
    python benchmarks/configuration.py --write

The first command compares the page with the classes and exits with 1 if they differ.
The meaning of a key is the comment behind its line or directly above it in sections.py, or the
``Args`` of its class's docstring.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from reco.config import FOLDER_KEYS, NOT_THE_EXPERIMENT, Config, PathText
from reco.fields import Check, field_types
from reco.markdown import markdown_table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

_INTRODUCTION = """\
# Configuration

<!-- Made by `python benchmarks/configuration.py --write` from the comments in
reco/config/sections.py, and for `reco` from the docstring of ReCoOptions in reco/loss.py: edit
these. -->

An experiment is one or several YAML files and `key=value` overrides. Later files override earlier
ones, and `--set` overrides all of them:

```
reco train --config camvid_5shot.yaml --set dataset.root=/data/camvid train.seed=1
reco train --config camvid_5shot.yaml my.yaml --set dataset.root=/data/camvid --show
```

The first command trains and needs CamVid. The second one needs no data: `--show` prints the whole
configuration and the file that each value comes from. A file may begin with `base: other.yaml` and
then states only what differs. Configuration files are looked up as paths, then by name in
`configs/`.

Relative paths to data, lists and weights in a file start from that file; if nothing is there, from
the current folder. `output_dir` and paths behind `--set` start from the current folder. `~` and
`$VARIABLES` are filled in. Unknown keys, values of another type and combinations that cannot work
are errors that name the file and the key.

Keys marked † change no number of a run. They may differ when a run is resumed, and are not part of
the hash that names its folder.
"""

_NAMES = {int: "whole number", float: "number", bool: "true, false", str: "text"}


def page() -> str:
    """The whole page as Markdown."""
    parts = [_INTRODUCTION]
    sections: dict[str, Any] = {
        k: hint for k, hint in field_types(Config).items() if dataclasses.is_dataclass(hint)
    }
    for section, cls in sections.items():
        summary = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
        names = [field.name for field in dataclasses.fields(cls)]
        folder = [name for name in names if section == "dataset" and name in FOLDER_KEYS]
        shared = [name for name in names if name not in folder]
        parts += [
            f"## {section}\n",
            _plain_text(summary),
            "",
            keys_table(cls, shared, f"{section}."),
        ]
        if folder:
            parts += ["Of `folder` data sets alone ([your own images](own_images.md)):\n"]
            parts += [keys_table(cls, folder, f"{section}.")]
    others = [field.name for field in dataclasses.fields(Config) if field.name not in sections]
    return "\n".join([*parts, "## Outside the sections\n", keys_table(Config, others, "")])


def keys_table(cls: type[Any], names: Sequence[str], prefix: str) -> str:
    """The fields ``names`` of a dataclass, a row each; ``prefix`` is the section with its dot."""
    hints, meanings = field_types(cls), _meanings(cls)
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    rows = []
    for name in names:
        if name not in meanings:
            raise ValueError(f"{prefix}{name}: expected a comment behind it in its class")
        required = defaults[name] is dataclasses.MISSING
        rows += [
            [
                f"`{prefix}{name}`{' †' if prefix + name in NOT_THE_EXPERIMENT else ''}",
                describe(hints[name]),
                "required" if required else f"`{_yaml(defaults[name])}`",
                re.sub("^[a-z]", lambda first: first[0].upper(), meanings[name]),
            ]
        ]
    return markdown_table(["key", "value", "default", "meaning"], rows) + "\n"


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


def describe(hint: Any) -> str:
    """What values a field of type ``hint`` takes, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint == PathText:
        return "path"
    if origin is Annotated:
        return _checked(describe(arguments[0]), arguments[1:])
    if origin is Literal:
        return ", ".join(f"`{_yaml(option)}`" for option in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {describe(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(map(describe, arguments))}]"
    if origin is dict:
        return f"{{{describe(arguments[0])}: {describe(arguments[1])}}}"
    return "`null`" if hint is types.NoneType else _NAMES[hint]


def _checked(base: str, checks: Sequence[Any]) -> str:
    """``base`` with the expectations of its checks; one that begins with "a …" replaces it."""
    for check in checks:
        assert isinstance(check, Check)
        article, _, rest = check.expected.partition(" ")
        base = rest if article in ("a", "an") else f"{base}, {check.expected}"
    return base


def _meanings(cls: type[Any]) -> dict[str, str]:
    """Meanings of the keys of a dataclass and of its bases, by name."""
    meanings: dict[str, str] = {}
    for part in reversed(cls.__mro__[:-1]):
        arguments = re.search(
            r"Args:\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(part.__doc__ or ""), re.S
        )
        for name, text in re.findall(
            r"^ {4}(\w+): (.*(?:\n {8}.*)*)", arguments[1] if arguments else "", re.MULTILINE
        ):
            meanings[name] = _plain_text(re.sub(r"\s+", " ", text)).removesuffix(".")
        meanings |= _comments(part)
    return meanings


def _comments(cls: type[Any]) -> dict[str, str]:
    """The comment behind each field of a class, or else the lines of comment directly above it."""
    source = inspect.getsource(cls)
    lines = source.splitlines()
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    comments = {}
    for node in tree.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        assert node.end_lineno is not None
        line = lines[node.end_lineno - 1].encode()[node.end_col_offset or 0 :].decode()
        first = node.lineno - 1
        while lines[first - 1].strip().startswith("#"):
            first -= 1
        above = " ".join(text.strip().removeprefix("# ") for text in lines[first : node.lineno - 1])
        if text := line.strip().removeprefix("# ") or above:
            comments[node.target.id] = text.removesuffix(".")
    return comments


def _plain_text(text: str) -> str:
    """Markdown of a docstring."""
    text = re.sub(r":\w+:`[\w.]*?\.?(\w+)`", r"`\1`", text)
    return text.replace("``", "`").strip().removesuffix(".") + "."


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="bring the page up to date")
    if parser.parse_args(words).write:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        print(f"{PAGE}: differs from reco/config/sections.py; use --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

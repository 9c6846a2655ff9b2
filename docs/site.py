"""Hook of mkdocs: the README is the first page, and files beside it are pages as well."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).resolve().parent.parent
_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
_LINK = re.compile(r"\]\((?!http)([^)#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of the top folder, with links that fit the site."""
    for source, page in _PAGES.items():
        text = (_ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_LINK.sub(_target, text)))
    files.append(File.generated(config, "CITATION.cff", abs_src_path=str(_ROOT / "CITATION.cff")))
    return files


def _target(found: re.Match[str]) -> str:
    """A link of a document in the top folder, as one of a page in ``docs/``."""
    return f"]({found[1].removeprefix('docs/')}"

"""Paths and text as users write them."""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path


def user_path(text: str | Path) -> Path:
    """The path that a user wrote, with ``~`` and ``$VARIABLES`` filled in.

    Raises:
        ValueError: an empty path, a variable that is not set, or the home folder of no user.
    """
    text = str(text)
    if not text:
        raise ValueError("a path that is not empty")
    path = os.path.expanduser(os.path.expandvars(text))
    if os.path.lexists(path):
        return Path(path)
    for name in re.findall(r"\$\{?(\w+)", text, re.ASCII):
        if name not in os.environ:
            raise ValueError(f"a path whose variables are set; the variable {name} is not")
    if path.startswith("~"):
        name = Path(path).parts[0]
        raise ValueError(f"a path; {name} is no user's home folder (./{name} would be a name)")
    return Path(path)


def checkpoint_file(path: str | Path) -> Path:
    """The checkpoint that a user names: a file, or a run's folder, which stands for ``last.pt``."""
    path = Path(path)
    return path / "last.pt" if path.is_dir() else path


def read_text(path: Path) -> str:
    """The text of a file that a user wrote: UTF-8, or UTF-16 as some editors of Windows save it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such text; the message names the file.
    """
    content = path.read_bytes()
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error}); save it in UTF-8") from error
    if "\0" in text:
        raise ValueError(f"{path}: holds zero bytes, so it is not text in UTF-8; save it in UTF-8")
    return text


def read_lines(path: Path) -> list[str]:
    """The lines of a list, by :func:`read_text`: without blanks around them and without empty ones.

    Every list file is read by this: of ids, of images, of classes.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]

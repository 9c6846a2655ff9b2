"""Packages that only some commands need."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(name: str, purpose: str) -> Any:
    """The module ``name``, such as ``scipy.stats``.

    Raises:
        ImportError: its package is missing; names ``purpose`` and what to install.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f"{purpose} needs {package}: pip install {package}") from error

"""Seeds that are the same in every process and on every machine."""

from __future__ import annotations

import hashlib
import json


def stable_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) made of ``parts``; unlike Python's ``hash`` it never changes."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
